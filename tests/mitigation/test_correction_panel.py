"""The real models, tiny and random, through the loop: every question is asked, every answer is read."""

from __future__ import annotations

import numpy as np
import pytest

from artiagent.checkpoints import checkpoint_ref
from artiagent.config import CorrectionSection, EvaluationSection, RewardSection
from artiagent.evaluation.parsing import STATUSES
from artiagent.inspection.findings import Picture
from artiagent.learning.reward import train_reward
from artiagent.mitigation.correction.loop import correct_images
from artiagent.mitigation.correction.panel import Models, open_panel
from artiagent.records import Pair
from artiagent.store import DatasetWriter, Row
from tests.learning.conftest import make_pair
from tests.mitigation.inpainter_folders import write_inpainters

SECTION = CorrectionSection(
    threshold=1e-6, candidates=1, refine=1, proposals=2, rounds=1, steps=1, threads=1, device="cpu", size=64
)


@pytest.fixture(scope="module")
def models(tiny_vlm, tmp_path_factory) -> Models:
    root = tmp_path_factory.mktemp("panel")
    rng = np.random.default_rng(0)
    writer: DatasetWriter[Pair] = DatasetWriter(root / "curated", "curated", ("clean", "artifact"))
    made = [make_pair(k, rng) for k in range(24)]
    writer.write("all", [Row(pair.job_id, pair, images) for pair, images in made])
    learning = RewardSection(epochs=1, resamples=100, threads=1, device="cpu", val_share=0.3)
    reward = train_reward(learning, writer.finish(), tiny_vlm, root / "reward")
    inpainter = checkpoint_ref("fill", str(write_inpainters(root / "flux") / "fill"))
    return Models(inpainter, reward, tiny_vlm)


def test_the_real_models_take_part(models):
    panel = open_panel(SECTION, EvaluationSection(threads=1, device="cpu"), models)
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    told = panel.witness([pixels])[0]
    assert told.status in STATUSES
    (found,) = correct_images(SECTION, panel, [Picture("x.png", "x", pixels)])
    (turn,) = found.record.rounds
    assert turn.candidates and all(one.verifier is not None for one in turn.candidates)
    assert found.record.outcome in ("corrected", "kept") and found.record.calls == len(turn.candidates)
    changed = (found.image != pixels).any(axis=2)
    assert not (changed if found.record.region is None else changed & ~found.record.region.decode()).any()

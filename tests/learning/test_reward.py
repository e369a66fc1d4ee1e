"""The reward head learns a visible fault, is scored on held-out sources, and is read back as it was written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from artiagent.config import BenchmarkSet, RewardSection
from artiagent.images import decode
from artiagent.learning.reward import (
    PairFeatures,
    RewardHead,
    _with_cross_scene,
    encode_pairs,
    fit_head,
    pairwise_scores,
    rewards,
    train_reward,
)
from artiagent.nano.artibench import write_artibench
from artiagent.records import CheckpointRef, DatasetRef, Interval, Pair
from artiagent.store import read_rows

SECTION = RewardSection(epochs=30, resamples=300, threads=1, device="cpu", val_share=0.3)


@pytest.fixture(scope="module")
def trained(curated: DatasetRef, tiny_clip: CheckpointRef, tmp_path_factory: pytest.TempPathFactory) -> CheckpointRef:
    return train_reward(SECTION, curated, tiny_clip, tmp_path_factory.mktemp("reward"))


def test_held_out_pairs_are_ranked(trained: CheckpointRef, tiny_clip: CheckpointRef) -> None:
    folder = Path(trained.uri)
    scores = {k: Interval.model_validate(v) for k, v in json.loads((folder / "scores.json").read_text()).items()}
    assert scores["within"].value > 0.8 and scores["across"].value > 0.8
    assert 2 <= scores["within"].n < 12, "held-out sources, not pairs"
    config = json.loads((folder / "config.json").read_text())
    assert config["train_pairs"] + config["held_out_pairs"] == 24 and config["clip_sha256"] == tiny_clip.sha256
    curve = json.loads((folder / "training.json").read_text())
    assert len(curve) == SECTION.epochs and curve[-1]["loss"] < curve[0]["loss"]
    assert trained.summary["within_value"] == scores["within"].value


def test_saved_head_gives_the_same_rewards(
    trained: CheckpointRef, curated: DatasetRef, tiny_clip: CheckpointRef
) -> None:
    pairs = encode_pairs(SECTION, curated, tiny_clip)
    images = [decode(row.images["clean"]) for row in read_rows(curated, Pair)]
    found = rewards(trained, tiny_clip, images, "cpu")
    spoilt = rewards(trained, tiny_clip, [decode(row.images["artifact"]) for row in read_rows(curated, Pair)], "cpu")
    assert found.shape == (len(pairs.sources),) and (found > spoilt).mean() > 0.8
    with pytest.raises(ValueError, match="trained on tiny-clip"):
        rewards(trained, tiny_clip.model_copy(update={"sha256": "other"}), images)


def test_a_finished_folder_is_returned_and_foreign_inputs_refused(
    trained: CheckpointRef, curated: DatasetRef, tiny_clip: CheckpointRef
) -> None:
    folder = Path(trained.uri)
    assert train_reward(SECTION, curated, tiny_clip, folder) == trained
    with pytest.raises(ValueError, match="other inputs"):
        train_reward(SECTION.model_copy(update={"seed": 5}), curated, tiny_clip, folder)


def test_pooling_decides_the_features(curated: DatasetRef, tiny_clip: CheckpointRef) -> None:
    pooled = encode_pairs(SECTION.model_copy(update={"pooling": "pooled"}), curated, tiny_clip)
    patches = encode_pairs(SECTION, curated, tiny_clip)
    tokens = encode_pairs(SECTION.model_copy(update={"pooling": "tokens"}), curated, tiny_clip)
    assert pooled.clean.shape == (24, 32) and patches.clean.shape == (24, 96)
    assert torch.allclose(pooled.clean, patches.clean[:, :32])
    assert tokens.clean.shape == (24, 16, 32)
    assert torch.allclose(tokens.clean.float().amax(1), patches.clean[:, 64:], atol=1e-2)


def test_the_worst_token_decides() -> None:
    head = RewardHead(1, 1)
    head.layers = torch.nn.Identity()
    rewards = head(torch.tensor([[[3.0], [3.0], [-9.0]], [[3.0], [3.0], [3.0]]]))
    assert rewards[0].item() == pytest.approx(-9.0, abs=1e-3)
    assert rewards[1].item() == pytest.approx(3.0 - np.log(3), abs=1e-3)


def test_cross_scene_pairs_never_share_a_scene() -> None:
    sources = tuple("aabbcc")
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        first, second = _with_cross_scene(torch.tensor([0, 1]), sources, 2, generator)
        assert first[:2].tolist() == second[:2].tolist() == [0, 1] and len(first) == 4
        assert all(sources[a] != sources[b] for a, b in zip(first[2:], second[2:], strict=True))
    alone = _with_cross_scene(torch.tensor([0]), ("a",), 2, generator)
    assert len(alone[0]) == 1


def test_scores_count_by_hand() -> None:
    """Rewards are the single feature itself: source a has pairs (3 > 1) and (1 < 2), source b has (2 = 2)."""
    head = RewardHead(1, 1)
    head.layers = torch.nn.Identity()
    held = PairFeatures(torch.tensor([[3.0], [1.0], [2.0]]), torch.tensor([[1.0], [2.0], [2.0]]), ("a", "a", "b"))
    scores = pairwise_scores(SECTION, head, held)
    assert scores["within"].value == pytest.approx(1.5 / 3)
    # clean of a against b's artifact: 3 > 2, 1 < 2; clean of b (2) against a's artifacts 1 and 2: a win and a tie
    assert scores["across"].value == pytest.approx((1 + 0 + 1 + 0.5) / 4)


def test_training_is_reproducible_and_needs_two_splits(
    curated: DatasetRef, tiny_clip: CheckpointRef, tmp_path: Path
) -> None:
    pairs = encode_pairs(SECTION, curated, tiny_clip)
    first, second = (fit_head(SECTION, pairs)[0](pairs.clean).detach().numpy() for _ in range(2))
    assert np.array_equal(first, second)
    with pytest.raises(ValueError, match="held-out sources"):
        train_reward(SECTION.model_copy(update={"val_share": 1e-9}), curated, tiny_clip, tmp_path)


def test_the_benchmark_enters_scores_and_identity(
    curated: DatasetRef, tiny_clip: CheckpointRef, tmp_path: Path
) -> None:
    write_artibench(tmp_path / "bench", 8, encode=lambda images: images)
    benchmark = BenchmarkSet(name="drawn", path=str(tmp_path / "bench" / "drawn.parquet"))
    section = SECTION.model_copy(update={"epochs": 1, "resamples": 100})
    made = train_reward(section, curated, tiny_clip, tmp_path / "reward", benchmark)
    assert 0 <= made.summary["benchmark_auroc_value"] <= 1
    with pytest.raises(ValueError, match="other inputs"):
        train_reward(section, curated, tiny_clip, tmp_path / "reward")

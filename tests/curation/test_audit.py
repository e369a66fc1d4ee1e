from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from artiagent.config import CurationSection
from artiagent.curation import audit
from artiagent.curation.audit import auroc, probe_regions, sample, shortcut_audit
from artiagent.curation.case import Case
from artiagent.curation.change import target_mask
from artiagent.curation.funnel import AUDIT
from artiagent.curation.stage import curate
from artiagent.curation.traces import block_traces, region_traces
from artiagent.images import decode, encode
from artiagent.records import CheckpointRef, Pair

Leak = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def _stream(cases: list[Case], leak: Leak | None = None) -> Iterator[tuple[Pair, np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    for case in cases:
        artifacts = tuple(a.model_copy(update={"accepted": not case.pair.benign}) for a in case.pair.artifacts)
        pair = case.pair.model_copy(update={"artifacts": artifacts})
        image = case.image
        if leak is not None and not pair.benign:
            image = leak(image, pair.artifacts[0].region.decode(), rng)
        yield pair, case.clean, image


def _noise_outside(image: np.ndarray, region: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a decoder leaves far from an edit when the background is not put back."""
    noisy = np.clip(image + rng.normal(0, 1.5, image.shape).round(), 0, 255).astype(np.uint8)
    return np.where(region[..., None], image, noisy)


def _jpeg(image: np.ndarray, region: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return decode(encode(image, "jpeg"))


def test_pairs_with_equal_backgrounds_show_no_shortcut(many_cases: list[Case]) -> None:
    report = shortcut_audit(_stream(many_cases), resamples=100, upper=0.58)
    assert report["verdict"] == "insufficient n"  # 90 pairs do not suffice to pass
    for probe in report["probes"].values():
        assert (probe["low"], probe["auroc"], probe["high"]) == (0.5, 0.5, 0.5) and probe["n"] >= 80


@pytest.mark.parametrize("leak", [_noise_outside, _jpeg])
def test_a_planted_leak_is_flagged_everywhere(many_cases: list[Case], leak: Leak) -> None:
    report = shortcut_audit(_stream(many_cases, leak), resamples=100, upper=0.58)
    assert report["verdict"] == "fail"
    for name, probe in report["probes"].items():
        assert probe["auroc"] > 0.8 and probe["verdict"] == "fail", name


def test_the_edge_of_artifacts_is_reported_beside_that_of_benign_injections(many_cases: list[Case]) -> None:
    """The paste leaves the edge alone, so only a leak that covers it shows, and it decides nothing."""
    plain = shortcut_audit(list(_stream(many_cases))[:60], resamples=100, upper=0.58)["edges"]
    assert {figure["auroc"] for figure in plain.values()} == {0.5}
    leaky = shortcut_audit(list(_stream(many_cases, _jpeg))[:60], resamples=100, upper=0.58)["edges"]
    assert leaky["artifact"]["auroc"] > 0.7 and leaky["benign"]["auroc"] == 0.5


def test_enough_pairs_without_leak_pass_and_too_few_are_not_trained_on(
    many_cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "LEAST_PAIRS", 30)
    assert shortcut_audit(list(_stream(many_cases))[:80], resamples=100, upper=0.58)["verdict"] == "pass"
    few = shortcut_audit(list(_stream(many_cases))[:4], resamples=100, upper=0.58)
    assert few["verdict"] == "insufficient n" and few["probes"]["ring"]["auroc"] is None


def test_rejected_and_unscored_pairs_are_left_out(many_cases: list[Case]) -> None:
    left_out = []
    for pair, clean, image in list(_stream(many_cases, _jpeg))[:40]:
        rejected = [a.model_copy(update={"accepted": False, "reason": "too_similar"}) for a in pair.artifacts]
        left_out.append((pair.model_copy(update={"artifacts": tuple(rejected)}), clean, image))
        left_out.append((pair.model_copy(update={"scored": False}), clean, image))
    report = shortcut_audit([*list(_stream(many_cases))[:40], *left_out], resamples=100, upper=0.58)
    assert all(probe["auroc"] == 0.5 for probe in report["probes"].values())


def test_probes_look_past_the_targets(cases: list[Case]) -> None:
    for pair in (case.pair for case in cases):
        regions = probe_regions(pair)
        recorded = np.logical_or.reduce([a.region.decode() for a in pair.artifacts])
        targets = np.logical_or.reduce([target_mask(a, 128, 128) for a in pair.artifacts])
        assert not ((regions.background | regions.ring | regions.surroundings) & recorded).any()
        assert (regions.background ^ regions.ring ^ recorded).all() and (regions.surroundings & regions.ring).any()
        assert (regions.edge == (recorded & ~targets)).all()


def test_no_trace_of_a_block_depends_on_its_neighbours() -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (32, 40, 3), dtype=np.uint8)
    changed = image.copy()
    changed[8:16, 8:16] = rng.integers(0, 256, (8, 8, 3))
    differs = (block_traces(image) != block_traces(changed)).any(axis=2)
    assert np.argwhere(differs).tolist() == [[1, 1]]
    outside = np.ones((32, 40), bool)
    outside[10:12, 10:12] = False
    same = [region_traces(block_traces(side), outside) for side in (image, changed)]
    assert np.array_equal(*same)
    assert region_traces(block_traces(image), np.zeros((32, 40), bool)) is None


def test_auroc_counts_ordered_pairs() -> None:
    rng = np.random.default_rng(2)
    scores, labels = rng.integers(0, 6, 40).astype(float), rng.random(40) < 0.4
    positive, negative = scores[labels][:, None], scores[~labels][None]
    assert auroc(scores, labels) == pytest.approx(((positive > negative) + 0.5 * (positive == negative)).mean())


def test_of_many_pairs_a_sample_is_audited(stored: tuple, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    section = CurationSection(judge="none", device="cpu", audit_resamples=100)
    nobody = CheckpointRef(name="nobody", uri="nowhere", sha256="0")
    monkeypatch.setattr(audit, "MOST_PAIRS", 7)
    figures = [
        json.loads((Path(curate(section, *stored, nobody, tmp_path / name).uri) / AUDIT).read_text())
        for name in ("one", "two")
    ]
    assert figures[0] == figures[1] and figures[0]["audited"] == 7 < figures[0]["eligible"] <= stored[0].rows
    keys = [f"job-{k}" for k in range(50)]
    assert sample(keys) == sample(reversed(keys)) and len(sample(keys)) == 7 and len(sample(keys[:3])) == 3

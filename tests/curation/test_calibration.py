from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from artiagent.config import CurationSection
from artiagent.curation.calibration import CHART, EVIDENCE, PAGE, Edit, Window, calibrate, evidence_of
from artiagent.curation.perceptual import load_metric
from artiagent.images import decode
from artiagent.nano.drawn_pairs import write_filter_test
from artiagent.records import DatasetRef, Pair
from artiagent.store import read_rows

OPTIONS = {"loss": 0.02, "resamples": 200, "seed": 3}


def _edits(kind: str, similarities: np.ndarray, per_source: int = 1) -> list[Edit]:
    return [Edit(kind, f"{kind}-{i // per_source}", float(s)) for i, s in enumerate(similarities)]


@pytest.fixture(scope="module")
def known_truth() -> list[Edit]:
    """Faults at .4 to .7, harmless edits at .8 and above; injected distortions over all of it."""
    rng = np.random.default_rng(0)
    return [
        *_edits("drawn fault", rng.uniform(0.4, 0.7, 100)),
        *_edits("harmless: shaded", rng.uniform(0.8, 1, 60)),
        *_edits("injected strip", rng.uniform(0.3, 0.9, 60), per_source=3),
    ]


def test_the_window_lies_where_the_truth_lies(known_truth: list[Edit]) -> None:
    found = evidence_of(known_truth, Window(0.4, 0.79), **OPTIONS)
    low, high = found["proposed"]
    assert 0.4 <= low <= 0.42 and 0.78 <= high < 0.82
    assert found["low"]["low"] <= low <= found["low"]["high"] and found["high"]["low"] <= high <= found["high"]["high"]
    assert found["verdict"].startswith("supported")
    assert found["kinds"]["drawn fault"]["proposed"]["value"] >= 0.98
    assert found["kinds"]["harmless: shaded"]["proposed"]["value"] == 0
    assert found["kinds"]["injected strip"]["sources"] == 20 and found["kinds"]["injected strip"]["n"] == 60


def test_a_window_in_the_wrong_place_is_not_supported(known_truth: list[Edit]) -> None:
    found = evidence_of(known_truth, Window(0.6, 0.95), **OPTIONS)
    assert found["verdict"].startswith("not supported")
    assert found["held_out"]["difference"]["low"] > 0.2


def test_the_proposal_is_tried_on_sources_it_was_not_fitted_on() -> None:
    """Faults and harmless edits alike: what the rule gains on its own sources is luck, and must not be reported."""
    rng = np.random.default_rng(1)
    edits = [*_edits("drawn fault", rng.uniform(0, 1, 40)), *_edits("harmless: shaded", rng.uniform(0, 1, 40))]
    held_out = evidence_of(edits, Window(0, 1), **OPTIONS)["held_out"]
    assert held_out["configured"]["value"] == 0
    assert held_out["difference"]["low"] < 0 < held_out["difference"]["high"]


def test_without_known_truth_quantiles_and_no_verdict() -> None:
    found = evidence_of(_edits("injected jitter", np.linspace(0.2, 0.9, 101)), Window(0.3, 0.8), **OPTIONS)
    assert found["proposed"] == [0.21, 0.89] and found["held_out"] is None
    assert found["verdict"].startswith("undecided") and "quantiles" in found["rule"]


@pytest.mark.parametrize("kind", ["drawn fault", "harmless: shaded", "benign injection"])
def test_a_group_that_is_missing_is_named(kind: str) -> None:
    with pytest.raises(ValueError, match=r"no (drawn fault|harmless|injected) among the 5 edits"):
        evidence_of(_edits(kind, np.linspace(0.2, 0.9, 5)), Window(0.3, 0.8), **OPTIONS)


def test_pairs_without_truth_are_refused_as_known(stored: tuple[DatasetRef, DatasetRef], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tells no truth about itself"):
        calibrate(CurationSection(), stored[0], stored[0], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_real_pairs(stored: tuple[DatasetRef, DatasetRef], tmp_path: Path) -> None:
    known, _ = write_filter_test(tmp_path / "known", 16, encode=lambda images: images)
    found = calibrate(CurationSection(), stored[0], known, tmp_path / "out", resamples=100)
    assert calibrate(CurationSection(), stored[0], known, tmp_path / "again", resamples=100) == found
    for name in (EVIDENCE, PAGE, CHART):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert json.loads((tmp_path / "out" / EVIDENCE).read_text()) == found
    assert found["data"]["known"] == {"kind": "pairs", "digest": known.digest, "rows": 16}
    assert found["metric"] == "ssim" and found["configured"] == [0.3, 0.8] and "scikit-image" in found["versions"]
    page = (tmp_path / "out" / PAGE).read_text()
    assert "drawn fault" in page and not re.search(r'(?:src|href)="https?:', page)
    # the counts are the data's, the distances the metric's
    assert found["kinds"]["drawn fault"]["n"] == 2 == sum(
        row.record.prompt == "fault" and row.record.artifacts[0].injection.tool == "distort"
        for row in read_rows(known, Pair, ())
    )  # fmt: skip
    metric = load_metric(CurationSection())
    mine = [
        1 - metric.distance(decode(row.images["clean"]), decode(row.images["artifact"]), a.box)
        for row in read_rows(stored[0], Pair)
        for a in row.record.artifacts
        if a.injection.kernel == "strip" and row.record.scored
    ]
    assert found["kinds"]["injected strip"]["n"] == len(mine)
    assert found["kinds"]["injected strip"]["quantiles"][2] == pytest.approx(np.median(mine), abs=1e-4)

"""Accuracies and calibration counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from artiagent.config import RewardSection
from artiagent.learning.reward.pairs import Told
from artiagent.learning.reward.scores import Ranking, by_distance, by_tool, calibration, pairwise

SECTION = RewardSection(resamples=300)


def ranking(clean: list[float], artifact: list[float], sources: str, **told: list) -> Ranking:
    rows = [dict(zip(told, values, strict=True)) for values in zip(*told.values(), strict=True)] or [{}] * len(sources)
    facts = tuple(Told(source, benign=False, **row) for source, row in zip(sources, rows, strict=True))
    return Ranking(np.array(clean), np.array(artifact), facts)


def test_pairwise_by_hand() -> None:
    """Source a has pairs (3 > 1) and (1 < 2), source b has (2 = 2)."""
    found = pairwise(SECTION, ranking([3, 1, 2], [1, 2, 2], "aab"))
    assert found["within"].value == pytest.approx(1.5 / 3) and found["within"].n == 2
    # clean of a against b's artifact: 3 > 2, 1 < 2; clean of b (2) against a's artifacts 1 and 2: a win and a tie
    assert found["across"].value == pytest.approx((1 + 0 + 1 + 0.5) / 4)
    assert found["across"].low <= found["across"].value <= found["across"].high


def test_one_scene_has_nothing_across() -> None:
    assert set(pairwise(SECTION, ranking([1, 2], [0, 0], "aa"))) == {"within"}


def test_tools_and_distances_take_their_own_artifacts() -> None:
    facts = {"tools": [("add",), ("fuse", "add"), ("fuse",), ("remove",)], "distance": [0.1, 0.4, None, 0.2]}
    made = ranking([1, 1, 1, 1], [0, 2, 0, 0], "abcd", **facts)
    tools = by_tool(SECTION, made)
    assert {name: (row["pairs"], row["within"].value) for name, row in tools.items()} == {
        "add": (2, 0.5), "remove": (1, 1.0), "fuse": (2, 0.5),
    }  # fmt: skip
    assert tools["add"]["across"].value == pytest.approx(0.5), "three beat the first artifact, none the second"
    bins = by_distance(SECTION, made)
    assert [(b["low"], b["high"], b["pairs"]) for b in bins] == [(0.1, 0.1, 1), (0.2, 0.2, 1), (0.4, 0.4, 1)]
    assert [b["within"].value for b in bins] == [1.0, 1.0, 0.0]


def test_calibration_of_rewards_that_mean_what_they_say() -> None:
    """Clean rewards 0; artifacts at -log 3 for three of four sources and at +log 3 for one: told .75, right .75."""
    sources = [chr(97 + k) for k in range(20)]
    artifact = [np.log(3) if k % 4 == 0 else -np.log(3) for k in range(20)]
    found = calibration(SECTION, ranking([0.0] * 20, artifact, "".join(sources)))
    (only,) = found["bins"]
    assert only["told"] == pytest.approx(0.75) and only["right"].value == pytest.approx(0.75)
    assert found["ece"] == pytest.approx(0, abs=1e-9) and found["comparisons"] == 20 * 19
    loud = calibration(SECTION, ranking([0.0] * 20, [30 * a for a in artifact], "".join(sources)))
    assert loud["ece"] == pytest.approx(0.25, abs=1e-6), "certain, and right three times of four"

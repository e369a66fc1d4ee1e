"""The verifiers' part of the report shows every figure, also of a single verifier and of a folder without figures."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from artiagent.report.page import environment
from artiagent.report.reward import reward_facts
from artiagent.report.summary import interval_text

HALF = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}
BOTH = {"within": {**HALF, "value": 0.913}, "across": {**HALF, "value": 0.827}}
PAGE = '{% import "reward.html.j2" as verifiers %}{{ verifiers.section(r, interval) }}'


def figures(members: int) -> dict:
    names = ["ensemble", *map(str, range(members))] if members > 1 else ["ensemble"]
    bins = [{"low": 0.9, "high": 0.95, "told": 0.93, "right": {**HALF, "n": 70}}]
    return {
        "pairs": {"train": [21] * members, "held_out": 17, "held_out_sources": 9},
        "verifiers": dict.fromkeys(names, BOTH),
        "tools": {"fuse": {"pairs": 5, **BOTH}},
        "distances": [{"low": 0.1, "high": 0.25, "pairs": 4, "within": HALF}],
        "calibration": {"bins": bins if members > 1 else [], "ece": 0.043, "comparisons": 70},
        "benign": {**HALF, "value": 0.481} if members > 1 else None,
        "benchmarks": {"drawn": dict.fromkeys(names, {**HALF, "value": 0.931})},
    }


def page(folder: Path, members: int | None) -> str:
    curve = [{"stage": "0", "step": k, "loss": 1 / (k + 1), "pair_accuracy": 0.5} for k in range(3)]
    (folder / "training.json").write_text(json.dumps(curve))
    if members:
        (folder / "figures.json").write_text(json.dumps(figures(members)))
    return environment().from_string(PAGE).render(r=reward_facts(folder), interval=interval_text)


def test_two_verifiers(tmp_path: Path) -> None:
    found = page(tmp_path, 2)
    assert "2 reward models, trained on 21 and 21 pairs" in found and "AUROC drawn" in found
    assert found.count("0.913 [0.400, 0.600]") == 4 and found.count("0.931 [0.400, 0.600]") == 3
    assert "fuse" in found and "distance 0.10 to 0.25" in found and "0.481" in found and "by 0.043" in found
    assert len(re.findall(r"<svg", found)) == 3 and "nan" not in found


@pytest.mark.parametrize("members", [1, None])
def test_fewer_facts(tmp_path: Path, members: int | None) -> None:
    found = page(tmp_path, members)
    assert ("1 reward model," in found) == bool(members) and "Control" not in found
    assert len(re.findall(r"<svg", found)) == (3 if members else 1), "the curve is always there"

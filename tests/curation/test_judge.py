from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from artiagent.config import CurationSection
from artiagent.curation.judge import Opinion, View, judge
from artiagent.curation.verdicts import Case
from artiagent.vlm.local import LocalVlm

SECTION = CurationSection(judge_margin=0.1, judge_slack=0.25)


@pytest.mark.parametrize(
    ("tool", "before", "after", "reason"),
    [
        ("add", 0.30, 0.45, None),
        ("add", 0.30, 0.35, "judge_rejected"),
        ("add", 0.90, 0.30, "judge_rejected"),
        ("remove", 0.45, 0.30, None),
        ("remove", 0.30, 0.45, "judge_rejected"),
        ("distort", 0.50, 0.70, None),
        ("distort", 0.50, 0.80, "judge_rejected"),
        ("fuse", 0.90, 0.10, None),
        ("fuse", 0.10, 0.90, "judge_rejected"),
        ("add", math.nan, 0.9, "vlm_error"),
        ("fuse", 0.9, math.inf, "vlm_error"),
    ],
)
def test_the_difference_decides(tool: str, before: float, after: float, reason: str | None) -> None:
    assert Opinion(before, after).reason(tool, SECTION) == reason


def test_both_sides_are_asked_the_canonical_question_about_the_targets_box(tiny_vlm: Path, cases: list[Case]) -> None:
    vlm = LocalVlm(tiny_vlm, device="cpu", threads=1)
    chosen = [c for c in cases if c.pair.artifacts[0].injection.tool == "add"][:3]
    opinions = judge(vlm, [View(c.clean, c.image, c.pair.artifacts[0]) for c in chosen])
    for case, opinion in zip(chosen, opinions, strict=True):
        artifact = case.pair.artifacts[0]
        part, box = artifact.injection.part, ",".join(map(str, artifact.box))  # a 128 px image keeps its pixels
        article = "an" if part[0] in "aeiou" else "a"
        expected = vlm.yes_no([case.clean, case.image], [f"Is there {article} {part} in [{box}]?"] * 2)
        assert np.allclose([opinion.before, opinion.after], expected, atol=1e-5)
        assert opinion.before != opinion.after


def test_a_fusion_is_asked_about_as_the_entity(tiny_vlm: Path, cases: list[Case]) -> None:
    vlm = LocalVlm(tiny_vlm, device="cpu", threads=1)
    case = next(c for c in cases if c.pair.artifacts[0].injection.tool == "fuse")
    artifact = case.pair.artifacts[0]
    entity, box = artifact.injection.entity, ",".join(map(str, artifact.box))
    article = "an" if entity[0] in "aeiou" else "a"
    expected = vlm.yes_no([case.clean], [f"Is there {article} {entity} in [{box}]?"])[0]
    assert judge(vlm, [View(case.clean, case.image, artifact)])[0].before == pytest.approx(expected, abs=1e-5)

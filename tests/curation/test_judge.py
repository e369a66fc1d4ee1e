from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from artiagent.config import CurationSection
from artiagent.curation.case import Case
from artiagent.curation.judge import Opinion, judge_presence, judge_views, load_judge
from artiagent.curation.views import GREY, View, three_views
from artiagent.vlm.local import LocalVlm
from artiagent.vlm.protocol import Answer

SECTION = CurationSection(judge_margin=0.1, judge_slack=0.25)


def view_of(case: Case) -> View:
    return View(case.clean, case.image, case.pair.artifacts[0], f"{case.pair.job_id}:0")


def of_tool(cases: list[Case], tool: str) -> Case:
    return next(c for c in cases if c.pair.artifacts[0].injection.tool == tool)


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
    verdicts = judge_presence(vlm, SECTION, [view_of(c) for c in chosen])
    for case, verdict in zip(chosen, verdicts, strict=True):
        artifact = case.pair.artifacts[0]
        part, box = artifact.injection.part, ",".join(map(str, artifact.box))  # a 128 px image keeps its pixels
        article = "an" if part[0] in "aeiou" else "a"
        before, after = vlm.yes_no([case.clean, case.image], [f"Is there {article} {part} in [{box}]?"] * 2)
        assert verdict.detail == f"P(yes) {before:.2f} -> {after:.2f}" and before != after
        assert verdict.reason == Opinion(before, after).reason("add", SECTION)
        assert [call.key for call in verdict.calls] == [f"{case.pair.job_id}:0/{side}" for side in ("clean", "image")]
        assert {call.prompt for call in verdict.calls} == {"part_in_box@0"}


def test_a_fusion_is_asked_about_as_the_entity(scripted, cases: list[Case]) -> None:
    case = of_tool(cases, "fuse")
    vlm = scripted(lambda r: Answer("Yes", probability=0.5))
    judge_presence(vlm, SECTION, [view_of(case)])
    entity = case.pair.artifacts[0].injection.entity
    assert all(f" {entity} in [" in r.prompt.text for r in vlm.asked) and len(vlm.asked) == 2


def test_an_answer_without_probability_counts_as_certain(scripted, cases: list[Case]) -> None:
    case = of_tool(cases, "add")
    vlm = scripted(lambda r: "yes, there is." if r.key.endswith("image") else "No.")
    (verdict,) = judge_presence(vlm, SECTION, [view_of(case)])
    assert (verdict.reason, verdict.detail) == (None, "P(yes) 0.00 -> 1.00")


def test_a_failed_or_useless_answer_is_a_vlm_error_with_its_reason(scripted, cases: list[Case]) -> None:
    case = of_tool(cases, "add")
    for answer, said in ((Answer(error="timeout"), "timeout"), ("perhaps", "expected Yes or No")):
        vlm = scripted(lambda r, a=answer: a if r.key.endswith("image") else "No")
        (verdict,) = judge_presence(vlm, SECTION, [view_of(case)])
        assert verdict.reason == "vlm_error" and said in verdict.detail and len(verdict.calls) == 2


@pytest.mark.parametrize("tool", ["add", "remove", "fuse"])
def test_three_views_are_judged_by_the_rules_of_the_tool(scripted, cases: list[Case], tool: str) -> None:
    case = of_tool(cases, tool)
    injection = case.pair.artifacts[0].injection
    for said, reason in (("yes", None), ("no", "judge_rejected")):
        vlm = scripted(lambda r, s=said: f'{{"evidence": "one sees it", "verdict": "{s}"}}')
        (verdict,) = judge_views(vlm, SECTION, [view_of(case)])
        assert verdict.reason == reason and verdict.detail == f"judge: {said}, one sees it"
        (request,) = vlm.asked
        assert request.prompt.name == f"judge_{tool}" and len(request.images) == 3
        assert injection.entity in request.prompt.text and (injection.part or "grown into") in request.prompt.text
        assert request.prompt.schema["properties"]["verdict"]["enum"] == ["yes", "no"]


def test_distortions_are_not_asked_about_in_three_views(scripted, cases: list[Case]) -> None:
    chosen = [of_tool(cases, tool) for tool in ("distort", "add", "distort")]
    vlm = scripted(lambda r: '{"evidence": "", "verdict": "no"}')
    verdicts = judge_views(vlm, SECTION, [view_of(c) for c in chosen])
    assert [v.reason for v in verdicts] == [None, "judge_rejected", None] and len(vlm.asked) == 1


def test_an_invalid_judgement_is_a_vlm_error(scripted, cases: list[Case]) -> None:
    vlm = scripted(lambda r: '{"evidence": "x", "verdict": "maybe"}')
    (verdict,) = judge_views(vlm, SECTION, [view_of(of_tool(cases, "add"))])
    assert verdict.reason == "vlm_error" and verdict.calls[0].status == "invalid" and len(vlm.asked) == 2


def test_views_show_the_place_masked_before_and_after(cases: list[Case]) -> None:
    case = of_tool(cases, "remove")
    masked, before, after = three_views(view_of(case))
    artifact = case.pair.artifacts[0]
    targets = np.zeros(case.clean.shape[:2], bool)
    for target in artifact.injection.mapping.targets:
        row, col = divmod(target, artifact.injection.mapping.grid[1])
        targets[row * 8 : row * 8 + 8, col * 8 : col * 8 + 8] = True
    assert (masked[targets] == GREY).all() and np.array_equal(masked[~targets], case.clean[~targets])
    assert before.shape == after.shape and max(before.shape[:2]) == max(case.clean.shape[:2])
    assert not np.array_equal(before, after)


def test_nobody_is_asked_where_the_configuration_says_so(scripted) -> None:
    assert load_judge(CurationSection(judge="none"), scripted(str)) is None
    assert load_judge(CurationSection(), None) is None

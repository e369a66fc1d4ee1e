from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from artiagent.config import CurationSection
from artiagent.curation.case import Case
from artiagent.curation.judge import Verdict
from artiagent.curation.perceptual import load_metric
from artiagent.curation.verdicts import Examiner, undo
from artiagent.curation.views import View
from artiagent.records import AgentCall

CALL = AgentCall(key="k", task="judge", prompt="p@1", prompt_hash="h", model="scripted", status="ok")
LENIENT = CurationSection(
    change_inside_min=0, change_share_min=0, seam_max=1000, ssim_window=(-1, 1), change_outside_max=0
)


class Scripted:
    """Judges as told, call by call (True: convinced); keeps what it was shown."""

    def __init__(self, *answers: Sequence[bool]) -> None:
        self.answers, self.shown = list(answers), []

    def __call__(self, views: Sequence[View]) -> list[Verdict]:
        self.shown.append([view.image for view in views])
        return [Verdict(None if yes else "judge_rejected", "asked", (CALL,)) for yes in self.answers.pop(0)]


def examine(section: CurationSection, judge: Scripted | None, *cases: Case) -> list[Case]:
    return Examiner(section, load_metric(section), judge).decide(cases)


@pytest.fixture
def double(cases: list[Case]) -> Case:
    return next(
        c for c in cases if len(c.pair.artifacts) == 2 and all(a.injection.tool == "remove" for a in c.pair.artifacts)
        or len(c.pair.artifacts) == 2 and {a.injection.tool for a in c.pair.artifacts} <= {"add", "remove"}
    )  # fmt: skip


def test_accepted_artifacts_leave_the_pixels_alone(double: Case) -> None:
    (case,) = examine(LENIENT, Scripted([True, True]), double)
    assert [a.accepted for a in case.pair.artifacts] == [True, True] and case.pair.pasted_back == 0
    assert case.image is double.image
    assert all("asked" in a.detail and a.distance > 0 for a in case.pair.artifacts)


def test_one_failed_artifact_of_two_is_undone_and_the_other_is_judged_again(double: Case) -> None:
    judge = Scripted([False, True], [True])
    (case,) = examine(LENIENT, judge, double)
    failed, kept = case.pair.artifacts
    assert (failed.accepted, failed.reason) == (False, "judge_rejected")
    assert (kept.accepted, kept.reason, case.pair.pasted_back) == (True, None, 1)
    assert case.pair.accepted and case.pair.faults == (kept,)
    undone = failed.region.decode() & ~kept.region.decode()
    assert undone.any() and np.array_equal(case.image[undone], double.clean[undone])
    assert not np.array_equal(double.image[undone], double.clean[undone])
    assert np.array_equal(case.image[kept.mask.decode()], double.image[kept.mask.decode()])
    assert len(judge.shown) == 2 and np.array_equal(judge.shown[1][0], case.image)
    assert len(case.calls) == 3


def test_a_survivor_that_fails_the_second_look_takes_the_pair_down(double: Case) -> None:
    (case,) = examine(LENIENT, Scripted([False, True], [False]), double)
    assert [a.reason for a in case.pair.artifacts] == ["judge_rejected"] * 2
    assert not case.pair.accepted and case.pair.faults == ()


def test_a_pair_without_survivor_keeps_its_pixels_for_the_report(double: Case) -> None:
    (case,) = examine(LENIENT, Scripted([False, False]), double)
    assert not case.pair.accepted and case.pair.pasted_back == 0 and case.image is double.image


def test_what_the_measurements_reject_is_never_asked_about(double: Case) -> None:
    strict = LENIENT.model_copy(update={"change_share_min": 1.0})
    judge = Scripted()
    (case,) = examine(strict, judge, double)
    assert {a.reason for a in case.pair.artifacts} == {"too_similar"} and judge.shown == []


def test_only_distortions_are_held_to_the_perceptual_window(cases: list[Case]) -> None:
    narrow = LENIENT.model_copy(update={"ssim_window": (0.999, 1.0)})
    singles = [c for c in cases if len(c.pair.artifacts) == 1 and not c.pair.benign]
    decided = [c.pair.artifacts[0] for c in examine(narrow, None, *singles)]
    reasons = {(a.injection.tool == "distort", a.reason) for a in decided}
    assert reasons == {(True, "too_damaged"), (False, None)}


def test_benign_pairs_are_clean_and_measured_but_never_judged(cases: list[Case]) -> None:
    benign = [c for c in cases if c.pair.benign]
    decided = examine(CurationSection(), Scripted(), *benign)
    artifacts = [c.pair.artifacts[0] for c in decided]
    assert not any(a.accepted for a in artifacts)
    assert {a.reason for a in artifacts} == {None, "too_damaged"}
    assert all(a.change_inside <= 0.03 for a in artifacts if a.reason is None)


def test_undo_cuts_the_survivors_tight_mask(double: Case) -> None:
    artifacts = [
        a.model_copy(update={"accepted": i == 1, "mask": double.pair.artifacts[0].region})
        for i, a in enumerate(double.pair.artifacts)
    ]
    pair = double.pair.model_copy(update={"artifacts": tuple(artifacts)})
    survivor = undo(Case(pair, double.clean, double.image)).pair.artifacts[1]
    assert survivor.accepted is None
    assert survivor.mask.decode().sum() < artifacts[1].mask.decode().sum()

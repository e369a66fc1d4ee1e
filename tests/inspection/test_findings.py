"""From a model's free answers to typed findings: every answer has a status, none is dropped."""

from __future__ import annotations

import numpy as np
import pytest

from artiagent.config import EvaluationSection
from artiagent.inspection.findings import Asking, Picture, inspect_pictures
from artiagent.records import Box
from artiagent.vlm.protocol import Answer

ASKING = Asking(EvaluationSection())


def pixels(red: int, height: int = 40, width: int = 48) -> np.ndarray:
    return np.full((height, width, 3), red, np.uint8)


@pytest.mark.parametrize(
    ("boxes", "explanation", "status"),
    [
        ("[[1,2,30,40]]", "The dog has two tails.", ("ok", "ok")),
        ("[]", " \n", ("empty", "no_answer")),
        ("there is one at the left", "x", ("prose", "ok")),
        ("[[30,2,1,40]]", "x", ("invalid_box", "ok")),
        ("[[1,2,30,40]", "x", ("truncated", "ok")),
        ("", "", ("no_answer", "no_answer")),
        (None, None, ("error", "error")),
    ],
)
def test_an_answer_that_cannot_be_read_is_a_row_with_a_status(told, boxes, explanation, status) -> None:
    (one,) = inspect_pictures([Picture("a", "s", pixels(255))], told(boxes, explanation), ASKING)
    assert one.verdict == "artifacts"
    assert (one.status["localization"], one.status["explanation"]) == status
    assert one.boxes == ((Box(1, 2, 30, 40),) if status[0] == "ok" else ())


def test_boxes_and_explanations_are_asked_for_flagged_images_only(told) -> None:
    rows = inspect_pictures([Picture(str(red), "s", pixels(red)) for red in (0, 255, 127, 128)], told(), ASKING)
    assert [row.verdict for row in rows] == ["clean", "artifacts", "clean", "artifacts"]
    assert [sorted(row.status) for row in rows[:2]] == [["detection"], ["detection", "explanation", "localization"]]
    assert rows[0].boxes == () and rows[0].explanation == "" and rows[0].score == 0


@pytest.mark.parametrize(
    ("answer", "verdict", "status"),
    [
        (Answer("Yes."), "artifacts", "ok"), (Answer("no"), "clean", "ok"), (Answer("Maybe"), "unanswered", "prose"),
        (Answer(error="timeout"), "unanswered", "error"), (Answer(error="truncated"), "unanswered", "truncated"),
    ],
)  # fmt: skip
def test_a_server_without_probabilities_is_taken_at_its_word(told, answer, verdict, status) -> None:
    class Worded(told):
        def judge(self, chance: float) -> Answer:
            return answer

    (one,) = inspect_pictures([Picture("a", "s", pixels(255))], Worded(), ASKING)
    assert (one.verdict, one.score, one.status["detection"]) == (verdict, None, status)
    if not answer.error:
        with pytest.raises(ValueError, match="tells no probabilities"):
            inspect_pictures([Picture("a", "s", pixels(255))], Worded(), ASKING._replace(threshold=0.9))


def test_large_images_are_asked_about_in_turns(told) -> None:
    vlm = told()
    large = np.zeros((5000, 5000, 3), np.uint8)
    rows = inspect_pictures((Picture(str(i), "s", large) for i in range(5)), vlm, ASKING)
    assert [row.image for row in rows] == list("01234")
    assert vlm.asked == [3, 2]  # 64 million pixels at a time


def test_what_cannot_be_read_or_shown_is_a_row_with_a_reason(told) -> None:
    rows = inspect_pictures(
        [
            Picture("a", "", None, "unreadable: gone"), Picture("b", "s", pixels(9)),
            Picture("c", "s", pixels(9, 2, 900)),
        ],
        told(),
        ASKING,
    )  # fmt: skip
    assert [(row.verdict, row.reason) for row in rows] == [
        ("unread", "unreadable: gone"), ("clean", ""), ("unread", "cannot be shown to the model: too long"),
    ]  # fmt: skip

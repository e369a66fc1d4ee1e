"""Strict parsing: what is accepted, and the status of what is not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artiagent.evaluation.parsing import (
    MOST_BOXES,
    STATUSES,
    parse_boxes,
    parse_explanation,
    parse_said_verdict,
    parse_verdict,
    status_of_error,
)
from artiagent.instruction.coordinates import CoordinateSpace
from artiagent.instruction.prompts import format_boxes
from artiagent.records import Box

SAME = CoordinateSpace(128, 128, 128, 128)
WHOLE = 10**400  # no float holds it


@pytest.mark.parametrize(
    ("answer", "boxes", "status"),
    [
        ("[[8,8,16,24]]", (Box(8, 8, 16, 24),), "ok"),
        ('```json\n[{"bbox_2d": [8, 8, 16, 24], "label": "ear"}]\n```', (Box(8, 8, 16, 24),), "ok"),
        ("```\n[[8,8,16,24]]\n```\n", (Box(8, 8, 16, 24),), "ok"),
        ("[[-2,0,130,24]]", (Box(0, 0, 128, 24),), "ok"),  # sticks out by a rounding: clipped
        ("[]", (), "empty"),
        ("", (), "no_answer"),
        (" \n", (), "no_answer"),
        ("There are none.", (), "prose"),
        ("[[8,8,16,24]] and more", (), "prose"),
        ("The boxes: [[8,8,16,24]]", (), "prose"),
        ("```json\n[[8,8,16,24]]\n```\nI hope it helps.", (), "prose"),
        ("耳朵多了一只", (), "prose"),
        ("[[8,8,16,24],[1,2", (), "truncated"),
        ("```json\n[[8,8,16,24]", (), "truncated"),
        ('[{"bbox_2d": [8,8,16,24], "label": "an [ear', (), "truncated"),
        ("[" * 100_000, (), "truncated"),
        ("[[8,8,16,24],]", (), "trailing_comma"),
        ("```json\n[[8,8,16,24,]]\n```", (), "trailing_comma"),
        ("[[8,8,16 24]]", (), "unparsable"),
        ("[[8,,16,24]]", (), "unparsable"),
        ("[" * 50_000 + "]" * 50_000, (), "unparsable"),
        ("[8,8,16,24]", (), "wrong_schema"),
        ('{"bbox_2d": [8,8,16,24]}', (), "wrong_schema"),
        ('[{"box": [8,8,16,24]}]', (), "wrong_schema"),
        ('["8,8,16,24"]', (), "wrong_schema"),
        ("null", (), "wrong_schema"),
        ("[[16,8,8,24]]", (), "invalid_box"),
        ("[[8,8,16]]", (), "invalid_box"),
        ("[[]]", (), "invalid_box"),
        ("[[[8,8,16,24]]]", (), "invalid_box"),
        ('[["a",8,16,24]]', (), "invalid_box"),
        ("[[false,false,true,true]]", (), "invalid_box"),
        ("[[8,8,16,24],[5,5,5,9]]", (), "invalid_box"),
        ("[[8,8,1e999,24]]", (), "invalid_box"),
        ("[[8,8,NaN,24]]", (), "invalid_box"),
        ("[[0.1,0.2,0.5,0.6]]", (), "wrong_space"),
        ("[[0,0,1.0,1]]", (), "wrong_space"),
        ("[[0,0,1,1]]", (Box(0, 0, 1, 1),), "ok"),
        ("[[8,8,16,24],[300,300,700,900]]", (), "wrong_space"),
        ("[[-90,8,16,24]]", (), "wrong_space"),
        (f"[[8,8,{WHOLE},24]]", (), "wrong_space"),
    ],
)
def test_boxes(answer: str, boxes: tuple[Box, ...], status: str) -> None:
    assert parse_boxes(answer, SAME) == (boxes, status)
    if status in ("ok", "empty", "invalid_box", "wrong_space"):  # the same list under a key
        value = answer.strip().removeprefix("```").removeprefix("json").removesuffix("```").strip()
        assert parse_boxes(f'{{"boxes": {value}}}', SAME, "boxes") == (boxes, status)
        assert parse_boxes(answer, SAME, "boxes") == ((), "wrong_schema")


def test_a_hundred_boxes_are_kept_and_told() -> None:
    rows = [[k, k, k + 8, k + 8] for k in range(100)]
    boxes, status = parse_boxes(json.dumps(rows), SAME)
    assert status == "too_many" and boxes == tuple(Box(*row) for row in rows)
    assert parse_boxes(json.dumps(rows[:MOST_BOXES]), SAME)[1] == "ok"


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ('{"boxes": [[8,8,16,24]], "note": "an ear"}', "wrong_schema"),
        ('{"box": [[8,8,16,24]]}', "wrong_schema"),
        ('{"boxes": {"0": [8,8,16,24]}}', "wrong_schema"),
        ('{"boxes": [[8,8,16,24]],}', "trailing_comma"),
        ('{"boxes": [[8,8,16', "truncated"),
        ('Here: {"boxes": []}', "prose"),
        ('{"boxes": []}', "empty"),
    ],
)
def test_boxes_under_a_key_follow_the_schema(answer: str, status: str) -> None:
    assert parse_boxes(answer, SAME, "boxes") == ((), status)


@given(st.integers(0, 600), st.integers(0, 440), st.integers(8, 40), st.integers(8, 40))
def test_boxes_come_back_to_source_pixels(x: int, y: int, width: int, height: int) -> None:
    """640x480 under the paper's budget of 262,144 pixels is read at 588x448 (or so): half a unit is lost at most."""
    space = CoordinateSpace(640, 480, 588, 448)
    box = Box(x, y, x + width, y + height)
    found, status = parse_boxes(format_boxes([space.to_model(box)]), space)
    assert status == "ok" and max(abs(a - b) for a, b in zip(found[0], box, strict=True)) <= 1


NUMBERS = st.one_of(st.integers(), st.floats(), st.integers(0, 128))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(["boxes", "bbox_2d", "x"]), inner),
)
ANSWERS = st.one_of(
    st.text(),
    st.text(alphabet='[]{}",:0123456789.-eEnulltrefa`json \\\n'),
    VALUES.map(json.dumps),
    st.lists(st.lists(NUMBERS, min_size=4, max_size=4), min_size=1).map(json.dumps),
    st.tuples(VALUES.map(json.dumps), st.integers(0, 30)).map(lambda pair: pair[0][: pair[1]]),
)


@given(ANSWERS, st.sampled_from([None, "boxes"]))
def test_no_text_makes_the_parser_raise(answer: str, key: str | None) -> None:
    boxes, status = parse_boxes(answer, SAME, key)
    assert status in STATUSES and bool(boxes) == (status in ("ok", "too_many"))
    assert all(0 <= b.x0 < b.x1 <= 128 and 0 <= b.y0 < b.y1 <= 128 for b in boxes)
    verdict, said = parse_said_verdict(answer, key)
    assert (verdict is None) == (said != "ok") and said in STATUSES
    text, told = parse_explanation(answer, key)
    assert bool(text) == (told == "ok") and told in STATUSES


def test_verdicts_from_probabilities() -> None:
    assert parse_verdict(0.5) == (True, "ok") and parse_verdict(0.49) == (False, "ok")
    assert parse_verdict(None) == parse_verdict(float("nan")) == (None, "unparsable")


@pytest.mark.parametrize(
    ("answer", "key", "verdict", "status"),
    [
        ("Yes", None, True, "ok"),
        ("**No**, it looks fine.", None, False, "ok"),
        ("Yesterday", None, None, "prose"),
        ("Perhaps yes", None, None, "prose"),
        ("", None, None, "no_answer"),
        ('{"artifacts": true}', "artifacts", True, "ok"),
        ('```json\n{"artifacts": false}\n```', "artifacts", False, "ok"),
        ('{"artifacts": "true"}', "artifacts", None, "wrong_schema"),
        ('{"artifacts": 1}', "artifacts", None, "wrong_schema"),
        ('{"artifacts": true, "why": "an ear"}', "artifacts", None, "wrong_schema"),
        ("Yes", "artifacts", None, "prose"),
        ('{"artifacts": tr', "artifacts", None, "truncated"),
    ],
)
def test_verdicts_that_are_said(answer: str, key: str | None, verdict: bool | None, status: str) -> None:
    assert parse_said_verdict(answer, key) == (verdict, status)


def test_explanations() -> None:
    assert parse_explanation(" An  extra\near. ") == ("An extra ear.", "ok")
    assert parse_explanation("一只多余的耳朵。") == (
        "一只多余的耳朵。",
        "ok",
    )  # another language is text: the metrics judge it
    assert parse_explanation(" \n") == ("", "no_answer")
    assert parse_explanation('{"explanation": " An extra ear."}', "explanation") == ("An extra ear.", "ok")
    assert parse_explanation('{"explanation": ""}', "explanation") == ("", "no_answer")
    assert parse_explanation('{"explanation": ["An extra ear."]}', "explanation") == ("", "wrong_schema")
    assert parse_explanation("An extra ear.", "explanation") == ("", "prose")


def test_failed_calls_have_a_status() -> None:
    errors = {"truncated": "truncated", "refused": "refused", "empty": "no_answer", "timeout": "error"}
    assert {error: status_of_error(error) for error in errors} == errors
    assert status_of_error("http 400: too long") == "error"

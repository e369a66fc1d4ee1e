"""Strict parsing: what is accepted, and the status of what is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artiagent.evaluation.parsing import parse_boxes, parse_explanation, parse_verdict
from artiagent.instruction.coordinates import CoordinateSpace
from artiagent.instruction.prompts import format_boxes
from artiagent.records import Box

SAME = CoordinateSpace(128, 128, 128, 128)


@pytest.mark.parametrize(
    ("answer", "boxes", "status"),
    [
        ("[[8,8,16,24]]", (Box(8, 8, 16, 24),), "ok"),
        ('```json\n[{"bbox_2d": [8, 8, 16, 24], "label": "ear"}]\n```', (Box(8, 8, 16, 24),), "ok"),
        ("[]", (), "empty"),
        ("", (), "unparsable"),
        ("There are none.", (), "unparsable"),
        ("[[8,8,16,24],[1,2", (), "unparsable"),
        ("[8,8,16,24]", (), "unparsable"),
        ('{"bbox_2d": [8,8,16,24]}', (), "unparsable"),
        ('[{"box": [8,8,16,24]}]', (), "unparsable"),
        ("[[8,8,16,24]] and more", (), "unparsable"),
        ("[[16,8,8,24]]", (), "invalid_box"),
        ("[[8,8,16]]", (), "invalid_box"),
        ('[["a",8,16,24]]', (), "invalid_box"),
        ("[[8,8,16,24],[5,5,5,9]]", (), "invalid_box"),
        ("[[8,8,1e999,24]]", (), "invalid_box"),
    ],
)
def test_boxes(answer: str, boxes: tuple[Box, ...], status: str) -> None:
    assert parse_boxes(answer, SAME) == (boxes, status)


@given(st.integers(0, 600), st.integers(0, 440), st.integers(8, 40), st.integers(8, 40))
def test_boxes_come_back_to_source_pixels(x: int, y: int, width: int, height: int) -> None:
    """640x480 under the paper's budget of 262,144 pixels is read at 588x448 (or so): half a unit is lost at most."""
    space = CoordinateSpace(640, 480, 588, 448)
    box = Box(x, y, x + width, y + height)
    found, status = parse_boxes(format_boxes([space.to_model(box)]), space)
    assert status == "ok" and max(abs(a - b) for a, b in zip(found[0], box, strict=True)) <= 1


def test_verdicts_and_explanations() -> None:
    assert parse_verdict(0.5) == (True, "ok") and parse_verdict(0.49) == (False, "ok")
    assert parse_verdict(None) == parse_verdict(float("nan")) == (None, "unparsable")
    assert parse_explanation(" An  extra\near. ") == ("An extra ear.", "ok")
    assert parse_explanation(" \n") == ("", "empty")

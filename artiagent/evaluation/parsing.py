"""Free answers of a model -> typed answers with a status; strict, because a lenient parser flatters.

Accepted for boxes: a JSON list of ``[x0, y0, x1, y1]``, or of objects with ``bbox_2d`` (how Qwen2.5-VL was trained to
answer), bare or in one fenced code block. Anything else is unparsable, truncated answers included.
"""

from __future__ import annotations

import json
import math
import re
from typing import Literal

from artiagent.instruction.coordinates import CoordinateSpace
from artiagent.records import Box

Status = Literal["ok", "empty", "unparsable", "invalid_box"]
_FENCE = re.compile(r"\A```(?:json)?\s*(.*?)\s*```\Z", re.DOTALL)


def parse_boxes(answer: str, space: CoordinateSpace) -> tuple[tuple[Box, ...], Status]:
    """Boxes in source pixels, and what became of the answer.

    ``empty`` is a valid empty list; ``invalid_box`` is a well-formed list with a box that is none (x0 >= x1, not four
    numbers): like ``unparsable`` it yields no boxes and counts as wrong.
    """
    fenced = _FENCE.match(answer.strip())
    try:
        values = json.loads(fenced.group(1) if fenced else answer)
    except ValueError:
        return (), "unparsable"
    if not isinstance(values, list):
        return (), "unparsable"
    if not values:
        return (), "empty"
    boxes = [value.get("bbox_2d") if isinstance(value, dict) else value for value in values]
    if not all(isinstance(box, list) for box in boxes):
        return (), "unparsable"
    try:
        return tuple(space.to_source(box) for box in boxes), "ok"
    except ValueError:
        return (), "invalid_box"


def parse_explanation(answer: str) -> tuple[str, Status]:
    """The text itself; ``empty`` where nothing is left of it."""
    text = " ".join(answer.split())
    return text, "ok" if text else "empty"


def parse_verdict(score: float | None) -> tuple[bool | None, Status]:
    """Yes from P(Yes) >= P(No); ``unparsable`` where a backend could not answer (None or NaN)."""
    if score is None or math.isnan(score):
        return None, "unparsable"
    return score >= 0.5, "ok"

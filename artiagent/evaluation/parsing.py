"""Free answers of a model -> typed answers with a status; strict, because a lenient parser flatters.

Knows the two forms in which answers are asked for: as fine-tuning teaches them (Yes or No, a JSON list of boxes, plain
text), and as JSON objects of one key (the ``defined`` prompts). Nothing is repaired and nothing is guessed. Does not
know questions or models. No text makes it raise.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any, Literal

from artiagent.instruction.coordinates import CoordinateSpace
from artiagent.records import Box

Status = Literal[
    "ok", "empty", "too_many", "no_answer", "refused", "truncated", "prose", "trailing_comma", "unparsable",
    "wrong_schema", "invalid_box", "wrong_space", "error", "missing",
]  # fmt: skip
STATUSES: dict[str, str] = {
    "ok": "an answer",
    "empty": "a valid empty list: no region is claimed",
    "too_many": "more boxes than MOST_BOXES; all are kept, the metrics judge them",
    "no_answer": "nothing was said",
    "refused": "the server says that the model refuses",
    "truncated": "ends before the JSON does, or the server says that it was cut",
    "prose": "words instead of the form that was asked for, or around it",
    "trailing_comma": "JSON but for a comma before a closing bracket",
    "unparsable": "begins like JSON and is none",
    "wrong_schema": "valid JSON of another form",
    "invalid_box": "a box that is not four finite numbers with x0 < x1 and y0 < y1",
    "wrong_space": "numbers beyond the model's coordinates, or fractions that are all between 0 and 1",
    "error": "the call failed; the account of the calls says why",
    "missing": "no answer to this item in a file of predictions",
}
MOST_BOXES = 50
SLACK = 0.02  # of the side by which a box may stick out of the image and is clipped
_FENCE = "```"
_COMMA = re.compile(r",(?=\s*[\]}])")
_VERDICT = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)
_NOTHING = object()


def parse_boxes(answer: str, space: CoordinateSpace, key: str | None = None) -> tuple[tuple[Box, ...], Status]:
    """Boxes in source pixels, and what became of the answer; every status but ok and too_many yields none.

    Args:
        answer: a JSON list of ``[x0, y0, x1, y1]``, or of objects with ``bbox_2d`` (how Qwen2.5-VL was trained to
            answer), bare or in one fenced code block.
        space: the model's units.
        key: of the JSON object whose only value is such a list; None: the list itself.
    """
    value, status = _read(answer, key)
    if status != "ok":
        return (), status
    rows = [row.get("bbox_2d") if isinstance(row, dict) else row for row in value] if isinstance(value, list) else None
    if rows is None or not all(isinstance(row, list) for row in rows):
        return (), "wrong_schema"
    status = _status_of_rows(rows, space)
    return (tuple(space.to_source(row) for row in rows) if status in ("ok", "too_many") else ()), status


def parse_explanation(answer: str, key: str | None = None) -> tuple[str, Status]:
    """The text itself, in whatever language, white space made single; of a JSON object under its only ``key``."""
    if key is not None:
        value, status = _read(answer, key)
        if status != "ok":
            return "", status
        if not isinstance(value, str):
            return "", "wrong_schema"
        answer = value
    text = " ".join(answer.split())
    return text, "ok" if text else "no_answer"


def parse_verdict(score: float | None) -> tuple[bool | None, Status]:
    """Yes from P(Yes) >= P(No); ``unparsable`` where a backend could not answer (None or NaN)."""
    if score is None or math.isnan(score):
        return None, "unparsable"
    return score >= 0.5, "ok"


def parse_said_verdict(answer: str, key: str | None = None) -> tuple[bool | None, Status]:
    """The verdict of an answer without probabilities: its first word is Yes or No; a JSON object's only value a
    bool."""
    if key is not None:
        value, status = _read(answer, key)
        if status != "ok":
            return None, status
        return (value, "ok") if isinstance(value, bool) else (None, "wrong_schema")
    if not answer.strip():
        return None, "no_answer"
    said = _VERDICT.match(answer)
    return (None, "prose") if said is None else (said[1].lower() == "yes", "ok")


def status_of_error(error: str) -> Status:
    """Status of a call without an answer, by `vlm.protocol.Answer.error`."""
    known: dict[str, Status] = {"truncated": "truncated", "refused": "refused", "empty": "no_answer"}
    return known.get(error, "error")


def _read(answer: str, key: str | None) -> tuple[Any, Status]:
    """The JSON value of an answer (with a key: of the object's only entry), or why there is none."""
    text = answer.strip()
    if not text:
        return None, "no_answer"
    if text.startswith(_FENCE) and text.endswith(_FENCE):
        text = text[len(_FENCE) : -len(_FENCE)].removeprefix("json").strip()
    if (value := _json(text)) is _NOTHING:
        return None, _malformed(text)
    if key is None:
        return value, "ok"
    if not isinstance(value, dict) or set(value) != {key}:
        return None, "wrong_schema"
    return value[key], "ok"


def _malformed(text: str) -> Status:
    """Why a text is no JSON."""
    if _json(_COMMA.sub("", text)) is not _NOTHING:
        return "trailing_comma"
    if not text.startswith(("[", "{", _FENCE)) or _begins_with_json(text):
        return "prose"
    return "truncated" if _is_open(text) else "unparsable"


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _NOTHING


def _begins_with_json(text: str) -> bool:
    """Whether a whole value is followed by something else, such as words or another fence."""
    try:
        json.JSONDecoder().raw_decode(text.removeprefix(_FENCE).removeprefix("json").lstrip())
    except (ValueError, RecursionError):
        return False
    return True


def _is_open(text: str) -> bool:
    """Whether a bracket or a string of what begins like JSON was never closed."""
    depth, quoted, escaped = 0, False, False
    for letter in text:
        if quoted:
            quoted, escaped = escaped or letter != '"', not escaped and letter == "\\"
        elif letter == '"':
            quoted = True
        else:
            depth += (letter in "[{") - (letter in "]}")
    return quoted or depth > 0


def _status_of_rows(rows: Sequence[Sequence[Any]], space: CoordinateSpace) -> Status:
    if not rows:
        return "empty"
    if not all(map(_is_box, rows)):
        return "invalid_box"
    if not _inside(rows, space):
        return "wrong_space"
    return "too_many" if len(rows) > MOST_BOXES else "ok"


def _is_box(row: Sequence[Any]) -> bool:
    if len(row) != 4 or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in row):
        return False
    # a whole number of any size is finite, but may not become a float
    finite = all(isinstance(v, int) or math.isfinite(v) for v in row)
    return finite and row[0] < row[2] and row[1] < row[3]


def _inside(rows: Sequence[Sequence[float]], space: CoordinateSpace) -> bool:
    """Whether the boxes can be spoken of in these units."""
    numbers = [v for row in rows for v in row]
    if any(isinstance(v, float) for v in numbers) and min(numbers) >= 0 and max(numbers) <= 1:
        return False
    limits = (space.model_width, space.model_height) * 2
    return all(-SLACK * limit <= v <= (1 + SLACK) * limit for row in rows for v, limit in zip(row, limits, strict=True))

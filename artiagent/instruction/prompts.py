"""The one place for the wording of questions to a vision-language model.

Knows every question's paraphrases and the format of boxes inside text. Does not know answers, images or coordinate
spaces: a box arrives as numbers of the model's space, or as a placeholder that is filled later.

Wording 0 of each question is canonical: evaluation, judge and benchmark use it alone; training draws from all.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Sequence

YES, NO = "Yes", "No"

BINARY = "binary"
LOCATE_ARTIFACTS = "locate_artifacts"
EXPLAIN_BOX = "explain_box"
DESCRIBE_ARTIFACTS = "describe_artifacts"
DESCRIBE_IMAGE = "describe_image"
LOCATE_PART = "locate_part"
LOCATE_ALL = "locate_all"
PART_IN_BOX = "part_in_box"
LOCATE_MISMATCH = "locate_mismatch"
PRESENCE = "presence"
COUNT = "count"

# Fields: {part} and {entity} are nouns, {box} is a box; {a_part} and {parts} are derived from {part}.
WORDINGS: dict[str, tuple[str, ...]] = {
    BINARY: (
        "Does this image contain visual artifacts?",
        "Are there any visual artifacts in this image?",
        "Is anything in this image malformed by visual artifacts?",
        "Check the picture: does it have visual artifacts?",
    ),
    LOCATE_ARTIFACTS: (
        "Locate all visual artifacts as a JSON list of boxes.",
        "Where are the visual artifacts? Answer with a JSON list of boxes.",
        "List the boxes of all visual artifacts in JSON.",
    ),
    EXPLAIN_BOX: (
        "Why is {box} an artifact?",
        "What is wrong in {box}?",
        "Name the fault in {box}.",
    ),
    DESCRIBE_ARTIFACTS: (
        "Describe all visual artifacts in this image.",
        "Explain what looks wrong in this image.",
        "What are the visual artifacts in this picture?",
    ),
    DESCRIBE_IMAGE: (
        "Describe the image.",
        "What does the picture show?",
        "Write a caption for this image.",
    ),
    LOCATE_PART: (
        "Locate the {entity}'s {part} as a JSON list of boxes.",
        "Where is the {entity}'s {part}? Answer with a JSON list of boxes.",
        "List the boxes of the {entity}'s {part} in JSON.",
    ),
    LOCATE_ALL: (  # {part} is any noun, of an entity or of a part
        "Locate every {part} in the image as a JSON list of boxes.",
        "Where is every {part} in the image? Answer with a JSON list of boxes.",
        "List the boxes of every {part} in the image in JSON.",
    ),
    PART_IN_BOX: (
        "Is there {a_part} in {box}?",
        "Does {box} show {a_part}?",
        "Can you see {a_part} in {box}?",
    ),
    LOCATE_MISMATCH: (
        "Locate all that does not match as a JSON list of boxes.",
        "Where does the image not match? Answer with a JSON list of boxes.",
        "List the boxes of all that does not match in JSON.",
    ),
    PRESENCE: (
        "Does the {entity} have {a_part}?",
        "Can you see {a_part} of the {entity}?",
        "Is {a_part} of the {entity} visible?",
    ),
    COUNT: (
        "How many {parts} does the {entity} have?",
        "Count the {parts} of the {entity}.",
        "How many {parts} of the {entity} are visible?",
    ),
}

_IRREGULAR = {"foot": "feet", "person": "people", "child": "children", "leaf": "leaves", "mouse": "mice"}


def render(question: str, wording: int = 0, **fields: str | Sequence[int]) -> str:
    """One question as text; without `wording` the canonical one.

    `box` is four integers in the model's space, or a string that stands for it (a placeholder). Raises ValueError for
    an unknown question, a wording that does not exist, and missing or superfluous fields.
    """
    wordings = WORDINGS.get(question)
    if wordings is None:
        raise ValueError(f"unknown question {question!r}; expected one of {', '.join(WORDINGS)}")
    if not 0 <= wording < len(wordings):
        raise ValueError(f"question {question!r} has wordings 0 to {len(wordings) - 1}, got {wording}")
    expected = fields_of(question)
    if set(fields) != expected:
        raise ValueError(f"question {question!r} takes the fields {sorted(expected)}, got {sorted(fields)}")
    values = {name: value if isinstance(value, str) else format_box(value) for name, value in fields.items()}
    if part := values.get("part"):
        values |= {"a_part": with_article(part), "parts": plural(part)}
    return wordings[wording].format(**values)


def paraphrase(question: str, rng: random.Random, **fields: str | Sequence[int]) -> str:
    """The question in one of its wordings, drawn from `rng`."""
    return render(question, rng.randrange(len(WORDINGS[question])), **fields)


def fields_of(question: str) -> set[str]:
    """Names of the fields that `render` needs for this question."""
    text = " ".join(WORDINGS[question])
    names = {"box": ("{box}",), "entity": ("{entity}",), "part": ("{part}", "{a_part}", "{parts}")}
    return {name for name, marks in names.items() if any(mark in text for mark in marks)}


def format_box(box: Sequence[int]) -> str:
    """Compact JSON, ``[x0,y0,x1,y1]``."""
    if len(box) != 4:
        raise ValueError(f"a box has four numbers (x0, y0, x1, y1), got {list(box)}")
    return json.dumps([int(value) for value in box], separators=(",", ":"))


def format_boxes(boxes: Iterable[Sequence[int] | str]) -> str:
    """Compact JSON list of boxes, left to right as given; strings (placeholders) are kept."""
    return "[" + ",".join(box if isinstance(box, str) else format_box(box) for box in boxes) + "]"


def yes_no(truth: bool) -> str:
    """The first answer token of every binary question."""
    return YES if truth else NO


def with_article(noun: str) -> str:
    """``an ear``, ``a tail``."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def plural(noun: str) -> str:
    """Plural of a part's or entity's name; the last word carries it."""
    head, _, last = noun.rpartition(" ")
    if last in _IRREGULAR:
        last = _IRREGULAR[last]
    elif last.endswith(("s", "x", "z", "ch", "sh")):
        last += "es"
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        last = last[:-1] + "ies"
    else:
        last += "s"
    return f"{head} {last}".strip()


def both_of(entity: str, other: str) -> str:
    """``the dog and the car``, ``the two dogs``."""
    return f"the two {plural(entity)}" if entity == other else f"the {entity} and the {other}"


def prompt_hash(*questions: str) -> str:
    """Digest of the canonical wordings of these questions (of all when none is named), for stamping predictions."""
    chosen = {name: WORDINGS[name][0] for name in sorted(questions or WORDINGS)}
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:16]

"""The backend without a model: words what the records already know. It has no eyes, so it never judges.

Wordings vary with the prompt's seed. Explanations speak to a layperson: no tool, no process, no coordinates.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence

from artiagent.instruction.coordinates import CoordinateSpace
from artiagent.instruction.prompts import both_of, plural, with_article
from artiagent.records import stable_hash
from artiagent.vlm.protocol import Answer, Request

# Fields: {part} and {entity} are nouns; {a_part}, {parts}, {An_entity} derive from them; {both} is "the dog and the
# car" or "the two dogs", {pair} the same without articles.
LABELS: dict[str, tuple[str, ...]] = {
    "add": ("extra {part}", "additional {part}"),
    "remove": ("missing {part}", "absent {part}"),
    "distort": ("distorted {part}", "deformed {part}"),
    "fuse": ("fused {pair}", "merged {pair}"),
}
LOCAL: dict[str, tuple[str, ...]] = {
    "add": (
        "There is an extra {part} on the {entity}, in a place where it should not be.",
        "The {entity} has one {part} too many.",
        "An additional {part} grows out of the {entity} where there should be none.",
        "The {entity} shows another {part} that does not belong there.",
        "One {part} more than normal is visible on the {entity}.",
    ),
    "remove": (
        "A {part} of the {entity} is missing, and its place is empty.",
        "The {entity} has no {part} where there should be one.",
        "The {part} that should be visible here is absent, so the {entity} looks incomplete.",
        "Where the {entity} should have {a_part}, there is nothing.",
        "The {entity} lacks {a_part}, as if it had never been there.",
    ),
    "distort": (
        "The {part} of the {entity} is deformed and its shape is broken.",
        "The {entity}'s {part} looks garbled, with its pieces in the wrong place.",
        "The {part} of the {entity} does not have a natural shape; it is smeared and twisted.",
        "The {entity}'s {part} has an impossible structure.",
        "The pieces of the {entity}'s {part} do not match each other.",
    ),
    "fuse": (
        "{Both} melt into each other, and the boundary between them is unclear.",
        "It is unclear where one body ends and the other begins: {both} grow together.",
        "{Both} are blended together into one impossible shape.",
        "Parts of {both} flow into each other without a visible boundary.",
        "{Both} share one body where there should be two.",
    ),
}
OVERVIEW: dict[str, tuple[str, ...]] = {
    "add": ("The {entity} in this image has an extra {part}.", "There is one {part} too many on the {entity}."),
    "remove": (
        "The {entity} in this image is missing {a_part}.",
        "The {entity} lacks {a_part} that should be visible.",
    ),
    "distort": (
        "The {part} of the {entity} in this image is deformed.",
        "The {entity}'s {part} has a shape that looks wrong.",
    ),
    "fuse": ("In this image {both} grow together.", "{Both} merge into one body."),
}
REASONS: dict[str, tuple[str, ...]] = {
    "add": (
        "{An_entity} has a fixed number of {parts}, and this one grows where the body has no place for it.",
        "No real {entity} has that many {parts}.",
    ),
    "remove": (
        "{An_entity} normally has it, and nothing stands in front that could hide it.",
        "Without it the body of the {entity} is incomplete, and nothing explains where it went.",
    ),
    "distort": (
        "The {part} of a real {entity} has a clear, connected form, but here the pieces do not match.",
        "No real {entity} could have {a_part} of such a broken structure.",
    ),
    "fuse": (
        "Separate bodies have a clear boundary, but here one flows into the other.",
        "Two things that stand next to each other keep their own shape, which they have lost here.",
    ),
}


class TemplateVlm:
    """Answers requests of the tasks local, global and caption from their facts, in the form that the prompt asks for.

    A fault is given as ``tool``, ``entity``, ``part`` and ``other``; the task "global" takes a list of them under
    ``faults``, the task "caption" ``caption`` (may be empty) and ``entities``.
    """

    name = "template"

    def space(self, width: int, height: int) -> CoordinateSpace:
        return CoordinateSpace(width, height, width, height)

    def ask(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Raises ValueError for a request without facts and for one that takes eyes."""
        for request in requests:
            yield Answer(_write(request))

    def spent(self) -> dict[str, float | int]:
        return {}


def _write(request: Request) -> str:
    if request.task not in ("local", "global", "caption"):
        raise ValueError(f"the template backend has no eyes and cannot answer {request.task!r}; use another backend")
    if not request.facts:
        raise ValueError("the template backend answers from facts only; pass a request with facts, or use a model")
    facts, rng = request.facts, random.Random(stable_hash(request.seed, request.task))
    if request.task == "caption":
        return str(facts["caption"]) or _listing([with_article(str(name)) for name in facts["entities"]])
    if request.task == "global":
        return json.dumps({"explanation": _overall(facts["faults"], rng)})
    label = _fill(LABELS, facts, random.Random(stable_hash(request.seed, "label")))
    return json.dumps({"label": label, "explanation": _fill(LOCAL, facts, rng)})


def _overall(faults: Sequence[Mapping[str, str]], rng: random.Random) -> str:
    """Two or three sentences: one fault gets a reason, several get a sentence each."""
    if len(faults) == 1:
        return f"{_fill(OVERVIEW, faults[0], rng)} {_fill(REASONS, faults[0], rng)}"
    return " ".join(_fill(OVERVIEW, fault, rng) for fault in faults[:3])


def _fill(wordings: Mapping[str, tuple[str, ...]], fault: Mapping[str, str], rng: random.Random) -> str:
    entity, part, other = fault["entity"], fault["part"], fault["other"]
    both = both_of(entity, other)
    an_entity = with_article(entity)
    return rng.choice(wordings[fault["tool"]]).format(
        part=part, entity=entity, a_part=with_article(part), parts=plural(part),
        both=both, Both=both.capitalize(), An_entity=an_entity[0].upper() + an_entity[1:],
        pair=plural(entity) if entity == other else f"{entity} and {other}",
    )  # fmt: skip


def _listing(names: Sequence[str]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"

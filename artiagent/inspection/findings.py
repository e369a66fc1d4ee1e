"""What a model says about images: the benchmark's questions, asked in batches, and the typed answers.

Knows what is asked when, and how a free answer becomes a finding. Does not know files, folders or forms of output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from artiagent.config import EvaluationSection
from artiagent.evaluation import questions
from artiagent.evaluation.parsing import (
    parse_boxes,
    parse_explanation,
    parse_said_verdict,
    parse_verdict,
    status_of_error,
)
from artiagent.inspection.askers import Asker
from artiagent.instruction.coordinates import CoordinateSpace
from artiagent.records import Box, CheckpointRef, Record, stable_hash
from artiagent.vlm.protocol import Answer

if TYPE_CHECKING:
    from artiagent.serving.served import Served

Verdict = Literal["artifacts", "clean", "unanswered", "unread"]
ARTIFACTS, CLEAN, UNANSWERED, UNREAD = Verdict.__args__
HALF = 0.5
_WORDS = 16  # tokens in which a verdict comes, in words or as JSON
_PIXELS = 64_000_000  # of decoded images in memory at a time


class Asking(NamedTuple):
    """How images are asked about.

    Args:
        section: questions, device, batch, token limits; of its ``vlm`` how a server is reached.
        threshold: P(Yes) from which an image is said to have artifacts, 0 to 1.
        served: a server that answers instead of the model in process.
    """

    section: EvaluationSection
    threshold: float = HALF
    served: Served | None = None

    @property
    def prompt_hash(self) -> str:
        return questions.prompt_hash(self.section.model_copy(update={"tasks": tuple(questions.KINDS)}))

    def stamp(self, model: CheckpointRef) -> str:
        """Identity of all that an answer depends on beside the image."""
        asked = self.section.model_dump_json(include={"batch_size", "max_new_tokens", "max_box_tokens", "dtype"})
        server = ""
        if self.served:
            sent = self.section.vlm.model_dump_json(include={"image_side", "image_format", "coordinates", "structured"})
            server = f"{self.served.stamp} {sent}"
        return stable_hash(model.name, model.sha256, self.prompt_hash, asked, str(self.threshold), server, length=20)


class Inspection(Record):
    """One image and what became of it; sizes and boxes are in pixels of the upright image."""

    image: str  # name inside the folder or file
    image_sha256: str  # of the file's bytes
    width: int = 0
    height: int = 0
    verdict: Verdict
    score: float | None = None  # P(Yes); None where a server does not tell
    boxes: tuple[Box, ...] = ()
    explanation: str = ""
    status: dict[str, str] = Field(default_factory=dict)  # task -> evaluation.parsing.Status; absent: not asked
    reason: str = ""  # why the image was not read


class Picture(NamedTuple):
    """An image that was read: name, sha256 of its bytes, and uint8 [H, W, 3], or why there are no pixels."""

    name: str
    sha256: str
    pixels: np.ndarray | None
    reason: str = ""


class _Shown(NamedTuple):
    picture: Picture
    space: CoordinateSpace


def inspect_pictures(pictures: Iterable[Picture], asker: Asker, asking: Asking) -> list[Inspection]:
    """Ask about a batch of images, in order; boxes and explanation only where the verdict is yes.

    Args:
        pictures: taken one by one, so that no more than one forward pass of large images is decoded at a time.
        asker: who is asked.
        asking: how.

    Raises ValueError when a threshold is asked for and the server tells no probabilities.
    """
    found: list[Inspection] = []
    held: list[Picture] = []
    for picture in pictures:
        held.append(picture)
        if sum(p.pixels.size // 3 for p in held if p.pixels is not None) >= _PIXELS:
            found += _inspect(held, asker, asking)
            held = []
    return found + _inspect(held, asker, asking)


def _inspect(pictures: Sequence[Picture], asker: Asker, asking: Asking) -> list[Inspection]:
    fitted = [_fit(picture, asker) for picture in pictures]
    shown = [one for one in fitted if isinstance(one, _Shown)]
    answers = iter(_ask(asker, shown, asking) if shown else [])
    return [one if isinstance(one, Inspection) else next(answers) for one in fitted]


def _fit(picture: Picture, asker: Asker) -> _Shown | Inspection:
    """The picture in the model's space, or the row that says why it cannot be shown."""
    height, width = (0, 0) if picture.pixels is None else picture.pixels.shape[:2]
    reason = picture.reason
    if picture.pixels is not None:
        try:
            return _Shown(picture, asker.space(width, height))
        except ValueError as error:  # e.g. a strip whose sides no processor reconciles
            reason = f"cannot be shown to the model: {error}"
    return Inspection(
        image=picture.name, image_sha256=picture.sha256, width=width, height=height, verdict=UNREAD, reason=reason
    )


def _ask(asker: Asker, shown: Sequence[_Shown], asking: Asking) -> list[Inspection]:
    section = asking.section
    verdicts = _put("detection", asker, shown, section)
    found = [_judged(one, answer, asking) for one, answer in zip(shown, verdicts, strict=True)]
    flagged = [i for i, one in enumerate(found) if one.verdict == ARTIFACTS]
    asked = [shown[i] for i in flagged]
    answers = zip(
        flagged, _put("localization", asker, asked, section), _put("explanation", asker, asked, section), strict=True
    )
    for i, located, told in answers:
        boxes, where = _parsed(located, parse_boxes, (), shown[i].space, questions.key_of(section, "localization"))
        text, why = _parsed(told, parse_explanation, "", questions.key_of(section, "explanation"))
        status = {**found[i].status, "localization": where, "explanation": why}
        found[i] = found[i].model_copy(update={"boxes": boxes, "explanation": text, "status": status})
    return found


def _parsed(answer: Answer, parse: Callable, nothing: tuple | str, *form: Any) -> tuple:
    """What the parser makes of an answer, and its status."""
    return (nothing, status_of_error(answer.error)) if answer.error else parse(answer.text, *form)


def _put(task: questions.Task, asker: Asker, shown: Sequence[_Shown], section: EvaluationSection) -> list[Answer]:
    """One task's question about each image."""
    most = {"detection": _WORDS, "localization": section.max_box_tokens, "explanation": section.max_new_tokens}[task]
    prompts = [questions.prompt_of(section, task, one.space) for one in shown]
    return asker.ask([one.picture.pixels for one in shown], prompts, most, yes_no=task == "detection")


def _judged(one: _Shown, answer: Answer, asking: Asking) -> Inspection:
    """The row of an image, boxes and explanation still to come."""
    if answer.error:
        yes, status = None, status_of_error(answer.error)
    elif answer.probability is not None:
        yes, status = parse_verdict(answer.probability)
        yes = None if yes is None else answer.probability >= asking.threshold
    elif asking.threshold != HALF:
        raise ValueError(f"threshold {asking.threshold}: the server tells no probabilities; leave it at {HALF}")
    else:
        yes, status = parse_said_verdict(answer.text, questions.key_of(asking.section, "detection"))
    return Inspection(
        image=one.picture.name, image_sha256=one.picture.sha256, width=one.space.width, height=one.space.height,
        verdict=UNANSWERED if yes is None else ARTIFACTS if yes else CLEAN,
        score=None if yes is None else answer.probability, status={"detection": status},
    )  # fmt: skip

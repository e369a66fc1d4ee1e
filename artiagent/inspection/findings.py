"""What a model says about images: the trained questions, asked in batches, and the typed answers.

Knows the questions and how a free answer becomes a finding. Does not know files, folders or forms of output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from pydantic import Field

from artiagent.config import EvaluationSection
from artiagent.evaluation.parsing import parse_boxes, parse_explanation, parse_verdict
from artiagent.instruction import prompts
from artiagent.instruction.coordinates import CoordinateSpace
from artiagent.records import Box, CheckpointRef, Record, stable_hash

if TYPE_CHECKING:
    from artiagent.serving.served import Served
    from artiagent.vlm.protocol import Sighted

ARTIFACTS, CLEAN, UNANSWERED, UNREAD = "artifacts", "clean", "unanswered", "unread"
NO_ANSWER = "no_answer"  # status of a question that a server did not answer
QUESTIONS = (prompts.BINARY, prompts.LOCATE_ARTIFACTS, prompts.DESCRIBE_ARTIFACTS)
PROMPT_HASH = prompts.prompt_hash(*QUESTIONS)
_PIXELS = 64_000_000  # of decoded images in memory at a time


class Asking(NamedTuple):
    """How images are asked about.

    Args:
        section: device, batch, token limits; of its ``vlm`` how a server is reached.
        threshold: P(Yes) from which an image is said to have artifacts, 0 to 1.
        served: a server that answers instead of the model in process.
    """

    section: EvaluationSection
    threshold: float = 0.5
    served: Served | None = None

    def stamp(self, model: CheckpointRef) -> str:
        """Identity of all that an answer depends on beside the image."""
        asked = self.section.model_dump_json(include={"batch_size", "max_new_tokens", "max_box_tokens", "dtype"})
        server = self.served.stamp if self.served else ""
        return stable_hash(model.name, model.sha256, PROMPT_HASH, asked, str(self.threshold), server, length=20)


class Inspection(Record):
    """One image and what became of it; sizes and boxes are in pixels of the upright image."""

    image: str  # name inside the folder or file
    image_sha256: str  # of the file's bytes
    width: int = 0
    height: int = 0
    verdict: Literal["artifacts", "clean", "unanswered", "unread"]
    score: float | None = None  # P(Yes)
    boxes: tuple[Box, ...] = ()
    explanation: str = ""
    status: dict[str, str] = Field(
        default_factory=dict
    )  # task -> status, see evaluation.parsing; tasks that were not asked are absent
    reason: str = ""  # why the image was not read


class Picture(NamedTuple):
    """An image that was read: name, sha256 of its bytes, and uint8 [H, W, 3], or why there are no pixels."""

    name: str
    sha256: str
    pixels: np.ndarray | None
    reason: str = ""


def open_vlm(model: CheckpointRef, asking: Asking) -> Sighted:
    """The model in process, or the server that holds it."""
    section = asking.section
    if asking.served:
        from artiagent.serving.served import ServedVlm

        return ServedVlm(asking.served, section.vlm)
    from artiagent.vlm.local import LocalVlm

    return LocalVlm(model.uri, section.device, section.dtype, section.threads, section.batch_size)


def inspect_pictures(pictures: Iterable[Picture], vlm: Sighted, asking: Asking) -> list[Inspection]:
    """Ask about a batch of images, in order; boxes and explanation only where the verdict is yes.

    Args:
        pictures: taken one by one, so that no more than one forward pass of large images is decoded at a time.
        vlm: who is asked.
        asking: see there.
    """
    found: list[Inspection] = []
    held: list[Picture] = []
    for picture in pictures:
        held.append(picture)
        if sum(p.pixels.size // 3 for p in held if p.pixels is not None) >= _PIXELS:
            found += _inspect(held, vlm, asking)
            held = []
    return found + _inspect(held, vlm, asking)


def _inspect(pictures: Sequence[Picture], vlm: Sighted, asking: Asking) -> list[Inspection]:
    fitted = [_fit(picture, vlm) for picture in pictures]
    shown = [(p, space) for p, space in zip(pictures, fitted, strict=True) if isinstance(space, CoordinateSpace)]
    answers = iter(_ask(vlm, shown, asking) if shown else [])
    return [
        next(answers) if isinstance(space, CoordinateSpace) else _unread(picture, space)
        for picture, space in zip(pictures, fitted, strict=True)
    ]


def _fit(picture: Picture, vlm: Sighted) -> CoordinateSpace | str:
    """The model's space of the picture, or why it cannot be shown."""
    if picture.pixels is None:
        return picture.reason
    height, width = picture.pixels.shape[:2]
    try:
        return vlm.space(width, height)
    except ValueError as error:  # e.g. a strip whose sides no processor reconciles
        return f"cannot be shown to the model: {error}"


def _unread(picture: Picture, reason: str) -> Inspection:
    height, width = (0, 0) if picture.pixels is None else picture.pixels.shape[:2]
    return Inspection(
        image=picture.name, image_sha256=picture.sha256, width=width, height=height, verdict=UNREAD, reason=reason
    )


def _ask(vlm: Sighted, shown: Sequence[tuple[Picture, CoordinateSpace]], asking: Asking) -> list[Inspection]:
    images = [picture.pixels for picture, _ in shown]
    scores = vlm.yes_no(images, [prompts.render(prompts.BINARY)] * len(images))
    verdicts = [parse_verdict(float(score)) for score in scores]
    flagged = [i for i, (yes, _) in enumerate(verdicts) if yes is not None and scores[i] >= asking.threshold]

    def told(question: str, most: int) -> dict[int, str | None]:
        answers = vlm.generate([images[i] for i in flagged], [prompts.render(question)] * len(flagged), most)
        return dict(zip(flagged, answers, strict=True))

    located = told(prompts.LOCATE_ARTIFACTS, asking.section.max_box_tokens)
    described = told(prompts.DESCRIBE_ARTIFACTS, asking.section.max_new_tokens)
    found = []
    for i, (picture, space) in enumerate(shown):
        yes, status = verdicts[i]
        verdict = UNANSWERED if yes is None else ARTIFACTS if i in located else CLEAN
        statuses, boxes, explanation = {"detection": status}, (), ""
        if verdict == ARTIFACTS:
            boxes, statuses["localization"] = _parsed(located[i], lambda text: parse_boxes(text, space), ())  # noqa: B023
            explanation, statuses["explanation"] = _parsed(described[i], parse_explanation, "")
        found.append(
            Inspection(
                image=picture.name, image_sha256=picture.sha256, width=space.width, height=space.height,
                verdict=verdict, score=None if yes is None else float(scores[i]), boxes=boxes,
                explanation=explanation, status=statuses,
            )
        )  # fmt: skip
    return found


def _parsed(answer: str | None, parse: Callable, nothing: tuple | str) -> tuple:
    """What the parser makes of an answer; a server's missing one has a status of its own."""
    return (nothing, NO_ANSWER) if answer is None else parse(answer)

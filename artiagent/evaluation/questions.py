"""What a model is asked on a benchmark: one prompt per task, and the form of its answer.

``trained``: the canonical wordings of fine-tuning, bare. ``defined``: what an artifact is and which types there are,
the form of the answer as JSON, then the same wording last; files ``benchmark_*.vN.md`` beside the agents' prompts.
Does not know models, images or what is done with an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

from artiagent.config import EvaluationSection
from artiagent.instruction import prompts
from artiagent.instruction.coordinates import CoordinateSpace
from artiagent.records import stable_hash
from artiagent.vlm import prompt as files
from artiagent.vlm.prompt import Prompt

Task = Literal["detection", "localization", "explanation"]


class Verdict(BaseModel):
    artifacts: bool


class Boxes(BaseModel):
    boxes: list[list[int]]


class Explanation(BaseModel):
    explanation: str


@dataclass(frozen=True)
class _Kind:
    """A task's canonical wording, the prompt file that defines it, and the JSON object of its answer."""

    wording: str
    file: str
    answer: type[BaseModel]


KINDS: dict[Task, _Kind] = {
    "detection": _Kind(prompts.BINARY, "benchmark_binary", Verdict),
    "localization": _Kind(prompts.LOCATE_ARTIFACTS, "benchmark_locate", Boxes),
    "explanation": _Kind(prompts.DESCRIBE_ARTIFACTS, "benchmark_describe", Explanation),
}
# The two whole answers to the question of detection; the first is the one whose probability is the score.
VERDICTS: dict[str, tuple[str, str]] = {
    "trained": (prompts.YES, prompts.NO),
    "defined": ('{"artifacts": true}', '{"artifacts": false}'),
}


def prompt_of(section: EvaluationSection, task: Task, space: CoordinateSpace) -> Prompt:
    """The prompt of a task about an image that is spoken of in these units."""
    kind = KINDS[task]
    wording = prompts.render(kind.wording)
    if section.prompts == "trained":
        return files.question(kind.wording, wording)
    version = section.vlm.prompts.get(kind.file)
    return files.render(kind.file, kind.answer, version, question=wording, units=units_of(space))


def key_of(section: EvaluationSection, task: Task) -> str | None:
    """The only key of the JSON object that is asked for; None where an answer is bare."""
    return None if section.prompts == "trained" else next(iter(KINDS[task].answer.model_fields))


def prompt_hash(section: EvaluationSection) -> str:
    """Identity of all questions of ``section.tasks``, for stamping predictions; 16 hex digits."""
    wordings = prompts.prompt_hash(*(KINDS[task].wording for task in section.tasks))
    if section.prompts == "trained":
        return wordings
    anything = CoordinateSpace.named("per_mille", 1, 1)
    return stable_hash(
        wordings, *(prompt_of(section, task, anything).hash for task in sorted(section.tasks)), length=16
    )


def units_of(space: CoordinateSpace) -> str:
    """How a prompt names the units of boxes."""
    if (space.model_width, space.model_height) == (1000, 1000):
        return "thousandths of the image's width and height, 0 to 1000"
    return f"pixels of the image, which is {space.model_width} wide and {space.model_height} high"

"""What the fine-tuned VLM tells about images: where artifacts are, and what the scene shows without them.

The questions are those of evaluation and fine-tuning: a model that learnt to describe clean twins describes the scene
and not its fault. Does not judge: that is `mitigation.judges.VlmVerdict` on the same model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from artiagent.config import EvaluationSection
from artiagent.evaluation.parsing import Status, parse_boxes, parse_explanation
from artiagent.evaluation.questions import key_of, prompt_of
from artiagent.instruction import prompts
from artiagent.records import Box

if TYPE_CHECKING:
    from artiagent.vlm.local import LocalVlm

CAPTION_TOKENS = 64


class Testimony(NamedTuple):
    """Boxes in pixels, what became of that answer, and the caption ("" where there was none)."""

    boxes: tuple[Box, ...]
    status: Status
    caption: str


class Witness(Protocol):
    def __call__(self, images: Sequence[np.ndarray]) -> list[Testimony]:
        """uint8 [H, W, 3] each, in order."""
        ...


class VlmWitness:
    """Asks a model in process; every image is encoded once for both questions."""

    def __init__(self, vlm: LocalVlm, section: EvaluationSection) -> None:
        self._vlm, self._section = vlm, section

    def __call__(self, images: Sequence[np.ndarray]) -> list[Testimony]:
        section, key = self._section, key_of(self._section, "localization")
        looks = self._vlm.look(images)
        spaces = [self._vlm.space(image.shape[1], image.shape[0]) for image in images]
        asked = [prompt_of(section, "localization", space).text for space in spaces]
        located = self._vlm.generate(looks, asked, section.max_box_tokens)
        described = self._vlm.generate(looks, [prompts.render(prompts.DESCRIBE_IMAGE)] * len(looks), CAPTION_TOKENS)
        return [
            Testimony(*parse_boxes(boxes, space, key), parse_explanation(caption)[0])
            for boxes, caption, space in zip(located, described, spaces, strict=True)
        ]

"""Who answers about images: a model in process, or a server that holds it. Both are asked in the same way.

Knows backends. Does not know questions or what an answer means.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from artiagent.config import EvaluationSection
from artiagent.evaluation.questions import VERDICTS
from artiagent.instruction.coordinates import CoordinateSpace
from artiagent.records import CheckpointRef
from artiagent.vlm.prompt import Prompt
from artiagent.vlm.protocol import Answer

if TYPE_CHECKING:
    from artiagent.serving.served import Served


class Asker(Protocol):
    """One question about each of some images."""

    def space(self, width: int, height: int) -> CoordinateSpace:
        """Units in which boxes are spoken of. Raises ValueError for a size that cannot be shown."""
        ...

    def ask(
        self, images: Sequence[np.ndarray], prompts: Sequence[Prompt], max_tokens: int, yes_no: bool = False
    ) -> list[Answer]:
        """Greedy answers in order; of yes/no questions with the probability where it is known."""
        ...


class InProcess:
    """A model folder, loaded here.

    Args:
        model: transformers folder.
        section: device, threads, rows per forward pass; its ``prompts`` say how a verdict is worded.
    """

    def __init__(self, model: CheckpointRef, section: EvaluationSection) -> None:
        from artiagent.vlm.local import LocalVlm

        self._verdicts = VERDICTS[section.prompts]
        self._vlm = LocalVlm(model.uri, section.device, section.dtype, section.threads, section.batch_size)

    def space(self, width: int, height: int) -> CoordinateSpace:
        return self._vlm.space(width, height)

    def ask(
        self, images: Sequence[np.ndarray], prompts: Sequence[Prompt], max_tokens: int, yes_no: bool = False
    ) -> list[Answer]:
        texts = [prompt.text for prompt in prompts]
        if not yes_no:
            return [Answer(text) for text in self._vlm.generate(images, texts, max_tokens)]
        yes, no = self._verdicts
        chances = self._vlm.yes_no(images, texts, self._verdicts).tolist()
        return [Answer(yes if chance >= 0.5 else no, probability=chance) for chance in chances]


def open_asker(model: CheckpointRef, section: EvaluationSection, served: Served | None = None) -> Asker:
    """The model in process, or the server that holds it."""
    if served is None:
        return InProcess(model, section)
    from artiagent.serving.served import ServedVlm

    return ServedVlm(served, section.vlm)

"""Who scores an image: the reward model (verifier), the fine-tuned VLM, the counter of parts.

Every judge is a function of images alone, batched, higher is better, so that a search can be steered by one and judged
by another that it never saw. Does not know search, correction or generators.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from artiagent.config import EvaluationSection
from artiagent.records import CheckpointRef

if TYPE_CHECKING:
    from artiagent.nano.anatomy import PartJudge
    from artiagent.vlm.local import LocalVlm


class Judge(Protocol):
    """Scores images. ``name`` is how tables call it, ``sha256`` identifies its weights."""

    name: str
    sha256: str

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """uint8 [H, W, 3] each -> float32 [n], higher is better."""
        ...


class VlmVerdict:
    """P(no artifacts) of a vision-language model that was fine-tuned to detect them.

    Args:
        model: transformers folder.
        section: how it is asked: wording of the question, device, batch.
        vlm: the same model where it is loaded already.
    """

    name = "vlm"

    def __init__(self, model: CheckpointRef, section: EvaluationSection, vlm: LocalVlm | None = None) -> None:
        from artiagent.vlm.local import LocalVlm

        self.sha256, self._section = model.sha256, section
        self._vlm = vlm or LocalVlm(model.uri, section.device, section.dtype, section.threads, section.batch_size)

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        from artiagent.evaluation.questions import VERDICTS, prompt_of

        texts = [
            prompt_of(self._section, "detection", self._vlm.space(image.shape[1], image.shape[0])).text
            for image in images
        ]
        return 1 - self._vlm.yes_no(images, texts, VERDICTS[self._section.prompts]).astype(np.float32)


def open_parts(parser: CheckpointRef) -> PartJudge:
    """The counter of parts: says by caption whether a picture of the nano world is faulty, and never steers a search.

    Raises ValueError when the parser is another one than its reference was measured with.
    """
    from artiagent.nano.anatomy import PartJudge

    return PartJudge(parser)

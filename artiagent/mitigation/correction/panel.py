"""Who takes part in a correction: two judges that never saw each other's training, a witness, an inpainter.

Knows how they are loaded, each once. Does not know what is asked of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from artiagent.config import CorrectionSection, EvaluationSection
from artiagent.mitigation.correction.witness import VlmWitness, Witness
from artiagent.mitigation.inpainters import Inpainter, open_inpainter
from artiagent.mitigation.judges import Judge, VlmVerdict
from artiagent.records import CheckpointRef


class Verifier(Judge, Protocol):
    """A judge that also says where an image is bad."""

    def badness(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """float32 [rows, cols] over each image, higher is worse."""
        ...


class Panel(NamedTuple):
    """The two judges, who tells about an image, who repaints."""

    verifier: Verifier
    vlm: Judge
    witness: Witness
    inpainter: Inpainter


class Models(NamedTuple):
    """Folders of the models."""

    inpainter: CheckpointRef
    reward: CheckpointRef
    vlm: CheckpointRef


def open_panel(section: CorrectionSection, evaluation: EvaluationSection, models: Models) -> Panel:
    """Load all models; the VLM answers as witness and as judge. Raises ValueError for folders of another kind."""
    from artiagent.learning.reward import open_reward
    from artiagent.vlm.local import LocalVlm

    told = evaluation.model_copy(update={"device": section.device, "threads": section.threads})
    vlm = LocalVlm(models.vlm.uri, told.device, told.dtype, told.threads, told.batch_size)
    return Panel(
        open_reward(models.reward, section.member, section.device),
        VlmVerdict(models.vlm, told, vlm),
        VlmWitness(vlm, told),
        open_inpainter(models.inpainter, section),
    )

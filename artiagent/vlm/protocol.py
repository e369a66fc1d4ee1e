"""The one protocol through which every agent talks to a vision-language model.

Knows what a call consists of. Does not know models, prompts' wording or what is done with an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from artiagent.instruction.coordinates import CoordinateSpace

Task = Literal["label", "local", "global", "caption"]


@dataclass(frozen=True)
class Prompt:
    """A call of an agent that writes.

    `text` is what a model reads. `facts` is what is already known from records; a backend without eyes answers from it,
    a model never sees it. `seed` varies the wording of such a backend.
    """

    task: Task
    text: str
    facts: Mapping[str, object] = field(default_factory=dict)
    seed: str = ""


class Vlm(Protocol):
    """Images are uint8 arrays [H, W, 3], one per prompt; sizes may differ within a call."""

    name: str

    def space(self, width: int, height: int) -> CoordinateSpace:
        """Units in which boxes inside a prompt about an image of this many pixels are spoken of."""
        ...

    def generate(self, images: Sequence[np.ndarray], prompts: Sequence[str | Prompt], max_new_tokens: int) -> list[str]:
        """Greedy answers, stripped."""
        ...

    def yes_no(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """P(Yes) / (P(Yes) + P(No)) of the first answer token, float64 [n]; NaN where there is no answer."""
        ...

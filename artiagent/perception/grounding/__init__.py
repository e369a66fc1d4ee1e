"""Grounding: which instances an image shows and where. One protocol for annotations and, later, detectors."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from artiagent.perception.intake import Intake
from artiagent.records import Layer

if TYPE_CHECKING:
    from artiagent.perception.vocabulary import Vocabulary


class GroundingError(ValueError):
    """One image cannot be grounded; the message names the image and why. Other images are not concerned."""


@dataclass(frozen=True)
class Instance:
    """One entity or part instance. ``mask`` is bool [H, W] in the image after intake; ``score`` in 0..1."""

    id: str
    name: str
    layer: Layer | Literal["entity"]
    mask: np.ndarray
    score: float = 1.0


@dataclass(frozen=True)
class Grounding:
    """What a grounder found in one image, and how many instances it left out, by reason."""

    instances: tuple[Instance, ...]
    dropped: Counter[str] = field(default_factory=Counter)
    caption: str = ""  # empty: none known
    licence: str = "unknown"


class Grounder(Protocol):
    """Finds instances. Detectors search the terms of ``vocabulary``; sources that know the answer are given None."""

    def ground(self, image: Intake, name: str, vocabulary: Vocabulary | None) -> Grounding:
        """Ground the image called ``name`` in its set; masks refer to ``image.pixels``. Raises GroundingError."""
        ...

"""Grounding: which instances an image shows and where. One protocol for annotations and detectors.

Detectors are two halves that any backend may combine: a `Detector` finds boxes of named things, a `Segmenter` turns
boxes into masks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
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


@dataclass(frozen=True)
class Detection:
    """A box of one thing. ``phrase`` is the term it was found for, as given to the detector, "" where it fits none;
    ``box`` is (x0, y0, x1, y1) in pixels of the image, x1 and y1 exclusive, floats; ``score`` in 0..1."""

    phrase: str
    box: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True)
class MaskedDetection(Detection):
    """A detection that is already cut out. ``mask`` is bool [H, W]."""

    mask: np.ndarray


class Detector(Protocol):
    """Finds named things."""

    name: str

    def detect(self, images: Sequence[np.ndarray], terms: Sequence[Sequence[str]]) -> list[list[Detection]]:
        """Boxes of every term of an image's list; images uint8 [H, W, 3] of any sizes."""
        ...


class Segmenter(Protocol):
    """Cuts out what a box is around."""

    name: str

    def segment(self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Masks bool [n, H, W] for the boxes float [n, 4] (x0, y0, x1, y1; pixels, exclusive) of every image."""
        ...


class Grounder(Protocol):
    """Finds instances. ``needs_vocabulary``: it searches the terms of a vocabulary; sources that know the answer are
    given None. ``name`` goes into every scene."""

    name: str
    needs_vocabulary: bool

    def ground(
        self, images: Sequence[Intake], names: Sequence[str], vocabularies: Sequence[Vocabulary | None]
    ) -> list[Grounding | GroundingError]:
        """Ground images called ``names`` in their set; masks refer to ``image.pixels``. An image that cannot be
        grounded is an error in the list, the others are not concerned."""
        ...

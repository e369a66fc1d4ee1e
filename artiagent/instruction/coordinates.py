"""Boxes between source pixels and the numbers a model family reads and writes.

Qwen2.5-VL speaks absolute pixels of the image after the processor's own resize; Qwen2-VL, Qwen3-VL and InternVL speak
0 to 1000 along both sides. Records keep source pixels; this is the one place that converts.

A round trip loses at most half a model unit and half a source pixel: `CoordinateSpace.bound`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from artiagent.records import Box

Convention = Literal["resized_pixels", "per_mille"]

# By the class of the processor, which every checkpoint names.
CONVENTIONS: dict[str, Convention] = {
    "Qwen2_5_VLProcessor": "resized_pixels",
    "Qwen2VLProcessor": "per_mille",
    "Qwen3VLProcessor": "per_mille",
    "InternVLProcessor": "per_mille",
}


@dataclass(frozen=True)
class CoordinateSpace:
    """`width` x `height` source pixels, spoken of as `model_width` x `model_height` units."""

    width: int
    height: int
    model_width: int
    model_height: int

    @classmethod
    def from_processor(cls, processor: Any, width: int, height: int) -> CoordinateSpace:
        """Space of a transformers processor for one image size in pixels.

        Raises ValueError for a processor whose coordinate convention is not known here.
        """
        family = type(processor).__name__
        if family not in CONVENTIONS:
            raise ValueError(
                f"{family}: coordinate convention unknown; expected one of {', '.join(CONVENTIONS)} "
                "(an agent's: set its vlm.coordinates; else add the convention to artiagent/instruction/coordinates.py)"
            )
        if CONVENTIONS[family] == "per_mille":
            return cls(width, height, 1000, 1000)
        model_height, model_width = _resized(processor.image_processor, height, width)
        return cls(width, height, model_width, model_height)

    @classmethod
    def named(cls, convention: str, width: int, height: int) -> CoordinateSpace:
        """Space of a convention by its name: ``pixels`` of the image as it is, or ``per_mille``, 0 to 1000."""
        if convention not in ("pixels", "per_mille"):
            raise ValueError(f"coordinates {convention!r}: expected 'pixels' or 'per_mille'")
        return cls(width, height, *((width, height) if convention == "pixels" else (1000, 1000)))

    @property
    def bound(self) -> int:
        """Source pixels by which a round trip may move a side at most: 1 while a unit is at most a pixel.

        Of a coarser unit (0 to 1000 on 4,000 px; an image that the processor shrinks) half is lost, and of a box that
        is thinner than a unit, which becomes one, all of it.
        """
        unit = max(self.width / self.model_width, self.height / self.model_height)
        return max(1, math.floor(unit / 2 + 0.5))

    def to_model(self, box: Sequence[int]) -> list[int]:
        """Box in source pixels -> [x0, y0, x1, y1] in the model's units, clipped, never thinner than one unit."""
        x0, y0, x1, y1 = Box(*box).clip(self.width, self.height)
        left, right = _span(x0, x1, self.model_width / self.width, self.model_width)
        top, bottom = _span(y0, y1, self.model_height / self.height, self.model_height)
        return [left, top, right, bottom]

    def to_source(self, values: Sequence[float]) -> Box:
        """Numbers of the model -> box in source pixels, clipped to the image, never thinner than one pixel.

        Raises ValueError unless they are four finite numbers in the order x0 < x1, y0 < y1.
        """
        if len(values) != 4 or not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
            raise ValueError(f"expected four finite numbers [x0, y0, x1, y1], got {list(values)}")
        x0, y0, x1, y1 = values
        if x0 >= x1 or y0 >= y1:
            raise ValueError(f"expected x0 < x1 and y0 < y1, got {list(values)}")
        left, right = _span(x0, x1, self.width / self.model_width, self.width)
        top, bottom = _span(y0, y1, self.height / self.model_height, self.height)
        return Box(left, top, right, bottom)


def _span(low: float, high: float, scale: float, limit: int) -> tuple[int, int]:
    """Scale, round to the nearest integer and clip; a span that vanished keeps the unit inside [0, limit] that holds
    its middle."""
    first, last = (min(max(math.floor(value * scale + 0.5), 0), limit) for value in (low, high))
    if last > first:
        return first, last
    first = min(max(math.floor((low + high) / 2 * scale), 0), limit - 1)
    return first, first + 1


def _resized(image_processor: Any, height: int, width: int) -> tuple[int, int]:
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    if not image_processor.do_resize:
        return height, width
    return smart_resize(
        height,
        width,
        factor=image_processor.patch_size * image_processor.merge_size,
        min_pixels=image_processor.size["shortest_edge"],
        max_pixels=image_processor.size["longest_edge"],
    )

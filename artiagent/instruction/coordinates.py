"""Boxes between source pixels and the numbers a model family reads and writes.

Qwen2-VL and Qwen2.5-VL speak absolute pixels of the image after the processor's own resize; InternVL and Qwen3-VL speak
0 to 1000 along both sides. Records keep source pixels; this is the one place that converts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from artiagent.records import Box

RESIZED_PIXELS = ("Qwen2VLProcessor", "Qwen2_5_VLProcessor")
PER_MILLE = ("Qwen3VLProcessor", "InternVLProcessor")


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
        if family in PER_MILLE:
            return cls(width, height, 1000, 1000)
        if family in RESIZED_PIXELS:
            model_height, model_width = _resized(processor.image_processor, height, width)
            return cls(width, height, model_width, model_height)
        raise ValueError(
            f"{family}: coordinate convention unknown; expected one of {', '.join(RESIZED_PIXELS + PER_MILLE)} "
            "(an agent's: set its vlm.coordinates; else add the convention to artiagent/instruction/coordinates.py)"
        )

    @classmethod
    def named(cls, convention: str, width: int, height: int) -> CoordinateSpace:
        """Space of a convention by its name: ``pixels`` of the image as it is, or ``per_mille``, 0 to 1000."""
        if convention not in ("pixels", "per_mille"):
            raise ValueError(f"coordinates {convention!r}: expected 'pixels' or 'per_mille'")
        return cls(width, height, *((width, height) if convention == "pixels" else (1000, 1000)))

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
    """Scale, round to the nearest integer and clip; a span that vanished keeps one unit inside [0, limit]."""
    first, last = (min(max(math.floor(value * scale + 0.5), 0), limit) for value in (low, high))
    if last > first:
        return first, last
    first = min(first, limit - 1)
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

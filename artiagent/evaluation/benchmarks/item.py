"""One benchmark image's ground truth, and the checks that every layout puts its values through.

Knows what is valid. Does not know files. A benchmark never changes silently: a value that is wrong is an error that
names the item, except for what a published set is known to have; that is counted in ``BenchmarkItem.remarks``.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image
from pydantic import Field

from artiagent.grid import union_mask
from artiagent.perception.intake import FORMATS
from artiagent.records import Box, Mask, Record

SLACK = 1.0  # pixels by which a coordinate may leave the image: rounding, never another coordinate space


class BenchmarkItem(Record):
    """One benchmark image's ground truth; the encoded image travels beside it. Boxes are in pixels of the image."""

    item_id: str
    faulty: bool
    width: int
    height: int
    boxes: tuple[Box, ...] = ()
    mask: Mask | None = None
    fault: str = ""
    entity: str = ""
    part: str = ""
    label: str = ""
    explanation: str = ""
    generator: str = ""  # of the image, where the benchmark says so
    remarks: dict[str, int] = Field(default_factory=dict)  # what was mended or left out while reading -> how often

    def truth(self) -> np.ndarray:
        """Union mask [height, width] of the boxes; of the pixel mask where a benchmark has no boxes."""
        if not self.boxes and self.mask is not None:
            return self.mask.decode()
        return union_mask(self.boxes, self.height, self.width)

    @property
    def localizable(self) -> bool:
        """Whether there is a ground-truth region."""
        return bool(self.boxes) or (self.mask is not None and mask_area(self.mask) > 0)


def tally(items: Iterable[BenchmarkItem]) -> dict[str, int]:
    """What a report says of a benchmark beside its scores: all remarks, and ``no_region``: faulty images without."""
    counts: Counter[str] = Counter()
    for item in items:
        counts.update(item.remarks)
        counts["no_region"] += item.faulty and not item.localizable
    return {name: count for name, count in sorted(counts.items()) if count}


def mask_area(mask: Mask) -> int:
    """Number of set pixels, without decoding them."""
    from pycocotools import mask as coco_mask

    return int(coco_mask.area({"size": list(mask.size), "counts": mask.counts.encode("ascii")}))


def pixel_box(values: Sequence[float], width: int, height: int, where: str) -> Box:
    """Box from (x0, y0, x1, y1) in pixels, fractions rounded outwards.

    Raises ValueError naming ``where`` for anything but four finite numbers, x0 < x1, y0 < y1, inside the image.
    """
    if not isinstance(values, Sequence) or len(values) != 4 or not all(map(_is_number, values)):
        raise ValueError(f"{where}: box {values!r} is not [x0, y0, x1, y1] in pixels")
    x0, y0, x1, y1 = values
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"{where}: box {list(values)} has no area; expected x0 < x1 and y0 < y1")
    if min(x0, y0) < -SLACK or x1 > width + SLACK or y1 > height + SLACK:
        raise ValueError(
            f"{where}: box {list(values)} leaves the image of {width}x{height} px; expected pixels of this image "
            "(is it xywh, or scaled to another size?)"
        )
    box = Box(math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1)).clip(width, height)
    if not box.area:
        raise ValueError(f"{where}: box {list(values)} lies outside the image of {width}x{height} px")
    return box


def image_size(data: bytes | None, where: str) -> tuple[int, int]:
    """(width, height) of a complete encoded image; nothing is decoded.

    Raises ValueError naming ``where`` for missing, foreign or truncated data.
    """
    if not data:
        raise ValueError(f"{where}: the image is missing (no bytes); expected an encoded image")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            size, kind = opened.size, opened.format
            if kind == "PNG":
                opened.verify()  # check sums of all its chunks, up to the last
        if kind == "JPEG" and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):  # no end after the last scan's start
            raise OSError("truncated: no end of image")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{where}: its image cannot be read ({error}); fetch it again") from error
    return size


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

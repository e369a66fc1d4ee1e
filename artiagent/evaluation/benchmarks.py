"""Reads benchmarks in ArtiBench's Parquet layout into one item type.

Knows file layouts. Does not know models, prompts or metrics. Columns ``image``, ``has_artifacts``, ``bboxes`` (xyxy
pixels) and ``explanation`` are those of the published ArtiBench; ``id``, ``mask``, ``fault``, ``entity``, ``part`` and
``label`` are read where they exist (ArtiBench-nano has them).
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from artiagent.checkpoints import locate
from artiagent.config import BenchmarkSet
from artiagent.grid import union_mask
from artiagent.records import Box, Mask, Record, stable_hash
from artiagent.store import content_sha256

REQUIRED = ("image", "has_artifacts", "bboxes", "explanation")
OPTIONAL = ("id", "mask", "fault", "entity", "part", "label")


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

    def truth(self) -> np.ndarray:
        """Union mask [height, width] of the boxes; of the pixel mask where a benchmark has no boxes."""
        if not self.boxes and self.mask is not None:
            return self.mask.decode()
        return union_mask(self.boxes, self.height, self.width)

    @property
    def localizable(self) -> bool:
        """Whether there is a ground-truth region."""
        return bool(self.boxes) or (self.mask is not None and bool(self.mask.decode().any()))


def read_items(benchmark: BenchmarkSet, limit: int | None = None) -> Iterator[tuple[BenchmarkItem, bytes]]:
    """Stream items and their encoded images from a Parquet file or a folder of them, in file order.

    ``limit`` keeps the first items. Raises ValueError for a missing file, missing columns, an unreadable image, a box
    without area, or two items with one id.
    """
    seen: set[str] = set()
    for file in _files(locate(benchmark.path)):
        with pq.ParquetFile(file) as table:
            columns = _columns(table, file)
            for batch in table.iter_batches(batch_size=16, columns=columns):
                for values in batch.to_pylist():
                    if limit is not None and len(seen) >= limit:
                        return
                    item, image = _item(values, default_id=f"{file.stem}-{len(seen):06d}")
                    if item.item_id in seen:
                        raise ValueError(f"{file}: two items with the id {item.item_id!r}; expected unique ids")
                    seen.add(item.item_id)
                    yield item, image


def read_truth(benchmark: BenchmarkSet, limit: int | None = None) -> list[BenchmarkItem]:
    """All items without their images. Raises ValueError for an empty benchmark."""
    items = [item for item, _ in read_items(benchmark, limit)]
    if not items:
        raise ValueError(f"{benchmark.path}: the benchmark holds no items")
    return items


def benchmark_sha256(benchmark: BenchmarkSet) -> str:
    """Revision of a benchmark: content of its files, images that lie apart included, and how they are read."""
    places = [locate(place) for place in (benchmark.path, benchmark.images) if place]
    told = benchmark.model_dump_json(exclude={"name", "path", "images"})
    return stable_hash(told, *map(content_sha256, places), length=64)


def _files(path: Path) -> list[Path]:
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise ValueError(f"{path}: no benchmark there; expected a Parquet file or a folder with *.parquet")
    return files


def _columns(table: pq.ParquetFile, file: Path) -> list[str]:
    names = table.schema_arrow.names
    if missing := [name for name in REQUIRED if name not in names]:
        raise ValueError(f"{file}: columns {missing} missing; expected {list(REQUIRED)}, got {names}")
    return [*REQUIRED, *(name for name in OPTIONAL if name in names)]


def _item(values: dict[str, Any], default_id: str) -> tuple[BenchmarkItem, bytes]:
    item_id = str(values.get("id") if values.get("id") is not None else default_id)
    image = values["image"]["bytes"] if isinstance(values["image"], dict) else values["image"]
    width, height = _size(image, item_id)
    counts = values.get("mask")
    words = {name: values.get(name) or "" for name in ("fault", "entity", "part", "label", "explanation")}
    return BenchmarkItem(
        item_id=item_id,
        faulty=bool(values["has_artifacts"]),
        width=width,
        height=height,
        boxes=tuple(_box(box, item_id) for box in values["bboxes"] or ()),
        mask=Mask(size=(height, width), counts=counts) if counts else None,
        **words,
    ), image


def _box(values: list[float], item_id: str) -> Box:
    if len(values) != 4 or not (values[0] < values[2] and values[1] < values[3]):
        raise ValueError(f"item {item_id}: box {values} is not [x0, y0, x1, y1] with x0 < x1 and y0 < y1")
    return Box(math.floor(values[0]), math.floor(values[1]), math.ceil(values[2]), math.ceil(values[3]))


def _size(image: bytes | None, item_id: str) -> tuple[int, int]:
    """(width, height) from the header alone."""
    try:
        with Image.open(io.BytesIO(image or b"")) as opened:
            return opened.size
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"item {item_id}: its image cannot be read ({error})") from error

"""ArtiBench's layout: Parquet shards with the images inside.

Columns ``image`` (bytes, or ``{bytes, path}``), ``has_artifacts``, ``bboxes`` (xyxy pixels) and ``explanation`` are
those of the published ArtiBench. Its loose PNG files are not read: some are truncated. ``id``, ``mask``, ``fault``,
``entity``, ``part``, ``label`` and ``generator`` (or ``model``) are read where they exist.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from artiagent.checkpoints import locate
from artiagent.config import BenchmarkSet
from artiagent.evaluation.benchmarks.item import BenchmarkItem, image_size, pixel_box
from artiagent.evaluation.benchmarks.tables import open_parquet, parquet_files, read_batches
from artiagent.records import Mask

REQUIRED = ("image", "has_artifacts", "bboxes", "explanation")
WORDS = ("fault", "entity", "part", "label", "explanation")
OPTIONAL = ("id", "mask", "fault", "entity", "part", "label", "generator", "model")


def read(benchmark: BenchmarkSet) -> Iterator[tuple[BenchmarkItem, bytes]]:
    """Items and their encoded images in file order."""
    place = locate(benchmark.path, kind="dataset")
    if not (files := parquet_files(place)):
        raise ValueError(f"{place}: no benchmark there; expected a Parquet file or a folder with *.parquet")
    count = 0
    for file in files:
        with open_parquet(file) as table:
            for values in read_batches(table, _columns(table, file), file):
                yield _item(values, f"{file.stem}-{count:06d}", file)
                count += 1


def _columns(table: pq.ParquetFile, file: Path) -> list[str]:
    names = table.schema_arrow.names
    if missing := [name for name in REQUIRED if name not in names]:
        raise ValueError(f"{file}: columns {missing} missing; expected {list(REQUIRED)}, got {names}")
    return [*REQUIRED, *(name for name in OPTIONAL if name in names)]


def _item(values: dict[str, Any], default_id: str, file: Path) -> tuple[BenchmarkItem, bytes]:
    item_id = str(values["id"]) if values.get("id") is not None else default_id
    where = f"{file}: item {item_id}"
    image = values["image"]["bytes"] if isinstance(values["image"], dict) else values["image"]
    if not isinstance(image, bytes | None):
        raise ValueError(f"{where}: column 'image' holds {type(image).__name__}; expected encoded bytes or {{bytes}}")
    width, height = image_size(image, where)
    faulty, bboxes = values["has_artifacts"], values["bboxes"] or []
    if faulty not in (True, False):
        raise ValueError(f"{where}: has_artifacts is {faulty!r}; expected true or false")
    if not isinstance(bboxes, list):
        raise ValueError(f"{where}: bboxes is {bboxes!r}; expected a list of [x0, y0, x1, y1]")
    boxes = tuple(pixel_box(box, width, height, where) for box in bboxes)
    if boxes and not faulty:
        raise ValueError(f"{where}: {len(boxes)} boxes although has_artifacts is false; one of the two is wrong")
    return BenchmarkItem(
        item_id=item_id,
        faulty=bool(faulty),
        width=width,
        height=height,
        boxes=boxes,
        mask=Mask(size=(height, width), counts=values["mask"]) if values.get("mask") else None,
        generator=str(values.get("generator") or values.get("model") or ""),
        **{name: str(values.get(name) or "") for name in WORDS},
    ), image

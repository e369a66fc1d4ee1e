"""Results as files that other tools read: Parquet, CSV, JSON, COCO. Rows stream through, sorted by image name.

Nothing in a file tells when or where it was made: equal images and models give equal files.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from secrets import token_hex
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from artiagent.dataset.files import JsonList
from artiagent.inspection.findings import UNREAD, Asking, Inspection
from artiagent.records import CheckpointRef

Form = Literal["parquet", "csv", "json", "coco"]
NAMES: dict[Form, str] = {
    "parquet": "results.parquet", "csv": "results.csv", "json": "results.json", "coco": "coco.json",
}  # fmt: skip
TASKS = ("detection", "localization", "explanation")
CATEGORY = "artifact"
_TEXT = pa.string()
_BOXES = pa.list_(pa.list_(pa.int32()))
_STATUS = [(f"status_{task}", _TEXT) for task in TASKS]
SCHEMA = pa.schema([
    ("image", _TEXT), ("image_sha256", _TEXT), ("width", pa.int32()), ("height", pa.int32()), ("verdict", _TEXT),
    ("score", pa.float64()), ("boxes", _BOXES), ("explanation", _TEXT), *_STATUS, ("reason", _TEXT), ("model", _TEXT),
    ("model_sha256", _TEXT), ("prompt_hash", _TEXT), ("threshold", pa.float64()),
])  # fmt: skip
_ROWS_AT_ONCE = 1000


def write_results(form: Form, found: Iterable[Inspection], model: CheckpointRef, asking: Asking, folder: Path) -> Path:
    """Write one file of a form into ``folder``, whole or not at all. Returns its path."""
    path = folder / NAMES[form]
    with arriving(path) as temporary:
        if form == "coco":
            _write_coco(found, stamp_of(model, asking), temporary)
        else:
            write = {"parquet": _write_parquet, "csv": _write_csv, "json": _write_json}[form]
            write((to_row(one, model, asking) for one in found), temporary)
    return path


def stamp_of(model: CheckpointRef, asking: Asking) -> dict[str, Any]:
    """Who answered what question: model, its weights' sha256, prompt hash, threshold."""
    stamp = {"model": model.name, "model_sha256": model.sha256, "prompt_hash": asking.prompt_hash}
    return {**stamp, "threshold": asking.threshold}


def to_row(one: Inspection, model: CheckpointRef, asking: Asking) -> dict[str, Any]:
    """The columns of ``SCHEMA``; tasks that were not asked have an empty status."""
    return {
        **one.model_dump(exclude={"status", "boxes"}),
        "boxes": [list(box) for box in one.boxes],
        **{f"status_{task}": one.status.get(task, "") for task in TASKS},
        **stamp_of(model, asking),
    }


def _write_parquet(rows: Iterator[dict[str, Any]], path: Path) -> None:
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        while group := list(islice(rows, _ROWS_AT_ONCE)):
            writer.write_table(pa.Table.from_pylist(group, schema=SCHEMA))


def _write_csv(rows: Iterator[dict[str, Any]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, SCHEMA.names)
        writer.writeheader()
        writer.writerows({**row, "boxes": json.dumps(row["boxes"])} for row in rows)


def _write_json(rows: Iterator[dict[str, Any]], path: Path) -> None:
    with JsonList(path) as results:
        for row in rows:
            results.add(row)


def _write_coco(found: Iterable[Inspection], stamp: dict[str, Any], path: Path) -> None:
    """Images that were read, a box as an annotation whose score is its image's P(Yes)."""
    parts = [path.with_name(f"{path.name}.{name}") for name in ("images", "annotations")]
    try:
        with JsonList(parts[0]) as images, JsonList(parts[1]) as annotations:
            for one in found:
                if one.verdict != UNREAD:
                    _add_image(one, images, annotations)
        heads = {
            "info": {"description": "what a model found in images", **stamp},
            "licenses": [],
            "categories": [{"id": 1, "name": CATEGORY, "supercategory": ""}],
        }
        with path.open("wb") as file:
            file.write(json.dumps(heads, ensure_ascii=False)[:-1].encode())
            for name, part in zip(("images", "annotations"), parts, strict=True):
                file.write(f', "{name}": '.encode())
                with part.open("rb") as grown:
                    shutil.copyfileobj(grown, file)
            file.write(b"}\n")
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


def _add_image(one: Inspection, images: JsonList, annotations: JsonList) -> None:
    number = images.count + 1
    told = one.model_dump(include={"width", "height", "verdict", "score", "explanation", "status"})
    images.add({"id": number, "file_name": one.image, **told})
    for x0, y0, x1, y1 in one.boxes:
        annotations.add({
            "id": annotations.count + 1, "image_id": number, "category_id": 1, "iscrowd": 0,
            "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0),
            "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]], "score": one.score,
        })  # fmt: skip


@contextmanager
def arriving(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place in the end, and is gone when writing fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{token_hex(6)}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)

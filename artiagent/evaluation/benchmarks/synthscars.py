"""SynthScars' layout: ``test/annotations/test.json`` and ``test/images``; all images are faulty.

The file is a list of ``{annotation id: {img_file_name, caption, refs}}``; every reference has a ``sentence`` of the
caption and a ``segmentation``: a list of polygons, flat x, y in pixels. See docs/benchmarks.md for the sources.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from artiagent.checkpoints import locate
from artiagent.config import BenchmarkSet
from artiagent.evaluation.benchmarks.item import BenchmarkItem, image_size
from artiagent.evaluation.benchmarks.pictures import Picture, read_pictures, stem
from artiagent.evaluation.benchmarks.polygons import polygons_mask
from artiagent.evaluation.benchmarks.tables import one_document, read_document

DOCUMENT = "test.json"


def read(benchmark: BenchmarkSet) -> Iterator[tuple[BenchmarkItem, bytes]]:
    """Items and their encoded images in the order of the annotations; an item's id is its image's name."""
    file = one_document(locate(benchmark.path, kind="dataset"), DOCUMENT)
    records: dict[str, dict[str, Any]] = {}
    for index, entry in enumerate(read_document(file)):
        name, record = _record(entry, f"{file}: annotation {index}")
        if name in records:
            raise ValueError(f"{file}: two annotations of the image {name!r}; expected one, as in the test split")
        records[name] = record
    folder = locate(benchmark.images, kind="dataset") if benchmark.images else _images_beside(file)
    for picture in read_pictures(folder, list(records)):
        yield _item(picture, records[picture.name], f"{file}: image {picture.name}"), picture.data


def _record(entry: Any, where: str) -> tuple[str, dict[str, Any]]:
    record = next(iter(entry.values())) if isinstance(entry, dict) and len(entry) == 1 else None
    keys = ("img_file_name", "caption", "refs")
    if not isinstance(record, dict) or any(key not in record for key in keys):
        found = list(record) if isinstance(record, dict) else str(entry)[:80]
        raise ValueError(f"{where}: got {found}; expected {{id: {{{', '.join(keys)}}}}}")
    references = record["refs"] if isinstance(record["refs"], list) else [None]
    for number, reference in enumerate(references):
        if not isinstance(reference, dict) or not isinstance(reference.get("segmentation"), list):
            raise ValueError(f"{where}: refs[{number}] has no list 'segmentation'; expected a list of polygons")
    return str(record["img_file_name"]), record


def _images_beside(file: Path) -> Path:
    folder = file.parent.parent / "images"
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; set the benchmark's 'images' to where SynthScars' images lie")
    return folder


def _item(picture: Picture, record: dict[str, Any], where: str) -> BenchmarkItem:
    width, height = image_size(picture.data, where)
    polygons = [polygon for reference in record["refs"] for polygon in reference["segmentation"]]
    mask, remarks = polygons_mask(polygons, width, height, where)
    return BenchmarkItem(
        item_id=stem(picture.name),
        faulty=True,
        width=width,
        height=height,
        mask=mask,
        explanation=str(record["caption"] or "").strip('"').strip(),
        remarks=remarks,
    )

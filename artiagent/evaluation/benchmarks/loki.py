"""LOKI's image-artifact subset: ``data_json/image/open_ended_vqa.json`` (UTF-16 as published) and ``media_data``.

A list of ``{image_path, problems: {global: [{desc}], regional: [{region, desc}]}}``. A region is **x, y, width,
height** in pixels; all 229 images are faulty. See docs/benchmarks.md for the sources.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from artiagent.checkpoints import locate
from artiagent.config import BenchmarkSet
from artiagent.evaluation.benchmarks.item import BenchmarkItem, image_size, pixel_box
from artiagent.evaluation.benchmarks.pictures import Picture, read_pictures, stem
from artiagent.evaluation.benchmarks.tables import one_document, read_document

DOCUMENT = "open_ended_vqa.json"


@dataclass(frozen=True)
class Problems:
    """What annotators found in one image."""

    explanation: str
    regions: list[Any]


def read(benchmark: BenchmarkSet) -> Iterator[tuple[BenchmarkItem, bytes]]:
    """Items and their encoded images in the order of the annotations; an item's id is its image's name."""
    place = locate(benchmark.path, kind="dataset")
    file = one_document(place, DOCUMENT)
    problems: dict[str, Problems] = {}
    for index, entry in enumerate(read_document(file)):
        name, found = _problems(entry, f"{file}: entry {index}")
        if name in problems:
            raise ValueError(f"{file}: two entries of the image {name!r}; expected one")
        problems[name] = found
    folder = locate(benchmark.images, kind="dataset") if benchmark.images else place if place.is_dir() else file.parent
    for picture in read_pictures(folder, list(problems)):
        yield _item(picture, problems[picture.name], f"{file}: image {picture.name}"), picture.data


def _problems(entry: Any, where: str) -> tuple[str, Problems]:
    """Image name; texts (global ones first) and regions."""
    try:
        found = entry["problems"]
        texts = [problem["desc"] or "" for problem in (*found["global"], *found["regional"])]
        return str(entry["image_path"]), Problems(
            explanation=" ".join(filter(None, map(str.strip, texts))),
            regions=[problem["region"] for problem in found["regional"]],
        )
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{where}: got {str(entry)[:80]} ({error!r}); expected image_path and problems with lists 'global' of desc "
            "and 'regional' of region and desc"
        ) from error


def _item(picture: Picture, problems: Problems, where: str) -> BenchmarkItem:
    width, height = image_size(picture.data, where)
    return BenchmarkItem(
        item_id=stem(picture.name),
        faulty=True,
        width=width,
        height=height,
        boxes=tuple(pixel_box(_corners(region, where), width, height, where) for region in problems.regions),
        explanation=problems.explanation,
    )


def _corners(region: Any, where: str) -> tuple[float, ...]:
    """x, y, width, height -> x0, y0, x1, y1."""
    try:
        x, y, width, height = (float(value) for value in region)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: region {region!r} is not [x, y, width, height] in pixels") from error
    return x, y, x + width, y + height

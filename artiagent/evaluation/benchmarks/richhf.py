"""RichHF-18K's layout: artifact heat maps in ``test.tfrecord``, their images in Pick-a-Pic, joined by file name.

Also reads a folder of maps exported one by one, named like the images. Maps are 8 bit as published; they are scaled to
0..1 before ``heat_threshold`` is applied. All images count as faulty: an empty map means that nobody marked a region,
not that the image was found clean. See docs/benchmarks.md for the sources.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from artiagent.checkpoints import locate
from artiagent.config import BenchmarkSet
from artiagent.evaluation.benchmarks.item import BenchmarkItem, image_size
from artiagent.evaluation.benchmarks.pictures import Picture, read_pictures, stem
from artiagent.evaluation.benchmarks.tables import one_document
from artiagent.evaluation.benchmarks.tfrecord import parse_example, read_records
from artiagent.evaluation.heat import SUFFIXES, heat_mask, read_heat, resize_nearest
from artiagent.records import Mask

DOCUMENT = "test.tfrecord"


def read(benchmark: BenchmarkSet) -> Iterator[tuple[BenchmarkItem, bytes]]:
    """Items and their encoded images, in the order of ``read_pictures``; an item's id is its image's name."""
    if not benchmark.images:
        raise ValueError(
            f"benchmark {benchmark.name!r}: RichHF-18K has no images; set 'images' to a folder or Parquet files of "
            "Pick-a-Pic"
        )
    place = locate(benchmark.path, kind="dataset")
    exported = place.is_dir() and not list(place.rglob("*.tfrecord"))
    maps: dict[str, bytes] = {}  # encoded: some ten KB each
    for name, data in _exported(place) if exported else _published(one_document(place, DOCUMENT)):
        if name in maps:
            raise ValueError(f"{place}: two maps of the image {name!r}; expected one")
        maps[name] = data
    for picture in read_pictures(locate(benchmark.images, kind="dataset"), list(maps)):
        heat = maps[picture.name]
        yield _item(picture, heat, benchmark.heat_threshold, f"{place}: image {picture.name}"), picture.data


def _published(file: Path) -> Iterator[tuple[str, bytes]]:
    """(image name, encoded artifact map) of every record."""
    for index, record in enumerate(read_records(file)):
        try:
            example = parse_example(record)
            (name,), (heat,) = example["filename"], example["artifact_map"]
            yield bytes(name).decode(), bytes(heat)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{file}: record {index} ({error!r}); expected an Example with filename and artifact_map"
            ) from error


def _exported(folder: Path) -> Iterator[tuple[str, bytes]]:
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in SUFFIXES:
            yield file.stem, file.read_bytes()


def _item(picture: Picture, encoded: bytes, threshold: float, where: str) -> BenchmarkItem:
    width, height = image_size(picture.data, where)
    heat = read_heat(encoded, f"{where}: artifact map")
    remarks = {"empty_maps": int(not heat.any())}
    if heat.shape != (height, width):
        heat = resize_nearest(heat, height, width)
        remarks["resized_maps"] = 1
    region = heat_mask(heat, threshold)
    return BenchmarkItem(
        item_id=stem(picture.name),
        faulty=True,
        width=width,
        height=height,
        mask=Mask.encode(region) if region.any() else None,
        generator=picture.generator,
        remarks={name: count for name, count in remarks.items() if count},
    )

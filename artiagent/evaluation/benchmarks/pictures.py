"""Images that lie apart from their annotations, found by file name: in a folder, or in Parquet files.

Parquet files have Pick-a-Pic's columns (two images a row: ``image_0_uid``, ``jpg_0``, ``model_0`` and the same with 1;
an image occurs in many rows) or ``file_name`` and ``image``. Names match without folder and extension, because
annotations often state another; an equal full name wins. No path is ever built from a name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from artiagent.evaluation.benchmarks.tables import open_parquet, parquet_files, read_batches

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
Side = tuple[str, str, str]  # columns of one image of a row: name, encoded image, generator
PICK_A_PIC: tuple[Side, ...] = (("image_0_uid", "jpg_0", "model_0"), ("image_1_uid", "jpg_1", "model_1"))
PLAIN: tuple[Side, ...] = (("file_name", "image", "generator"),)


@dataclass(frozen=True)
class Picture:
    name: str  # as it was asked for
    data: bytes
    generator: str = ""


def stem(name: str) -> str:
    """File name without folders (of either slash) and extension."""
    return Path(name.replace("\\", "/")).stem


def read_pictures(place: Path, names: Sequence[str]) -> Iterator[Picture]:
    """All images of ``names``, one at a time: in their order from a folder, in file order from Parquet.

    Raises ValueError before the first one when any is missing, or two files fit one name or the other way round.
    """
    if len(stems := {stem(name) for name in names}) < len(names):
        raise ValueError(
            f"{place}: {len(names)} image names, but only {len(stems)} differ without folder and extension"
        )
    if place.is_dir() and not parquet_files(place):
        yield from _from_folder(place, names)
    else:
        yield from _from_parquet(place, names)


def _from_folder(folder: Path, names: Sequence[str]) -> Iterator[Picture]:
    found: defaultdict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES:
            found[path.stem].append(path)
    _check_missing(folder, names, found)
    paths = {name: _one(folder, name, found[stem(name)]) for name in names}
    for name in names:
        yield Picture(name, paths[name].read_bytes())


def _one(folder: Path, name: str, candidates: list[Path]) -> Path:
    exact = [path for path in candidates if path.name == Path(name.replace("\\", "/")).name]
    fitting = exact or candidates
    if len(fitting) > 1:
        raise ValueError(
            f"{folder}: {len(fitting)} images fit the name {name!r} ({fitting[0]}, {fitting[1]}); expected one"
        )
    return fitting[0]


def _from_parquet(place: Path, names: Sequence[str]) -> Iterator[Picture]:
    files = parquet_files(place)
    found = _index(files, {stem(name): name for name in names})
    _check_missing(place, names, {stem(name) for rows in found.values() for hits in rows.values() for name, _ in hits})
    for (file, group), rows in found.items():
        with open_parquet(file) as table:
            used = {column for hits in rows.values() for _, side in hits for column in side[1:]}
            columns = sorted(used & set(table.schema_arrow.names))
            for row, values in enumerate(read_batches(table, columns, file, [group])):
                for name, (_, image, generator) in rows.get(row, ()):
                    data = values[image]["bytes"] if isinstance(values[image], dict) else values[image]
                    yield Picture(name, data or b"", values.get(generator) or "")


def _index(files: Sequence[Path], wanted: dict[str, str]) -> dict[tuple[Path, int], dict[int, list[tuple[str, Side]]]]:
    """(file, row group) -> row -> wanted names there and the columns they are in; where each occurs first."""
    found: defaultdict[tuple[Path, int], dict[int, list[tuple[str, Side]]]] = defaultdict(dict)
    left = dict(wanted)
    for file in files:
        with open_parquet(file) as table:
            sides = _sides(table, file)
            for group in range(table.num_row_groups):
                for row, values in enumerate(read_batches(table, [side[0] for side in sides], file, [group])):
                    for side in sides:
                        if name := left.pop(stem(str(values[side[0]])), None):
                            found[file, group].setdefault(row, []).append((name, side))
    return found


def _sides(table: pq.ParquetFile, file: Path) -> tuple[Side, ...]:
    names = set(table.schema_arrow.names)
    for sides in (PICK_A_PIC, PLAIN):
        if all(column in names for side in sides for column in side[:2]):
            return sides
    raise ValueError(
        f"{file}: columns {sorted(names)}; expected file_name and image, or Pick-a-Pic's "
        "image_0_uid, jpg_0, image_1_uid, jpg_1"
    )


def _check_missing(place: Path, names: Sequence[str], found: Collection[str]) -> None:
    if missing := [name for name in names if stem(name) not in found]:
        raise ValueError(f"{place}: {len(missing)} of {len(names)} images are missing (first: {missing[0]!r})")

"""Images of a folder or a Parquet file, one at a time, by name; safe with whatever lies there.

Knows where images are and how untrusted bytes become upright pixels. Does not know models.

A Parquet file has a column ``image`` with encoded images, binary or as the `datasets` library stores them (a struct
with ``bytes``); names come from ``file_name``, ``id`` or the struct's ``path``. A name never becomes a path.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from artiagent.config import PerceptionSection
from artiagent.inspection.findings import Picture
from artiagent.perception.intake import FORMATS, IntakeError, take_in
from artiagent.perception.sources.places import HIDDEN, IMAGE_EXTENSIONS, walk

PARQUET = ".parquet"
_NAMES = ("file_name", "id")
_ANY_ASPECT = 1e6
_ROWS_AT_ONCE = 16


class File(NamedTuple):
    """An image by its name; ``read`` raises OSError when it cannot be read."""

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Pictures:
    """Images of one place.

    Args:
        names: in reading order, unique.
        read: streams the files of the names asked for, in reading order.
        left_out: names that were not even listed -> why.
    """

    names: Sequence[str]
    read: Callable[[Collection[str]], Iterator[File]]
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def unreadable(self) -> int:
        """How many of the left out ones are not hidden on purpose."""
        return sum(reason != HIDDEN for reason in self.left_out.values())


def is_many(place: Path) -> bool:
    """Whether the place holds images rather than being one."""
    return place.is_dir() or place.suffix.lower() == PARQUET


def open_pictures(place: Path) -> Pictures:
    """List a folder (recursively, without what is hidden) or a Parquet file.

    Raises ValueError when it is not there, holds no image, or is no such Parquet file.
    """
    if not place.exists():
        raise ValueError(f"{place}: no such file or folder; expected an image, a folder of images or a Parquet file")
    found = _folder(place.resolve()) if place.is_dir() else _table(place)
    if not found.names:
        kinds = ", ".join(IMAGE_EXTENSIONS)
        left = f"; left out: {dict(Counter(found.left_out.values()))}" if found.left_out else ""
        raise ValueError(f"{place}: holds no images; expected files ({kinds}) or rows{left}")
    return found


def _folder(root: Path) -> Pictures:
    names, left_out = walk(root)

    def read(wanted: Collection[str]) -> Iterator[File]:
        for name in names:
            if name in wanted:
                yield File(name, (root / name).read_bytes)

    return Pictures(names, read, left_out)


def _table(place: Path) -> Pictures:
    try:
        with pq.ParquetFile(place) as table:
            image, name = _columns(place, table.schema_arrow)
            names = [_name(row, name) for row in _rows(table, [name])]
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{place}: cannot be read as Parquet ({error})") from error
    if twice := [n for n, count in Counter(names).items() if count > 1 or not n]:
        raise ValueError(f"{place}: {name} {twice[0]!r} is repeated or empty; names identify images")

    def read(wanted: Collection[str]) -> Iterator[File]:
        try:
            with pq.ParquetFile(place) as table:
                for row in _rows(table, [name, image]):
                    if (own := _name(row, name)) in wanted:
                        yield File(own, partial(bytes, _inner(row[image.partition(".")[0]], "bytes") or b""))
        except pa.ArrowException as error:
            raise ValueError(f"{place}: damaged, its rows cannot be read on ({error})") from error

    return Pictures(names, read)


def _columns(place: Path, schema: pa.Schema) -> tuple[str, str]:
    """Columns of image and name, a dotted path inside a struct."""
    kinds = dict(zip(schema.names, schema.types, strict=True))
    kind = kinds.get("image")
    binary, nested = (pa.binary(), pa.large_binary()), kind is not None and pa.types.is_struct(kind)
    inside = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)} if nested else {}
    image = "image" if kind in binary else "image.bytes" if inside.get("bytes") in binary else None
    name = next((n for n in _NAMES if n in kinds), "image.path" if "path" in inside else None)
    if image is None or name is None:
        shown = {n: str(kind) for n, kind in kinds.items()}
        raise ValueError(
            f"{place}: expected a column image (binary, or a struct with bytes) and one of names "
            f"({', '.join(_NAMES)}), got {shown}"
        )
    return image, name


def _rows(table: pq.ParquetFile, columns: list[str]) -> Iterator[dict[str, Any]]:
    for batch in table.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns):
        yield from batch.to_pylist()


def _name(row: dict[str, Any], column: str) -> str:
    value = _inner(row[column.partition(".")[0]], "path")
    return "" if value is None else str(value)


def _inner(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else value


def read_bytes(file: File) -> bytes | str:
    """The file's bytes, or why there are none."""
    try:
        return file.read()
    except OSError as error:
        return f"unreadable: {error.strerror}"


def to_picture(name: str, data: bytes | str) -> Picture:
    """Decode what ``read_bytes`` gave."""
    if isinstance(data, str):
        return Picture(name, "", None, data)
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        return Picture(name, sha256, upright(data, name))
    except IntakeError as error:
        return Picture(name, sha256, None, error.reason)


def upright(data: bytes, name: str) -> np.ndarray:
    """uint8 [H, W, 3] at full size, turned by EXIF. Raises IntakeError naming the image and the reason."""
    section = PerceptionSection()
    untouched = {"short_side": _short_side(data) or section.short_side, "patch": 1, "max_aspect": _ANY_ASPECT}
    return take_in(data, name, section.model_copy(update=untouched)).pixels


def _short_side(data: bytes) -> int:
    """From the header alone; 0 where there is none to be read, which intake then says."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return min(Image.open(io.BytesIO(data), formats=FORMATS).size)
    except Exception:  # Pillow raises nearly anything on damaged files
        return 0

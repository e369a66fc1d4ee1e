"""Where source images come from: a folder or a Parquet file, read one image at a time.

Knows names and bytes. Does not decode anything (see ``intake``) and knows nothing of annotations' meaning.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from artiagent.config import InputSet
from artiagent.records import stable_hash
from artiagent.store import checkout, file_sha256

IMAGE_EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
COLUMNS = ("file_name", "image")
_ROWS_AT_ONCE = 16


class SourceError(ValueError):
    """An input set that cannot be read at all; the message names the set, the place and what was expected."""


class SourceImage(NamedTuple):
    """One image of a set: its name inside the set (POSIX path relative to the folder) and how to get its bytes.

    ``read`` raises OSError when the file cannot be read; that is a matter of this image, not of the set.
    """

    name: str
    read: Callable[[], bytes]


def image_names(source: InputSet) -> tuple[str, ...]:
    """Names of the set's images in reading order, cut to ``source.limit``. Raises SourceError when there are none."""
    place = locate_images(source)
    names = _parquet_names(source, place) if place.is_file() else _folder_names(place)
    if not names:
        kind = "no rows in" if place.is_file() else f"no image files ({', '.join(IMAGE_EXTENSIONS)}) below"
        raise SourceError(f"input set {source.name!r}: {kind} {place}; expected at least one image")
    return tuple(names[: source.limit])


def iter_images(source: InputSet) -> Iterator[SourceImage]:
    """Stream the set's images in the order of ``image_names``; at most a few are in memory at a time."""
    names = image_names(source)
    place = locate_images(source)
    if not place.is_file():
        yield from (SourceImage(name, (place / name).read_bytes) for name in names)
        return
    with pq.ParquetFile(place) as file:
        batches = file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=list(COLUMNS))
        rows = (row for batch in batches for row in batch.to_pylist())
        for name, row in zip(names, islice(rows, len(names)), strict=True):
            yield SourceImage(name, partial(bytes, row["image"] or b""))


def input_digest(source: InputSet) -> str:
    """Hex sha256 of what perception reads of a set: its name, the images' names and bytes, the annotation file.

    Where the set lies does not enter, so a moved copy keeps its cache keys. Raises SourceError as ``image_names`` does.
    """
    digest = hashlib.sha256(stable_hash(source.name, str(source.scored)).encode())
    for image in iter_images(source):
        try:
            content = image.read()
        except OSError as error:
            content = f"unreadable: {error.strerror}".encode()
        digest.update(stable_hash(image.name, content).encode())
    if source.annotations is not None:
        digest.update(file_sha256(locate_annotations(source)).encode())
    return digest.hexdigest()


def locate_images(source: InputSet) -> Path:
    """Folder or Parquet file of the set; relative paths count from the current folder, then from the checkout."""
    place = _locate(source.images)
    if place is None:
        raise SourceError(
            f"input set {source.name!r}: {source.images}: no such file or folder; expected a folder of images "
            f"or a Parquet file with columns {', '.join(COLUMNS)} (embedded data comes with 'dvc pull')"
        )
    return place


def locate_annotations(source: InputSet) -> Path:
    """The set's COCO file. Raises SourceError when none is configured or it does not exist."""
    if source.annotations is None:
        raise SourceError(
            f"input set {source.name!r}: no annotations given; grounding 'annotations' needs a COCO file "
            "(key 'annotations' of the set, or --annotations COCO.json)"
        )
    place = _locate(source.annotations)
    if place is None or not place.is_file():
        raise SourceError(
            f"input set {source.name!r}: {source.annotations}: no such annotation file; expected COCO JSON"
        )
    return place


def _locate(location: str) -> Path | None:
    roots = [Path.cwd(), *([root] if (root := checkout()) else [])]
    candidates = (root / Path(location).expanduser() for root in roots)
    return next((candidate.resolve() for candidate in candidates if candidate.exists()), None)


def _folder_names(folder: Path) -> list[str]:
    found = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_EXTENSIONS and not path.is_dir())
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _parquet_names(source: InputSet, place: Path) -> list[str]:
    where = f"input set {source.name!r}: {place}"
    try:
        with pq.ParquetFile(place) as file:
            _check_columns(where, file.schema_arrow)
            names = file.read(columns=["file_name"])["file_name"].to_pylist()
    except pa.ArrowInvalid as error:
        raise SourceError(f"{where}: not a Parquet file ({error}); expected a folder or a Parquet file") from error
    wrong = [name for name, count in Counter(names).items() if count > 1 or not isinstance(name, str)]
    if wrong:
        raise SourceError(f"{where}: file_name {wrong[0]!r} is repeated or no text; names identify images")
    return names


def _check_columns(where: str, schema: pa.Schema) -> None:
    kinds = {name: schema.field(name).type if name in schema.names else None for name in COLUMNS}
    if kinds["file_name"] not in (pa.string(), pa.large_string()) or kinds["image"] not in (
        pa.binary(),
        pa.large_binary(),
    ):
        raise SourceError(
            f"{where}: expected columns file_name (string) and image (binary: encoded images), "
            f"got {dict(zip(schema.names, map(str, schema.types), strict=True))}"
        )

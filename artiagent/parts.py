"""Sealed shards of an unfinished data set: a Parquet file with its final name, and a sidecar that says what is in it.

The sidecar ``parts/<label>.json`` is written last: where it is, the shard is sealed. It holds all that joining needs to
know of the rows, so that joining neither reads nor moves them. Nor need the Parquet file be on this machine then, if
the folder says where it came from (``origin.json``, see `artiagent.exchange`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from secrets import token_hex
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from artiagent.durable import StoreError, file_sha256, write_atomic
from artiagent.records import SCHEMA_VERSION, DatasetRef, Record, stable_hash
from artiagent.shards import Shard

CHUNKS, PARTS, ORIGIN = "chunks", "parts", "origin.json"
FILES = "*-of-*.parquet"  # of a data set, finished or sealed
_READ_ROWS = 16  # at a time, of a part that is merged: several may be open


class Part(Record):
    """What is in a sealed shard's file, in the order of its rows."""

    kind: str
    file: str
    sha256: str
    stamp: str
    rows: int
    batches: dict[str, int]  # id -> rows, in order
    notes: dict[str, dict[str, Any]]  # of those batches that have one
    digests: list[str]  # of the rows
    keys: tuple[str, str] | None = None  # smallest and largest
    summary: dict[str, float | int | str]


@dataclass(frozen=True)
class Sealed:
    """A part that is there. Of its contents the batches alone stay in memory."""

    directory: Path
    shard: Shard
    kind: str
    file: str
    sha256: str
    stamp: str
    batches: dict[str, int]

    def read(self) -> Part:
        """All of the sidecar."""
        return _read(self.directory / PARTS / f"{self.shard.label}.json")

    def intact(self) -> bool:
        """Whether the file is as it was sealed, as far as it is on this machine; it may be elsewhere."""
        path = self.directory / self.file
        if not path.is_file():
            return (self.directory / ORIGIN).is_file()
        return file_sha256(path) == self.sha256

    def drop(self) -> None:
        """Not sealed any more."""
        (self.directory / PARTS / f"{self.shard.label}.json").unlink(missing_ok=True)
        (self.directory / self.file).unlink(missing_ok=True)

    def ref(self) -> DatasetRef:
        """What the shard's step returns."""
        part = self.read()
        digest = stable_hash(self.kind, str(SCHEMA_VERSION), "part", self.shard.label, *sorted(part.digests), length=64)
        return DatasetRef(
            kind=f"{self.kind}-part", uri=str(self.directory), digest=digest, rows=part.rows, summary=part.summary
        )


def file_name(kind: str, shard: Shard) -> str:
    """Of a shard's rows, sealed or finished."""
    return f"{kind}-{shard.label}.parquet"


def write_part(directory: Path, shard: Shard, part: Part) -> None:
    """Seal: from now on the shard is complete."""
    write_atomic(directory / PARTS / f"{shard.label}.json", part.model_dump_json().encode())


def sealed_shards(directory: Path) -> list[Shard]:
    """All sealed shards, of every number of shards, in order."""
    shards = (Shard.from_label(path.stem) for path in (directory / PARTS).glob("*.json"))
    return sorted(filter(None, shards), key=lambda shard: (shard.count, shard.index))


def has_parts(directory: Path) -> bool:
    """Whether any shard is sealed there and waits to be joined."""
    return any((directory / PARTS).glob("*.json"))


def sealed(directory: Path, kind: str, shard: Shard) -> Sealed | None:
    """The shard if it is sealed. Raises StoreError for one that is not of this kind."""
    path = directory / PARTS / f"{shard.label}.json"
    if not path.is_file():
        return None
    part = _read(path)
    if part.kind != kind or part.file != file_name(kind, shard):
        raise StoreError(f"{path}: names {part.file}, expected {file_name(kind, shard)}; delete it and run the shard")
    return Sealed(directory, shard, kind, part.file, part.sha256, part.stamp, part.batches)


def _read(path: Path) -> Part:
    try:
        return Part.model_validate_json(path.read_bytes())
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise StoreError(f"{path}: damaged ({reason}); delete it and run the shard again") from error


class PartRows:
    """The rows of a sealed part, batch by batch in order, as a stream."""

    def __init__(self, one: Sealed) -> None:
        part = one.read()
        ends = accumulate(part.batches.values(), initial=0)
        self._starts = dict(zip(part.batches, ends, strict=False))
        self._batches, self._digests = part.batches, part.digests
        # Row groups are not held as a whole.
        self._file = pq.ParquetFile(local(one.directory, one.file), buffer_size=2**20, pre_buffer=False)
        self._stream = self._file.iter_batches(batch_size=_READ_ROWS)
        self._held = self._file.schema_arrow.empty_table()
        self._place = 0  # of the first row that is held

    def take(self, batch: str) -> tuple[pa.Table, list[str]]:
        """Rows and digests of a batch that comes after the one taken before."""
        start = self._starts[batch]
        stop = start + self._batches[batch]
        while self._place + self._held.num_rows < stop:
            more = pa.Table.from_batches([next(self._stream)])
            keep = max(0, start - self._place)
            rest = self._held.slice(keep)
            self._place += self._held.num_rows - rest.num_rows
            self._held = pa.concat_tables([rest, more]) if rest.num_rows else more
        rows = self._held.slice(start - self._place, stop - start)
        return rows.replace_schema_metadata(None), self._digests[start:stop]

    def close(self) -> None:
        self._file.close()


def local(directory: Path, name: str) -> Path:
    """A Parquet file of a data set, fetched first where it lies elsewhere. Raises StoreError when it is missing."""
    path = directory / name
    if Path(name).name != name:
        raise StoreError(f"{directory}: the manifest names the file {name!r}; expected one of this folder")
    if not path.is_file() and (directory / ORIGIN).is_file():
        from artiagent.exchange import materialise

        materialise(directory, name)
    if not path.is_file():
        raise StoreError(f"{path}: missing; delete {directory} and rerun")
    return path


def has_leftovers(directory: Path) -> bool:
    """Whether there is anything beside a finished data set that ``clear`` takes away."""
    return any((directory / name).exists() for name in (CHUNKS, PARTS)) or any(directory.glob(".chunks.*"))


def clear(directory: Path, names: set[str]) -> None:
    """Take away what a finished data set of the files ``names`` does not need."""
    for file in directory.glob(FILES):
        if file.name not in names:
            file.unlink(missing_ok=True)
    drop_folder(directory, directory / PARTS)
    drop_folder(directory, directory / CHUNKS)


def drop_folder(directory: Path, folder: Path) -> None:
    """Take a folder away in one step, so that no other process writes into it, then remove it."""
    with suppress(FileNotFoundError):
        folder.rename(directory / f".chunks.{token_hex(6)}")
    for moved in directory.glob(".chunks.*"):
        # Several at a time: each removal may wait for the disk or a server. Another process may be at it too.
        with suppress(FileNotFoundError), ThreadPoolExecutor(8) as pool:
            list(pool.map(partial(Path.unlink, missing_ok=True), _files(moved)))
        shutil.rmtree(moved, ignore_errors=True)


def _files(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        yield from (Path(place) / name for name in names)

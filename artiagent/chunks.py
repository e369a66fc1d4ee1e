"""A finished batch of rows as one Parquet file, and how such files become one.

The name is ``<batch>[.<stamp>].<digest>.parquet``, the digest that of the content: a damaged chunk is recognised. The
digests of the rows and the batch's note lie in the file's metadata, so that merging need not look at the rows.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from artiagent.durable import StoreError, file_sha256
from artiagent.records import Record, stable_hash

R = TypeVar("R", bound=Record)
# Of a row group of a merged file: what a reader holds at a time, and must read to get at one row of it.
GROUP_BYTES, GROUP_ROWS = 32 * 2**20, 2**12
SUFFIX = ".parquet"


@dataclass(frozen=True)
class Row(Generic[R]):
    """One row: unique ``key``, the record, and encoded images by column name.

    Who writes many rows may give the record as the JSON that its ``model_dump_json`` would make.
    """

    key: str
    record: R | str
    images: dict[str, bytes] = field(default_factory=dict)


class Extent(Record):
    """Rows of a file, and its smallest and largest key where they are known: who needs neither need not open it."""

    rows: int
    keys: tuple[str, str] | None = None


def schema(images: tuple[str, ...]) -> pa.Schema:
    """Columns key, record (JSON) and the images."""
    fields = [pa.field("key", pa.string()), pa.field("record", pa.string())]
    return pa.schema(fields + [pa.field(name, pa.large_binary()) for name in images])


def encode(rows: Iterable[Row], images: tuple[str, ...], note: dict[str, Any]) -> bytes:
    """A batch as Parquet."""
    flat = [(r.key, _json(r.record), *(r.images[c] for c in images)) for r in rows]
    metadata = {"digests": json.dumps([stable_hash(*values) for values in flat]), "note": json.dumps(note)}
    wanted = schema(images).with_metadata(metadata)
    columns = zip(*flat, strict=True) if flat else ([] for _ in wanted)
    table = pa.table([pa.array(c, f.type) for c, f in zip(columns, wanted, strict=True)], schema=wanted)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def _json(record: Record | str) -> str:
    return record if isinstance(record, str) else record.model_dump_json()


def name_of(batch: str, stamp: str, data: bytes) -> str:
    """File name of a batch with this content."""
    return ".".join(filter(None, (batch, stamp, hashlib.sha256(data).hexdigest()[:16]))) + SUFFIX


def listed(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Batch, stamp and path of the chunks of a folder; of one batch the one written last comes last."""
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if entry.name.endswith(SUFFIX)]
    except FileNotFoundError:
        return
    names = [entry.name.removesuffix(SUFFIX).split(".") for entry in found]
    twice = len({name[0] for name in names}) < len(names)
    order = sorted(range(len(found)), key=lambda i: (names[i][0], modified(found[i]) if twice else 0, names[i]))
    for index in order:
        batch, *stamp, _ = names[index]
        yield batch, "".join(stamp), Path(found[index].path)


def modified(file: os.DirEntry | Path) -> int:
    """When the file was written, 0 for one that is gone."""
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def is_intact(chunk: Path) -> bool:
    """Whether the content has the digest that the name carries. A chunk that is gone is not intact."""
    try:
        return file_sha256(chunk).startswith(_digest(chunk))
    except FileNotFoundError:
        return False


def note_of(chunk: Path) -> dict[str, Any]:
    """What the batch was written with."""
    return json.loads(pq.read_metadata(chunk).metadata[b"note"])


def read_chunk(chunk: Path) -> tuple[pa.Table, list[str], dict[str, Any]]:
    """Rows of a chunk, their digests and the note. Raises StoreError, and removes it, when it is damaged."""
    data = chunk.read_bytes()
    if not hashlib.sha256(data).hexdigest().startswith(_digest(chunk)):
        chunk.unlink(missing_ok=True)
        raise StoreError(f"{chunk}: damaged, and removed; run the stage again, it makes what is missing")
    table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
    metadata = table.schema.metadata
    return table.replace_schema_metadata(None), json.loads(metadata[b"digests"]), json.loads(metadata[b"note"])


def merge(tables: Iterable[pa.Table], target: Path, images: tuple[str, ...]) -> None:
    """Write the tables' rows into one file, in row groups of at most ``GROUP_BYTES`` and ``GROUP_ROWS``.

    A row that alone is larger is a group of its own.
    """
    with pq.ParquetWriter(target, schema(images), compression="zstd") as writer:
        for group in _groups(tables):
            writer.write_table(group, row_group_size=group.num_rows)


def extent(file: Path) -> Extent:
    """What a merged file says of itself without being read."""
    metadata = pq.read_metadata(file)
    groups = [metadata.row_group(index).column(0).statistics for index in range(metadata.num_row_groups)]
    if not groups or not all(group is not None and group.has_min_max for group in groups):
        return Extent(rows=metadata.num_rows)
    bounds = min(group.min for group in groups), max(group.max for group in groups)
    return Extent(rows=metadata.num_rows, keys=bounds)


def _groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows in tables as large as a group may be."""
    held: list[pa.Table] = []
    size = rows = 0
    for piece in (piece for table in tables for piece in _pieces(table)):
        if held and (size + piece.nbytes > GROUP_BYTES or rows + piece.num_rows > GROUP_ROWS):
            yield pa.concat_tables(held)
            held, size, rows = [], 0, 0
        held.append(piece)
        size += piece.nbytes
        rows += piece.num_rows
    if held:
        yield pa.concat_tables(held)


def _pieces(table: pa.Table) -> Iterator[pa.Table]:
    """The table, cut where it alone is too large for a group."""
    if table.num_rows <= 1 or (table.nbytes <= GROUP_BYTES and table.num_rows <= GROUP_ROWS):
        if table.num_rows:
            yield table
        return
    half = table.num_rows // 2
    yield from _pieces(table.slice(0, half))
    yield from _pieces(table.slice(half))


def _digest(chunk: Path) -> str:
    return chunk.stem.rsplit(".", 1)[1]

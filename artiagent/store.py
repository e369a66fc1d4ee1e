"""Parquet shards of images and records: written atomically, resumable, read as a stream.

A data set is a folder. While it grows, every finished batch is one file under ``chunks/`` whose name carries the batch
id and the digest of its content: a killed writer loses at most the batch in flight, a damaged chunk is recognised and
redone. ``finish`` merges the chunks into shards and writes ``manifest.json``; from then on the data set is complete.

Several processes, also of several machines on one file system, may write at the same time: temporary files have names
of their own, nobody removes another's, and all of them lie in ``chunks/``, which goes as a whole. One process finishes.

The data set's digest depends on keys and contents alone, not on order, number of shards, time or place.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any, Generic, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from artiagent.records import SCHEMA_VERSION, DatasetRef, Record, stable_hash

R = TypeVar("R", bound=Record)
MANIFEST = "manifest.json"
GROUP_BYTES = 32 * 2**20  # of a row group of a merged shard: what a reader holds at a time


class StoreError(ValueError):
    """A data set that cannot be read or written; the message names the file and what to do."""


@dataclass(frozen=True)
class Row(Generic[R]):
    """One row: unique ``key``, the record, and encoded images by column name."""

    key: str
    record: R
    images: dict[str, bytes] = field(default_factory=dict)


def home() -> Path:
    """Folder of everything derived: ``$ARTIAGENT_HOME``, else ``.artiagent`` in the checkout or current folder."""
    if configured := os.environ.get("ARTIAGENT_HOME"):
        return Path(configured).resolve()
    return (checkout() or Path.cwd()) / ".artiagent"


def checkout() -> Path | None:
    """Root of the source checkout that this library was imported from, or None when installed elsewhere."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "pyproject.toml").is_file() and (root / "pipelines").is_dir() else None


def runs_dir() -> Path:
    """Folder of the runs' reports: ``runs`` in the checkout, or below ``$ARTIAGENT_HOME`` when that is set."""
    return (home() if os.environ.get("ARTIAGENT_HOME") else checkout() or Path.cwd()) / "runs"


def dataset_dir(kind: str, *identity: str) -> Path:
    """Folder for a derived data set, named by what it is made from (sections, input digests, code digest)."""
    return home() / "store" / kind / stable_hash(kind, *identity, length=20)


def open_dataset(directory: Path, stamp: str = "") -> DatasetRef | None:
    """Return the reference of a complete data set, or None; removes what a writer killed at its very end left.

    Raises StoreError when shards are missing or damaged, or when a ``stamp`` is given that is not the writer's.
    """
    path = directory / MANIFEST
    if not path.is_file():
        return None
    manifest = json.loads(path.read_text())
    if stamp and manifest.get("stamp", "") != stamp:
        raise StoreError(_foreign(directory))
    for name, digest in manifest["files"].items():
        shard = directory / name
        if not shard.is_file() or file_sha256(shard) != digest:
            raise StoreError(
                f"{shard}: missing or damaged (expected sha256 {digest[:12]}); delete {directory} and rerun"
            )
    with suppress(OSError):  # a reader may lack the right to write; the data set is whole all the same
        _drop_chunks(directory)
    return DatasetRef.model_validate({**manifest["ref"], "uri": str(directory)})


class DatasetWriter(Generic[R]):
    """Append batches of rows to a data set folder; safe to kill and restart at any moment.

    ``batch in writer`` tells whether a batch is on disk and intact; its digest is checked when it is first asked for.

    Args:
        directory: folder of the data set; created.
        kind: what the rows are, e.g. "pairs".
        images: names of the binary columns every row carries.
        stamp: identity of what the rows are made from (letters and digits); batches with another one are refused.
    """

    def __init__(self, directory: Path, kind: str, images: tuple[str, ...] = (), stamp: str = "") -> None:
        self.directory, self.kind, self.images, self.stamp = directory, kind, images, stamp
        self.chunks = directory / "chunks"
        try:
            self.chunks.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{directory}: cannot create the data set folder ({error}); check permissions and disk"
            ) from error
        self._files = dict(self._listed())
        self._intact: set[str] = set()

    def __contains__(self, batch: str) -> bool:
        if batch in self._files and batch not in self._intact:
            if _is_intact(self._files[batch]):
                self._intact.add(batch)
            else:
                self._files.pop(batch).unlink(missing_ok=True)
        return batch in self._files

    @property
    def done(self) -> frozenset[str]:
        """Ids of the batches that are on disk, intact. Checks them all: for a few, ask ``in``."""
        return frozenset(batch for batch in sorted(self._files) if batch in self)

    def write(self, batch: str, rows: Iterable[Row[R]], note: dict[str, Any] | None = None) -> None:
        """Store one batch atomically under the id ``batch`` (letters, digits, '-', '_'). May be empty.

        The ``note`` (JSON values) lies beside the rows until ``finish``; see ``note``.
        """
        if not batch.replace("-", "").replace("_", "").isalnum():
            raise StoreError(f"batch id {batch!r}: expected letters, digits, '-' and '_' only")
        data = _chunk(rows, self.images, note or {})
        digest = hashlib.sha256(data).hexdigest()[:16]
        final = self.chunks / f"{'.'.join(filter(None, (batch, self.stamp, digest)))}.parquet"
        try:
            _replace(final, data, staging=self.chunks)
        except OSError as error:
            raise StoreError(
                f"{self.chunks}: cannot write batch {batch} ({error}); nothing half-written was left"
            ) from error
        if (older := self._files.get(batch)) not in (None, final):
            older.unlink(missing_ok=True)
        self._files[batch] = final
        self._intact.add(batch)

    def note(self, batch: str) -> dict[str, Any]:
        """The note that a batch on disk was written with."""
        return json.loads(pq.read_schema(self._files[batch]).metadata[b"note"])

    def attach(self, name: str, data: bytes) -> None:
        """Write a file beside the shards, whole or not at all. Before ``finish``, by the process that finishes."""
        try:
            _replace(self.directory / name, data, staging=self.chunks, sync=True)
        except OSError as error:
            raise StoreError(f"{self.directory}: cannot write {name} ({error}); rerun resumes it") from error

    def finish(self, summary: dict[str, float | int | str] | None = None, shards: int = 1) -> DatasetRef:
        """Merge the chunks into ``shards`` files, write the manifest, drop the chunks. Returns the reference."""
        ordered = [self._files[b] for b in sorted(self._files)]
        names = [f"{self.kind}-{index:05d}-of-{shards:05d}.parquet" for index in range(shards)]
        digests: list[str] = []
        try:
            for leftover in (*self.directory.glob(".*.tmp"), *self.directory.glob("*-of-*.parquet")):
                if leftover.name not in names:  # of a killed predecessor, perhaps with another number of shards
                    leftover.unlink(missing_ok=True)
            for index, name in enumerate(names):
                members = ordered[index * len(ordered) // shards : (index + 1) * len(ordered) // shards]
                digests += _merge(members, self.directory / name, self.chunks, self.images)
            ref = DatasetRef(
                kind=self.kind,
                uri=str(self.directory),
                digest=stable_hash(self.kind, str(SCHEMA_VERSION), *sorted(digests), length=64),
                rows=len(digests),
                shards=shards,
                summary=summary or {},
            )
            files = {name: file_sha256(self.directory / name) for name in names}
            for name in names:  # the chunks go as soon as the manifest is there
                _sync(self.directory / name)
            manifest = {"ref": {**ref.model_dump(mode="json"), "uri": ""}, "stamp": self.stamp, "files": files}
            self.attach(MANIFEST, json.dumps(manifest, indent=1).encode())
            _drop_chunks(self.directory)
        except OSError as error:
            raise StoreError(f"{self.directory}: cannot finish the data set ({error}); rerun resumes it") from error
        return ref

    def _listed(self) -> Iterator[tuple[str, Path]]:
        for path in sorted(self.chunks.glob("*.parquet")):
            batch, *stamp, _ = path.stem.split(".")
            if "".join(stamp) != self.stamp:
                raise StoreError(_foreign(self.directory))
            yield batch, path


def read_rows(
    source: DatasetRef | Path,
    record: type[R],
    images: tuple[str, ...] | None = None,
    wanted: Callable[[str], bool] | None = None,
) -> Iterator[Row[R]]:
    """Stream the rows of a complete data set in key order of its shards.

    Args:
        source: reference or folder.
        record: the record class to parse into.
        images: binary columns to read; None reads all of them, () none.
        wanted: says by key which rows to parse; None: all. Row groups without any are not read.
    """
    for key, text, columns in read_json(source, images, wanted):
        yield Row(key, record.model_validate_json(text), columns)


def read_json(
    source: DatasetRef | Path, images: tuple[str, ...] | None = None, wanted: Callable[[str], bool] | None = None
) -> Iterator[tuple[str, str, dict[str, bytes]]]:
    """``read_rows`` for those who pass records on: key, record as JSON, images."""
    directory = Path(source.uri) if isinstance(source, DatasetRef) else source
    if not (directory / MANIFEST).is_file():
        raise StoreError(f"{directory}: not a complete data set (no {MANIFEST}); rerun the stage that writes it")
    for shard in sorted(json.loads((directory / MANIFEST).read_text())["files"]):
        with pq.ParquetFile(directory / shard) as file:
            present = [c for c in file.schema_arrow.names if c not in ("key", "record")]
            columns = present if images is None else list(images)
            for group in range(file.num_row_groups):
                for values in _read_group(file, group, ["key", "record", *columns], wanted):
                    yield values["key"], values["record"], {c: values[c] for c in columns}


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file, streamed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_sha256(directory: Path) -> str:
    """Hex sha256 over relative names and contents of all files of a folder (model folders, input trees)."""
    files = sorted(p for p in directory.rglob("*") if p.is_file())
    return stable_hash(*(v for p in files for v in (p.relative_to(directory).as_posix(), file_sha256(p))), length=64)


def content_sha256(place: Path) -> str:
    """Hex sha256 of a file, or of a folder as `folder_sha256` takes it."""
    return folder_sha256(place) if place.is_dir() else file_sha256(place)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: temporary sibling, flush to disk, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, data, staging=path.parent, sync=True)


def _replace(path: Path, data: bytes, staging: Path, sync: bool = False) -> None:
    """Put ``data`` in the place of ``path`` by way of a temporary file of this process in the folder ``staging``."""
    temporary = staging / f".{path.name}.{token_hex(6)}.tmp"
    try:
        with temporary.open("wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _foreign(directory: Path) -> str:
    return f"{directory}: was made with other settings or from other data; choose another folder or delete it"


def _is_intact(chunk: Path) -> bool:
    """Whether the content has the digest that the name carries. A chunk that is gone is not intact."""
    try:
        return file_sha256(chunk).startswith(chunk.stem.rsplit(".", 1)[1])
    except FileNotFoundError:
        return False


def _drop_chunks(directory: Path) -> None:
    """Take the chunks away in one step, so that no other process writes among them, then remove them."""
    with suppress(FileNotFoundError):
        (directory / "chunks").rename(directory / f".chunks.{token_hex(6)}")
    for folder in directory.glob(".chunks.*"):
        # Several at a time: each removal may wait for the disk or a server. Another process may be at it too.
        with suppress(FileNotFoundError), ThreadPoolExecutor(8) as pool:
            list(pool.map(partial(Path.unlink, missing_ok=True), folder.iterdir()))
        shutil.rmtree(folder, ignore_errors=True)


def _schema(images: tuple[str, ...]) -> pa.Schema:
    fields = [pa.field("key", pa.string()), pa.field("record", pa.string())]
    return pa.schema(fields + [pa.field(name, pa.large_binary()) for name in images])


def _chunk(rows: Iterable[Row], images: tuple[str, ...], note: dict[str, Any]) -> bytes:
    """A batch as Parquet; the digests of its rows lie in the metadata, so that merging need not look at them."""
    flat = [(r.key, r.record.model_dump_json(), *(r.images[c] for c in images)) for r in rows]
    metadata = {"digests": json.dumps([stable_hash(*values) for values in flat]), "note": json.dumps(note)}
    schema = _schema(images).with_metadata(metadata)
    columns = zip(*flat, strict=True) if flat else ([] for _ in schema)
    table = pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def _merge(members: list[Path], target: Path, staging: Path, images: tuple[str, ...]) -> list[str]:
    """Copy the chunks' rows into one shard. Returns the digests of the rows."""
    temporary = staging / f".{target.name}.{token_hex(6)}.tmp"
    digests: list[str] = []
    held: list[pa.Table] = []
    size = 0
    try:
        with pq.ParquetWriter(temporary, _schema(images), compression="zstd") as writer:
            for member in members:
                table, row_digests = _read_chunk(member)
                digests += row_digests
                held.append(table)
                size += table.nbytes
                if size >= GROUP_BYTES:
                    writer.write_table(pa.concat_tables(held))
                    held, size = [], 0
            if size:
                writer.write_table(pa.concat_tables(held))
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return digests


def _read_chunk(chunk: Path) -> tuple[pa.Table, list[str]]:
    """Rows of a chunk and their digests. Raises StoreError, and removes it, when it is damaged."""
    data = chunk.read_bytes()
    if not hashlib.sha256(data).hexdigest().startswith(chunk.stem.rsplit(".", 1)[1]):
        chunk.unlink(missing_ok=True)
        raise StoreError(f"{chunk}: damaged, and removed; run the stage again, it makes what is missing")
    table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
    digests = json.loads(table.schema.metadata[b"digests"])
    return table.replace_schema_metadata(None), digests


def _read_group(
    file: pq.ParquetFile, group: int, columns: list[str], wanted: Callable[[str], bool] | None
) -> list[dict[str, Any]]:
    """Values of the wanted rows of a row group."""
    if wanted is None:
        return file.read_row_group(group, columns=columns).to_pylist()
    keys = file.read_row_group(group, columns=["key"])["key"].to_pylist()
    chosen = [index for index, key in enumerate(keys) if wanted(key)]
    return file.read_row_group(group, columns=columns).take(chosen).to_pylist() if chosen else []

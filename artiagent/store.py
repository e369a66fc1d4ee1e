"""Parquet shards of images and records: written atomically, resumable, read as a stream.

A data set is a folder. While it grows, every finished batch is one file under ``chunks/`` whose name carries the batch
id and the digest of its content: a killed writer loses at most the batch in flight, a damaged chunk is recognised and
redone. ``finish`` merges the chunks into shards and writes ``manifest.json``; from then on the data set is complete.

The data set's digest depends on keys and contents alone, not on order, number of shards, time or place.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from artiagent.records import SCHEMA_VERSION, DatasetRef, Record, stable_hash

R = TypeVar("R", bound=Record)
MANIFEST = "manifest.json"


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


def dataset_dir(kind: str, *identity: str) -> Path:
    """Folder for a derived data set, named by what it is made from (sections, input digests, code digest)."""
    return home() / "store" / kind / stable_hash(kind, *identity, length=20)


def open_dataset(directory: Path) -> DatasetRef | None:
    """Return the reference of a complete data set, or None. Raises StoreError when shards are missing or damaged."""
    path = directory / MANIFEST
    if not path.is_file():
        return None
    manifest = json.loads(path.read_text())
    for name, digest in manifest["files"].items():
        shard = directory / name
        if not shard.is_file() or file_sha256(shard) != digest:
            raise StoreError(
                f"{shard}: missing or damaged (expected sha256 {digest[:12]}); delete {directory} and rerun"
            )
    return DatasetRef.model_validate({**manifest["ref"], "uri": str(directory)})


class DatasetWriter(Generic[R]):
    """Append batches of rows to a data set folder; safe to kill and restart at any moment.

    Args:
        directory: folder of the data set; created.
        kind: what the rows are, e.g. "pairs".
        images: names of the binary columns every row carries.
    """

    def __init__(self, directory: Path, kind: str, images: tuple[str, ...] = ()) -> None:
        self.directory, self.kind, self.images = directory, kind, images
        self.chunks = directory / "chunks"
        try:
            self.chunks.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{directory}: cannot create the data set folder ({error}); check permissions and disk"
            ) from error
        self._files = dict(self._intact_chunks())

    @property
    def done(self) -> frozenset[str]:
        """Ids of the batches that are on disk, intact."""
        return frozenset(self._files)

    def write(self, batch: str, rows: Iterable[Row[R]]) -> None:
        """Store one batch atomically under the id ``batch`` (letters, digits, '-', '_'). May be empty."""
        if not batch.replace("-", "").replace("_", "").isalnum():
            raise StoreError(f"batch id {batch!r}: expected letters, digits, '-' and '_' only")
        table = _table(rows, self.images)
        temporary = self.chunks / f".{batch}.{os.getpid()}.tmp"
        try:
            pq.write_table(table, temporary, compression="zstd")
            final = self.chunks / f"{batch}.{file_sha256(temporary)[:16]}.parquet"
            temporary.replace(final)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise StoreError(
                f"{self.chunks}: cannot write batch {batch} ({error}); nothing half-written was left"
            ) from error
        if (older := self._files.get(batch)) not in (None, final):
            older.unlink(missing_ok=True)
        self._files[batch] = final

    def finish(self, summary: dict[str, float | int | str] | None = None, shards: int = 1) -> DatasetRef:
        """Merge the chunks into ``shards`` files, write the manifest, drop the chunks. Returns the reference."""
        ordered = [self._files[b] for b in sorted(self._files)]
        digests, rows, files = [], 0, {}
        try:
            for index in range(shards):
                name = f"{self.kind}-{index:05d}-of-{shards:05d}.parquet"
                members = ordered[index * len(ordered) // shards : (index + 1) * len(ordered) // shards]
                count, row_digests = _merge(members, self.directory / name, self.images)
                rows, digests = rows + count, digests + row_digests
                files[name] = file_sha256(self.directory / name)
            digest = stable_hash(self.kind, str(SCHEMA_VERSION), *sorted(digests), length=64)
            ref = DatasetRef(
                kind=self.kind, uri=str(self.directory), digest=digest, rows=rows, shards=shards, summary=summary or {}
            )
            manifest = {"ref": {**ref.model_dump(mode="json"), "uri": ""}, "files": files}
            write_atomic(self.directory / MANIFEST, json.dumps(manifest, indent=1).encode())
        except OSError as error:
            raise StoreError(f"{self.directory}: cannot finish the data set ({error}); rerun resumes it") from error
        shutil.rmtree(self.chunks)
        return ref

    def _intact_chunks(self) -> Iterator[tuple[str, Path]]:
        for leftover in self.chunks.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        for path in sorted(self.chunks.glob("*.parquet")):
            batch, digest = path.stem.rsplit(".", 1)
            if file_sha256(path).startswith(digest):
                yield batch, path
            else:
                path.unlink()


def read_rows(source: DatasetRef | Path, record: type[R], images: tuple[str, ...] | None = None) -> Iterator[Row[R]]:
    """Stream the rows of a complete data set in key order of its shards.

    Args:
        source: reference or folder.
        record: the record class to parse into.
        images: binary columns to read; None reads all of them, () none.
    """
    directory = Path(source.uri) if isinstance(source, DatasetRef) else source
    shards = sorted(directory.glob("*-of-*.parquet"))
    if not (directory / MANIFEST).is_file() or not shards:
        raise StoreError(f"{directory}: not a complete data set (no {MANIFEST}); rerun the stage that writes it")
    for shard in shards:
        with pq.ParquetFile(shard) as file:
            present = [c for c in file.schema_arrow.names if c not in ("key", "record")]
            columns = present if images is None else list(images)
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=["key", "record", *columns])
                for values in table.to_pylist():
                    yield Row(
                        values["key"],
                        record.model_validate_json(values["record"]),
                        {c: values[c] for c in columns},
                    )


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file, streamed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_sha256(directory: Path) -> str:
    """Hex sha256 over relative names and contents of all files of a folder (model folders, input trees)."""
    files = sorted(p for p in directory.rglob("*") if p.is_file())
    return stable_hash(*(v for p in files for v in (p.relative_to(directory).as_posix(), file_sha256(p))), length=64)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: temporary sibling, flush to disk, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _schema(images: tuple[str, ...]) -> pa.Schema:
    fields = [pa.field("key", pa.string()), pa.field("record", pa.string())]
    return pa.schema(fields + [pa.field(name, pa.large_binary()) for name in images])


def _table(rows: Iterable[Row], images: tuple[str, ...]) -> pa.Table:
    flat = [{"key": r.key, "record": r.record.model_dump_json(), **{c: r.images[c] for c in images}} for r in rows]
    return pa.Table.from_pylist(flat, schema=_schema(images))


def _merge(members: list[Path], target: Path, images: tuple[str, ...]) -> tuple[int, list[str]]:
    temporary = target.with_name(f".{target.name}.tmp")
    count, digests = 0, []
    try:
        with pq.ParquetWriter(temporary, _schema(images), compression="zstd") as writer:
            for member in members:
                table = pq.read_table(member)
                for values in table.to_pylist():
                    digests.append(stable_hash(values["key"], values["record"], *(values[c] for c in images)))
                count += table.num_rows
                if table.num_rows:
                    writer.write_table(table)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return count, digests

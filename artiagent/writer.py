"""Writing a data set: batch by batch, shard by shard, by any number of processes, each of which may be killed.

Knows chunks (`artiagent.chunks`) and sealed shards (`artiagent.parts`), and by `artiagent.batches` what is there; what
the rows mean is for those who write them.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import pyarrow as pa

from artiagent import chunks as files
from artiagent.batches import Batches
from artiagent.chunks import Extent, Row
from artiagent.durable import StoreError, file_sha256, flush, replace, staged
from artiagent.parts import CHUNKS, FILES, Part, PartRows, clear, drop_folder, file_name, sealed, write_part
from artiagent.records import SCHEMA_VERSION, DatasetRef, Record, stable_hash
from artiagent.shards import Shard

R = TypeVar("R", bound=Record)
MANIFEST = "manifest.json"
_AHEAD = 4  # batches read while others are written
Summary = dict[str, float | int | str]


class Files(NamedTuple):
    """Of a data set: sha256 by name, the digests of all rows, extents by name."""

    hashes: dict[str, str]
    digests: list[str]
    extents: dict[str, Extent]


class DatasetWriter(Batches, Generic[R]):
    """Append batches of rows to a data set folder; safe to kill and restart at any moment.

    Without a ``shard`` it knows every batch that anybody has written, and ``finish`` makes a data set of them all. With
    one it writes the shard's batches, and ``seal`` makes them its part of the data set. It knows those of another
    division as well: what is done stays done. ``batch in writer`` tells whether a batch is on disk and intact; digests
    are checked when first asked for.

    Args:
        directory: folder of the data set; created.
        kind: what the rows are, e.g. "pairs".
        images: names of the binary columns every row carries.
        stamp: identity of what the rows are made from (letters and digits); batches with another one are refused.
        shard: the piece of the work that is written here; a piece's batches sort behind those of the piece before.
    """

    def __init__(
        self,
        directory: Path,
        kind: str,
        images: tuple[str, ...] = (),
        stamp: str = "",
        shard: Shard | None = None,
    ) -> None:
        self.images = images
        self.chunks = directory / CHUNKS / shard.label if shard else directory / CHUNKS
        try:
            self.chunks.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{directory}: cannot create the data set folder ({error}); check permissions and disk"
            ) from error
        super().__init__(directory, kind, stamp, shard)

    def write(self, batch: str, rows: Iterable[Row[R]], note: dict[str, Any] | None = None) -> None:
        """Store one batch atomically under the id ``batch`` (letters, digits, '-', '_'). May be empty.

        The ``note`` (JSON values) lies beside the rows until ``finish``; see ``note``.
        """
        if not batch.replace("-", "").replace("_", "").isalnum():
            raise StoreError(f"batch id {batch!r}: expected letters, digits, '-' and '_' only")
        data = files.encode(rows, self.images, note or {})
        final = self.chunks / files.name_of(batch, self.stamp, data)
        try:
            replace(final, data, staging=self.chunks)
        except OSError as error:
            raise StoreError(
                f"{self.chunks}: cannot write batch {batch} ({error}); nothing half-written was left"
            ) from error
        if (older := self._files.get(batch)) not in (None, final):
            older.unlink(missing_ok=True)
        self._files[batch] = final
        self._intact.add(batch)

    def attach(self, name: str, data: bytes) -> None:
        """Write a file beside the shards, whole or not at all. Before ``finish``, by the process that finishes."""
        try:
            replace(self.directory / name, data, staging=self.chunks, sync=True)
        except OSError as error:
            raise StoreError(f"{self.directory}: cannot write {name} ({error}); rerun resumes it") from error

    def sealed(self) -> DatasetRef | None:
        """The reference of this shard if it is sealed and intact, as the folder is now."""
        one = sealed(self.directory, self.kind, self._own())
        if one is None:
            return None
        self._check_stamp(one.stamp)
        if not one.intact():
            one.drop()
            return None
        drop_folder(self.directory, self.chunks)  # what a writer killed at its very end left
        return one.ref()

    def seal(self, summary: Summary | None = None) -> DatasetRef:
        """Merge the shard's batches into its part of the data set; the chunks go. Returns the part's reference.

        The part is of kind ``<kind>-part``. Raises StoreError when the data set was finished meanwhile.
        """
        if (ready := self.sealed()) is not None:
            return ready
        shard = self._own()
        batches: dict[str, int] = {}
        notes: dict[str, dict[str, Any]] = {}
        digests: list[str] = []

        def tables() -> Iterator[pa.Table]:
            for batch, path in sorted((b, p) for b, p in self._files.items() if p.parent == self.chunks):
                table, added, note = files.read_chunk(path)
                batches[batch] = len(added)
                digests.extend(added)
                notes.update({batch: note} if note else {})
                yield table

        target = self.directory / file_name(self.kind, shard)
        try:
            with staged(target, self.chunks) as temporary:
                files.merge(tables(), temporary, self.images)
                flush(temporary)
                digest, keys = file_sha256(temporary), files.extent(temporary).keys
                if (self.directory / MANIFEST).is_file():
                    raise StoreError(f"{self.directory}: was finished meanwhile; nothing was changed")
            part = Part(
                kind=self.kind, file=target.name, sha256=digest, stamp=self.stamp, rows=len(digests), batches=batches,
                notes=notes, digests=digests, keys=keys, summary=summary or {},
            )  # fmt: skip
            write_part(self.directory, shard, part)
        except OSError as error:
            if (ready := self.sealed()) is not None:  # by another process at the same shard
                return ready
            raise StoreError(f"{self.directory}: cannot seal shard {shard} ({error}); rerun resumes it") from error
        return self.sealed()

    def finish(self, summary: Summary | None = None, shards: int = 1) -> DatasetRef:
        """Make a data set of all batches, write the manifest, drop chunks and sidecars. Returns the reference.

        Where the work was done in shards, all are sealed and nothing else is there, their files stay as they are.
        Else all batches are merged into ``shards`` files, or more if sealed shards have these names.
        """
        if self.shard:
            raise ValueError(f"shard {self.shard}: a shard is sealed; the writer without one finishes")
        try:
            known = len(self._parts)
            whole = self.settled()
            if len(self._parts) < known:
                raise StoreError(f"{self.directory}: a sealed shard was damaged, and removed; run the stage again")
            names, digests, extents = self._adopt() if whole else self._merge(shards)
            ref = DatasetRef(
                kind=self.kind,
                uri=str(self.directory),
                digest=stable_hash(self.kind, str(SCHEMA_VERSION), *sorted(digests), length=64),
                rows=len(digests),
                shards=len(names),
                summary=summary or {},
            )
            manifest = {
                "ref": {**ref.model_dump(mode="json"), "uri": ""}, "stamp": self.stamp, "files": names,
                "extents": {name: one.model_dump(mode="json") for name, one in extents.items()},
            }  # fmt: skip
            self.attach(MANIFEST, json.dumps(manifest, indent=1).encode())
            clear(self.directory, set(names))
        except OSError as error:
            raise StoreError(f"{self.directory}: cannot finish the data set ({error}); rerun resumes it") from error
        return ref

    def _adopt(self) -> Files:
        """The sealed shards' files as those of the data set."""
        digests: list[str] = []
        extents: dict[str, Extent] = {}
        for part in (one.read() for one in self._parts.values()):
            digests += part.digests
            extents[part.file] = Extent(rows=part.rows, keys=part.keys)
        return Files({one.file: one.sha256 for one in self._parts.values()}, digests, extents)

    def _merge(self, shards: int) -> Files:
        """All batches in new files, as a stream."""
        taken = {shard.count for shard in self._parts}
        count = next(n for n in range(shards, shards + len(taken) + 1) if n not in taken)
        names = [file_name(self.kind, Shard(index, count)) for index in range(count)]
        kept = {*names, *(one.file for one in self._parts.values())}
        for leftover in (*self.directory.glob(".*.tmp"), *self.directory.glob(FILES)):
            if leftover.name not in kept:  # of a killed predecessor, perhaps with another number of shards
                leftover.unlink(missing_ok=True)
        ordered = list(self)
        digests: list[str] = []
        readers: dict[Shard, PartRows] = {}
        for index, name in enumerate(names):
            members = ordered[index * len(ordered) // count : (index + 1) * len(ordered) // count]
            with staged(self.directory / name, self.chunks) as temporary:
                files.merge(self._tables(members, readers, digests), temporary, self.images)
        hashes = {name: file_sha256(self.directory / name) for name in names}
        for name in names:  # the chunks go as soon as the manifest is there
            flush(self.directory / name)
        return Files(hashes, digests, {name: files.extent(self.directory / name) for name in names})

    def _tables(self, batches: list[str], readers: dict[Shard, PartRows], digests: list[str]) -> Iterator[pa.Table]:
        """Rows of the batches from wherever they are; their digests are added to ``digests``."""
        with ThreadPoolExecutor(1) as reader:  # ahead of who writes them
            pending: deque[Future[tuple[pa.Table, list[str]]]] = deque()
            for batch in batches:
                pending.append(reader.submit(self._read, batch, readers))
                if len(pending) > _AHEAD:
                    table, added = pending.popleft().result()
                    digests += added
                    yield table
            for read in pending:
                table, added = read.result()
                digests += added
                yield table

    def _read(self, batch: str, readers: dict[Shard, PartRows]) -> tuple[pa.Table, list[str]]:
        """Rows of a batch and their digests; those of a part are read in order."""
        if batch in self._files:
            return files.read_chunk(self._files[batch])[:2]
        if not self._stands(shard := self._place[batch]):
            raise StoreError(f"{self.directory}: shard {shard} was damaged, and removed; run the stage again")
        if shard not in readers:
            readers[shard] = PartRows(self._parts[shard])
        rows = readers[shard].take(batch)
        if batch == next(reversed(self._parts[shard].batches)):
            readers.pop(shard).close()
        return rows

    def _own(self) -> Shard:
        if self.shard is None:
            raise ValueError("a writer without a shard finishes the data set; there is nothing to seal")
        return self.shard

"""What is on disk of a data set that is not finished: which batches, in which chunks and sealed shards, and whether
they are intact.

Knows nothing of the rows. Removes what is damaged; whoever asks for it then makes it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from artiagent import chunks
from artiagent.durable import StoreError
from artiagent.parts import CHUNKS, Part, Sealed, sealed, sealed_shards
from artiagent.shards import Shard


class Batches:
    """The batches of a folder as it is now: all of them, or those that matter to one ``shard``.

    To a shard matter its own and those of another division. Raises StoreError for batches with another ``stamp``.
    """

    def __init__(self, directory: Path, kind: str, stamp: str, shard: Shard | None) -> None:
        self.directory, self.kind, self.stamp, self.shard = directory, kind, stamp, shard
        self._parts = {one.shard: one for one in self._listed_parts()}
        self._files = self._listed_chunks()
        self._place = self._listed_places()
        self._intact: set[str | Shard] = set()
        self._open: tuple[Shard, Part] | None = None  # the sidecar read last

    def __contains__(self, batch: str) -> bool:
        if batch in self._files and batch not in self._intact:
            if chunks.is_intact(self._files[batch]):
                self._intact.add(batch)
            else:
                self._files.pop(batch).unlink(missing_ok=True)
        return batch in self._files or (batch in self._place and self._stands(self._place[batch]))

    def __iter__(self) -> Iterator[str]:
        """Ids of all batches in order, as they were found and written; not checked."""
        return iter(sorted(self._files.keys() | self._place.keys()))

    @property
    def done(self) -> frozenset[str]:
        """Ids of the batches that are on disk, intact. Checks them all: for a few, ask ``in``."""
        return frozenset(batch for batch in self if batch in self)

    def note(self, batch: str) -> dict[str, Any]:
        """The note that a batch on disk was written with."""
        if batch in self._files:
            return chunks.note_of(self._files[batch])
        return self._sidecar(self._place[batch]).notes.get(batch, {})

    def settled(self) -> bool:
        """Whether all shards of one division are sealed, intact, and nobody has written anything else."""
        counts = {shard.count for shard in self._parts}
        whole = not self._files and len(counts) == 1 and len(self._parts) == counts.pop()
        return whole and self._check_parts() and self._in_order()

    def _stands(self, shard: Shard) -> bool:
        """Whether a sealed shard is intact; a damaged one is not sealed any more, and its batches are not there."""
        if shard in self._parts and shard not in self._intact:
            if self._parts[shard].intact():
                self._intact.add(shard)
            else:
                self._parts.pop(shard).drop()
                self._place = self._listed_places()
        return shard in self._parts

    def _check_parts(self) -> bool:
        """Whether all parts are intact; several are read at a time."""
        unknown = [shard for shard in self._parts if shard not in self._intact]
        with ThreadPoolExecutor(4) as pool:
            intact = pool.map(lambda shard: self._parts[shard].intact(), unknown)
            self._intact.update(shard for shard, good in zip(unknown, intact, strict=True) if good)
        return all([self._stands(shard) for shard in unknown])

    def _in_order(self) -> bool:
        """Whether every part's rows belong behind those of the part before."""
        ordered = [batch for one in self._parts.values() for batch, rows in one.batches.items() if rows]
        return all(a < b for a, b in zip(ordered, ordered[1:], strict=False))

    def _sidecar(self, shard: Shard) -> Part:
        if self._open is None or self._open[0] != shard:
            self._open = shard, self._parts[shard].read()
        return self._open[1]

    def _concerned(self, shard: Shard | None) -> bool:
        """Whether what that shard writes is of interest here: batches of a sister shard are not this one's."""
        return self.shard is None or shard is None or shard == self.shard or shard.count != self.shard.count

    def _listed_parts(self) -> list[Sealed]:
        shards = sealed_shards(self.directory)
        sisters = [shard for shard in shards if not self._concerned(shard)]
        others = [shard for shard in shards if self._concerned(shard)]
        found = [sealed(self.directory, self.kind, shard) for shard in (*others, *sisters[:1])]
        for one in filter(None, found):
            self._check_stamp(one.stamp)
        return [one for one in found[: len(others)] if one is not None]

    def _listed_places(self) -> dict[str, Shard]:
        """The sealed shard that a batch is in; of several, one that has rows of it."""
        found: dict[str, Shard] = {}
        for shard, one in self._parts.items():
            for batch, rows in one.batches.items():
                if rows or batch not in found:
                    found[batch] = shard
        return found

    def _listed_chunks(self) -> dict[str, Path]:
        """The chunk of every batch that lies in one; of several, the one written last."""
        root = self.directory / CHUNKS
        shards = sorted(filter(None, (Shard.from_label(path.name) for path in root.glob("*-of-*"))))
        if sister := next((s for s in shards if not self._concerned(s)), None):
            for _, stamp, _ in islice(chunks.listed(root / sister.label), 1):
                self._check_stamp(stamp)
        folders = [root / s.label for s in shards if self._concerned(s) and s not in self._parts] + [root]
        found: dict[str, Path] = {}
        for batch, stamp, path in (entry for folder in folders for entry in chunks.listed(folder)):
            self._check_stamp(stamp)
            if batch not in found or chunks.modified(found[batch]) <= chunks.modified(path):
                found[batch] = path
        return found

    def _check_stamp(self, stamp: str) -> None:
        if stamp != self.stamp:
            raise StoreError(foreign(self.directory))


def foreign(directory: Path) -> str:
    """What to say of a folder that holds something else."""
    return f"{directory}: was made with other settings or from other data; choose another folder or delete it"

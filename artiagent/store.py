"""Data sets of images and records in Parquet files: where they are, opening, and reading as a stream.

A data set is a folder. While it grows, every finished batch is one file under ``chunks/`` whose name carries the batch
id and the digest of its content: a killed writer loses at most the batch in flight, a damaged chunk is recognised and
redone. ``finish`` merges the chunks into Parquet files and writes ``manifest.json``; from then on the data set is
complete. Work that is done in shards is merged by those who do it: each seals its part, and ``finish`` names the parts.

Several processes, also of several machines on one file system, may write at the same time: temporary files have names
of their own, nobody removes another's, and all of them lie in ``chunks/``, which goes as a whole. One process finishes.

The data set's digest depends on keys and contents alone, not on order, number of shards, time or place.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as pq

from artiagent.batches import foreign
from artiagent.chunks import GROUP_BYTES, Row
from artiagent.durable import StoreError, content_sha256, file_sha256, folder_sha256, write_atomic
from artiagent.parts import ORIGIN, clear, has_leftovers, has_parts, local
from artiagent.records import DatasetRef, Record, stable_hash
from artiagent.writer import MANIFEST, DatasetWriter

__all__ = [
    "GROUP_BYTES", "MANIFEST", "DatasetWriter", "Row", "StoreError", "checkout", "content_sha256", "dataset_dir",
    "file_sha256", "folder_sha256", "has_parts", "home", "open_dataset", "read_json", "read_rows", "runs_dir",
    "write_atomic",
]  # fmt: skip

R = TypeVar("R", bound=Record)
Wanted = Callable[[str], bool] | Collection[str] | None


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

    Raises StoreError when shards are missing or damaged, or when a ``stamp`` is given that is not the writer's. Files
    that lie elsewhere (the folder has ``origin.json``) are not missing: reading fetches them.
    """
    path = directory / MANIFEST
    if not path.is_file():
        return None
    manifest = json.loads(path.read_text())
    if stamp and manifest.get("stamp", "") != stamp:
        raise StoreError(foreign(directory))
    elsewhere = (directory / ORIGIN).is_file()
    for name, digest in manifest["files"].items():
        shard = directory / name
        if elsewhere and not shard.exists():
            continue
        if not shard.is_file() or file_sha256(shard) != digest:
            raise StoreError(
                f"{shard}: missing or damaged (expected sha256 {digest[:12]}); delete {directory} and rerun"
            )
    if has_leftovers(directory):
        with suppress(OSError):  # a reader may lack the right to write; the data set is whole all the same
            clear(directory, set(manifest["files"]))
    return DatasetRef.model_validate({**manifest["ref"], "uri": str(directory)})


def read_rows(
    source: DatasetRef | Path,
    record: type[R],
    images: tuple[str, ...] | None = None,
    wanted: Wanted = None,
    rows: range | None = None,
) -> Iterator[Row[R]]:
    """Stream the rows of a complete data set in key order of its shards.

    Args:
        source: reference or folder.
        record: the record class to parse into.
        images: binary columns to read; None reads all of them, () none.
        wanted: the keys of the rows to parse, or what says so by key; None: all. Row groups without any are not read;
            with keys (a collection) most of them, and whole files, are known by their bounds.
        rows: which rows by their place in the whole data set, step 1; None: all. Files outside are not opened, row
            groups outside are not read.
    """
    for key, text, columns in read_json(source, images, wanted, rows):
        yield Row(key, record.model_validate_json(text), columns)


def read_json(
    source: DatasetRef | Path,
    images: tuple[str, ...] | None = None,
    wanted: Wanted = None,
    rows: range | None = None,
) -> Iterator[tuple[str, str, dict[str, bytes]]]:
    """``read_rows`` for those who pass records on: key, record as JSON, images."""
    directory = Path(source.uri) if isinstance(source, DatasetRef) else source
    if not (directory / MANIFEST).is_file():
        raise StoreError(f"{directory}: not a complete data set (no {MANIFEST}); rerun the stage that writes it")
    if rows is not None and rows.step != 1:
        raise ValueError(f"rows {rows}: expected a range of step 1")
    chosen = _Chosen(wanted)
    start = 0
    manifest = json.loads((directory / MANIFEST).read_text())
    for shard in sorted(manifest["files"]):
        if rows is not None and start >= rows.stop:
            return
        if (extent := manifest.get("extents", {}).get(shard)) is not None:
            before = rows is not None and start + extent["rows"] <= rows.start
            if before or not extent["rows"] or not chosen.between(extent["keys"]):
                start += extent["rows"]
                continue
        with pq.ParquetFile(local(directory, shard)) as file:
            present = [c for c in file.schema_arrow.names if c not in ("key", "record")]
            columns = present if images is None else list(images)
            for group in range(file.num_row_groups):
                metadata = file.metadata.row_group(group)
                here = range(start, start := start + metadata.num_rows)
                part = here if rows is None else range(max(here.start, rows.start), min(here.stop, rows.stop))
                if not part or not chosen.possible(metadata):
                    continue
                places = range(part.start - here.start, part.stop - here.start)
                yield from _read_group(file, group, columns, chosen, places)


class _Chosen:
    """Which keys are wanted; with a collection of them also whether a row group can hold any, by its bounds."""

    def __init__(self, wanted: Wanted) -> None:
        collection = wanted is not None and not callable(wanted)
        self.keys = sorted(wanted) if collection else None
        self.wanted = frozenset(wanted).__contains__ if collection else wanted

    def possible(self, group: pq.RowGroupMetaData) -> bool:
        if self.keys is None:
            return True
        column = group.column(0)
        bounds = column.statistics if column.path_in_schema == "key" else None
        return self.between((bounds.min, bounds.max) if bounds is not None and bounds.has_min_max else None)

    def between(self, bounds: Sequence[str] | None) -> bool:
        """Whether a wanted key may lie between two, or, where they are not known, anywhere."""
        if self.keys is None or bounds is None:
            return self.keys != []
        index = bisect_left(self.keys, bounds[0])
        return index < len(self.keys) and self.keys[index] <= bounds[1]


def _read_group(
    file: pq.ParquetFile, group: int, columns: list[str], chosen: _Chosen, places: range
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Key, record and images of the wanted rows among ``places`` of a row group."""
    names = ["key", "record", *columns]
    if chosen.wanted is None:
        table = file.read_row_group(group, columns=names).slice(places.start, len(places))
    else:
        keys = file.read_row_group(group, columns=["key"])["key"].slice(places.start, len(places)).to_pylist()
        found = [place for place, key in zip(places, keys, strict=True) if chosen.wanted(key)]
        if not found:
            return
        table = file.read_row_group(group, columns=names).take(found)
    for key, text, *images in zip(*(table[name].to_pylist() for name in names), strict=True):
        yield key, text, dict(zip(columns, images, strict=True))

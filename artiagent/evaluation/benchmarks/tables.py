"""Parquet and JSON files of benchmarks, read with errors that name the file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_ROWS_AT_ONCE = 16


def parquet_files(place: Path) -> list[Path]:
    """The file itself, or all Parquet files below a folder in the order of their names."""
    return sorted(place.rglob("*.parquet")) if place.is_dir() else [place]


def open_parquet(file: Path) -> pq.ParquetFile:
    """Raises ValueError for a file that is no whole Parquet file: its directory stands at the end."""
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file}: not a whole Parquet file ({error}); fetch it again") from error


def read_batches(
    table: pq.ParquetFile, columns: Sequence[str], file: Path, row_groups: Sequence[int] | None = None
) -> Iterator[dict[str, Any]]:
    """Rows as dictionaries, a few in memory at a time."""
    try:
        for batch in table.iter_batches(_ROWS_AT_ONCE, row_groups=row_groups, columns=list(columns), use_threads=False):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file}: damaged ({error}); fetch it again") from error


def one_document(place: Path, name: str) -> Path:
    """The annotation file: ``place`` itself, or the only file called ``name`` below that folder."""
    if place.is_file():
        return place
    found = sorted(place.rglob(name))
    if len(found) != 1:
        listed = ", ".join(str(file.relative_to(place)) for file in found[:3]) or "none"
        raise ValueError(f"{place}: expected one {name} below it, found {len(found)} ({listed}); name the file itself")
    return found[0]


def read_document(file: Path) -> list[Any]:
    """A JSON list in UTF-8, UTF-16 or UTF-32, with or without a byte order mark."""
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:  # also UnicodeDecodeError
        raise ValueError(f"{file}: not whole JSON ({error}); fetch it again") from error
    if not isinstance(content, list):
        raise ValueError(f"{file}: holds a JSON {type(content).__name__}; expected a list of annotations")
    return content

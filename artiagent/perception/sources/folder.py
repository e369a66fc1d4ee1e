"""Any folder, recursively, or a Parquet file with columns file_name and image; a COCO file about them or none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from artiagent.config import InputSet
from artiagent.perception.sources.coco import annotate
from artiagent.perception.sources.listing import Listing
from artiagent.perception.sources.places import COLUMNS, SourceError, walk

_ROWS_AT_ONCE = 16


def survey(source: InputSet, root: Path) -> Listing:
    """All images below ``root`` in the order of their names, or the rows of a file in its order."""
    names, left_out = (_row_names(source, root), {}) if root.is_file() else walk(root)
    return annotate(source, root, names, left_out)


def rows(file: Path, names: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Rows of a Parquet file with these names, which stand in its order; a few are in memory at a time.

    Row groups without any of them are not read, and of the others no other row is copied.
    """
    wanted = set(names)
    left = len(wanted)
    with pq.ParquetFile(file) as table:
        for group in range(table.num_row_groups):
            if not left:
                return
            if wanted.isdisjoint(table.read_row_group(group, columns=["file_name"])["file_name"].to_pylist()):
                continue
            for batch in table.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=list(COLUMNS)):
                found = batch.filter(pa.array([name in wanted for name in batch["file_name"].to_pylist()], pa.bool_()))
                left -= found.num_rows
                for row in found.to_pylist():
                    yield row["file_name"], bytes(row["image"] or b"")


def _row_names(source: InputSet, place: Path) -> list[str]:
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

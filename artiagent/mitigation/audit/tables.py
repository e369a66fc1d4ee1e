"""The rows of an audit as a flat Parquet file, and its figures as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from artiagent.inspection.forms import arriving
from artiagent.mitigation.audit.records import Audited, AuditReport, Contrast, GeneratorRates
from artiagent.records import DatasetRef, Interval
from artiagent.store import Row, read_rows

IMAGES = "images.parquet"
_TEXT, _TEXTS = pa.string(), pa.list_(pa.string())
SCHEMA = pa.schema([
    ("generator", _TEXT), ("image", _TEXT), ("prompt", _TEXT), ("seed", pa.int64()), ("width", pa.int32()),
    ("height", pa.int32()), ("verdict", _TEXT), ("score", pa.float64()), ("boxes", pa.list_(pa.list_(pa.int32()))),
    ("explanation", _TEXT), ("fault", _TEXT), ("entity", _TEXT), ("part", _TEXT), ("deviations", _TEXTS),
    ("reason", _TEXT), ("data", pa.large_binary()),
])  # fmt: skip
_ROWS_AT_ONCE = 256


def write_images(sets: Sequence[DatasetRef], folder: Path) -> Path:
    """``images.parquet``: every image with its encoded bytes (``data``) and all that was said of it."""
    path = folder / IMAGES
    stream = (_flat(row) for rows in sets for row in read_rows(rows, Audited, ("image",)))
    with arriving(path) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
        while group := list(islice(stream, _ROWS_AT_ONCE)):
            writer.write_table(pa.Table.from_pylist(group, schema=SCHEMA))
    return path


def text_table(report: AuditReport) -> str:
    """What a terminal shows at the end."""
    return "\n".join(_lines(report))


def _lines(report: AuditReport) -> Iterator[str]:
    for name, found in report.detector.items():
        yield f"detector on {name}: sensitivity {_text(found.sensitivity)}, specificity {_text(found.specificity)}"
    corrected = next(iter(report.detector), "")
    yield f"\n{'generator':<22}{'images':>8}{'called faulty':>25}{'corrected':>25}{'parts wrong':>25}"
    for name, found in report.generators.items():
        cells = (found.rate, found.corrected.get(corrected), found.parts)
        yield f"{name:<22}{found.images:>8}" + "".join(f"{_text(cell):>25}" for cell in cells) + _missing(found)
    for name, found in report.contrasts.items():
        cells = (found.rate, found.corrected.get(corrected), found.parts)
        yield f"{name:<30}" + "".join(f"{_text(cell):>25}" for cell in cells) + f"  {_pairing(found)}"
    yield f"\n{'called faulty as':<22}" + "".join(f"{name:>25}" for name in report.generators)
    for fault in dict.fromkeys(fault for found in report.generators.values() for fault in found.by_fault):
        cells = (found.by_fault.get(fault) for found in report.generators.values())
        yield f"{fault:<22}" + "".join(f"{_text(cell):>25}" for cell in cells)


def _text(found: Interval | None) -> str:
    return "-" if found is None else f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _missing(found: GeneratorRates) -> str:
    lost = found.unread + found.unanswered
    return f"  {lost} not read or not answered" if lost else ""


def _pairing(found: Contrast) -> str:
    return f"paired on {found.prompts} prompts" if found.paired else "not paired: no prompt in common"


def _flat(row: Row[Audited]) -> dict[str, Any]:
    record = row.record.model_dump(include=set(SCHEMA.names))
    return {**record, "boxes": [list(box) for box in row.record.boxes], "data": row.images["image"]}

"""The table of an ablation: its records, and the same as Markdown, CSV and plain text. Measures nothing."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from artiagent.records import Interval, Record

Figures = dict[str, Interval]

LABELS = {
    "accepted": "accepted", "row_evaluations": "row evaluations per accepted pair",
    "seconds": "seconds per accepted pair", "change_inside": "change inside", "overlap": "overlap",
    "audit_ring": "audit: ring", "audit_background": "audit: background", "macro_f1": "macro-F1", "auroc": "AUROC",
}  # fmt: skip
DETECTION = ("macro_f1", "auroc")


class RowResult(Record):
    """A row of the table."""

    name: str
    group: str
    set: dict[str, Any]
    note: str = ""
    planned: int  # pairs with an artifact, in scored groups
    accepted: int
    replanned: int = 0  # planned pairs whose plan differs from the reference's for this source and variant
    trained_on: int | None = None  # pairs
    seconds: float | None = None  # of the synthesis stage, loading the model included
    audit: str  # verdict
    figures: Figures  # metric -> value with its interval
    differences: Figures  # metric -> this row minus the reference, paired


class ReconstructionResult(Record):
    """A setting of solver and steps, averaged over sources."""

    solver: str
    steps: int
    values: bool
    row_evaluations: int
    figures: Figures  # psnr, distance, seconds


class AblationTable(Record):
    """Everything that was measured."""

    name: str
    reference: str
    sources: int
    images: int  # of the benchmark
    rows: tuple[RowResult, ...]
    base: Figures  # detection before any fine-tuning
    reconstruction: tuple[ReconstructionResult, ...]
    provenance: dict[str, str] = {}


def settings(row: RowResult) -> str:
    """What the row sets, in one line."""
    return ", ".join(f"{key} {value}" for key, value in row.set.items()) or "as configured"


def value(row: RowResult, metric: str) -> str:
    """The plain figure; a dash where a metric does not apply."""
    if metric == "seconds":
        return f"{row.seconds / row.accepted:.2f}" if row.seconds is not None and row.accepted else "-"
    found = row.figures.get(metric)
    return "-" if found is None else _number(found.value)


def bounds(found: Interval | None) -> str:
    """``[.66, .75]``, with as many digits as the value has; empty where there is none."""
    return "" if found is None else f"[{_number(found.low, found)}, {_number(found.high, found)}]"


def figure(found: Interval | None) -> str:
    """A value with its interval."""
    return "-" if found is None else f"{_number(found.value)} {bounds(found)}"


def change(row: RowResult, metric: str) -> str:
    """The paired difference to the reference; marked with ``*`` where its interval leaves zero out."""
    found = row.differences.get(metric)
    if found is None:
        return ""
    sign = "+" if found.value >= 0 else "-"
    shown = row.figures[metric]
    return f"{sign}{_number(abs(found.value), shown)}{'*' if found.low > 0 or found.high < 0 else ''}"


def _number(number: float, like: Interval | None = None) -> str:
    return f"{number:.{3 if abs(like.value if like else number) < 2 else 1}f}"


def groups(table: AblationTable) -> dict[str, list[RowResult]]:
    """Rows by group, the reference first in every group."""
    reference = next(row for row in table.rows if row.name == table.reference)
    found: dict[str, list[RowResult]] = {}
    for row in table.rows:
        if row is not reference:
            found.setdefault(row.group, [reference]).append(row)
    return found or {reference.group: [reference]}


def markdown(table: AblationTable) -> str:
    """One table per group of rows, then the reconstructions."""
    lines = [
        f"{table.sources} sources, {table.images} benchmark images; 95 % bootstrap intervals over sources (detection: "
        f"over images). In round brackets the paired difference to `{table.reference}`, * where it excludes 0.",
    ]
    for group, rows in groups(table).items():
        lines += ["", f"### {group}", "", *_header("row", *LABELS.values())]
        lines += [f"| {row.name} | " + " | ".join(_cell(row, metric) for metric in LABELS) + " |" for row in rows]
    if table.base:
        lines += ["", "Before fine-tuning: " + ", ".join(f"{LABELS[m]} {figure(table.base.get(m))}" for m in DETECTION)]
    if table.reconstruction:
        lines += [
            "",
            "### reconstruction",
            "",
            *_header("setting", "PSNR, dB", "distance", "row evaluations", "seconds"),
        ]
        lines += [f"| {' | '.join(reconstruction_cells(result))} |" for result in table.reconstruction]
    return "\n".join(lines) + "\n"


def _header(*titles: str) -> list[str]:
    return ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]


def _cell(row: RowResult, metric: str) -> str:
    parts = (value(row, metric), bounds(row.figures.get(metric)), change(row, metric))
    return f"{parts[0]} {parts[1]}{f' ({parts[2]})' if parts[2] else ''}".strip()


def reconstruction_cells(result: ReconstructionResult) -> list[str]:
    """Setting, PSNR, distance, row evaluations, seconds."""
    name = f"{result.solver} {result.steps}" if result.steps else result.solver
    shown = [figure(result.figures.get(metric)) for metric in ("psnr", "distance")]
    cost = str(result.row_evaluations) if result.steps else "-"
    return [f"{name}{', cached values' if result.values else ''}", *shown, cost, figure(result.figures.get("seconds"))]


def comma_separated(table: AblationTable) -> str:
    """One line per row and metric: row, group, settings, metric, value, low, high, n, difference with its interval."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        ("row", "group", "settings", "metric", "value", "low", "high", "n", "minus_reference", "d_low", "d_high")
    )
    for row in table.rows:
        head = (row.name, row.group, settings(row))
        for metric, value in (("planned", row.planned), ("accepted_pairs", row.accepted), ("seconds", row.seconds)):
            writer.writerow((*head, metric, value, *[""] * 6))
        for metric, found in row.figures.items():
            writer.writerow((*head, metric, *_numbers(found), found.n, *_numbers(row.differences.get(metric))))
    for result in table.reconstruction:
        name = f"{result.solver}-{result.steps}"
        head = (name, "reconstruction", "cached values" if result.values else "live values")
        for metric, found in result.figures.items():
            writer.writerow((*head, metric, *_numbers(found), found.n, *[""] * 3))
    return buffer.getvalue()


def text(table: AblationTable) -> str:
    """What the command prints at its end; intervals for the audit and the scores only."""
    head = f"{'row':<26}{'accepted':>14}{'evals/pair':>12}{'s/pair':>8}{'change':>8}{'overlap':>9}"
    lines = [f"{head}{'audit, ring':>22}{'macro-F1':>22}{'AUROC':>22}"]
    for group, rows in groups(table).items():
        lines += ["", group, *(_text_row(row) for row in rows)]
    if table.base:
        scores = "".join(f"{figure(table.base.get(metric)):>22}" for metric in DETECTION)
        lines += ["", f"{'before fine-tuning':<99}{scores}"]
    return "\n".join(lines)


def _text_row(row: RowResult) -> str:
    share = f"{row.accepted} of {row.planned}"
    shown = zip(("row_evaluations", "seconds", "change_inside", "overlap"), (12, 8, 8, 9), strict=True)
    plain = "".join(f"{value(row, metric):>{width}}" for metric, width in shown)
    scores = "".join(f"{figure(row.figures.get(metric)):>22}" for metric in ("audit_ring", *DETECTION))
    return f"{row.name:<26}{share:>14}{plain}{scores}"


def _numbers(found: Interval | None) -> Iterator[str]:
    return iter(("", "", "")) if found is None else (f"{v:.6g}" for v in (found.value, found.low, found.high))

"""The table of a study: its records, and the same as Markdown and CSV. Measures nothing."""

from __future__ import annotations

import csv
import io
from typing import Any

from artiagent.records import Interval, Record

Figures = dict[str, Interval]

LABELS = {
    "macro_f1": "macro-F1", "auroc": "AUROC", "recall_at_10": "recall at 10 % false alarms", "iou": "IoU",
    "rouge_l": "ROUGE-L", "grounded_recall": "grounded recall",
}  # fmt: skip


class RowResult(Record):
    """A row of a group: means over its seeds."""

    name: str
    set: dict[str, Any]
    faults: str
    note: str = ""
    pairs: int  # trained on
    sources: int  # that they come from
    seconds: float | None  # of training and answering, mean over undisturbed runs, as the machine was loaded
    figures: Figures  # metric -> value; intervals over images and seeds
    seeds: dict[str, tuple[float, ...]]  # metric -> value of every seed
    by_fault: Figures  # fault type -> recall at 10 % false alarms
    differences: Figures  # metric -> this row minus the reference, paired
    gains: Figures  # metric -> this row minus the base, paired
    share: Figures = {}  # metric -> gain as a share of the drawn row's gain, in a group that has such a row


class CurvePoint(Record):
    """A size and what the fitted curve says there."""

    pairs: int
    value: Interval


class Curve(Record):
    """error = floor + excess * (pairs / start) ** -exponent, error = 1 - metric."""

    metric: str
    start: int
    excess: Interval
    exponent: Interval
    floor: Interval
    band: tuple[CurvePoint, ...]  # the metric along the curve, beyond the largest size included
    beyond: tuple[CurvePoint, ...]  # at the next doublings
    steps: Figures  # "64 - 32" -> difference of the metric between neighbouring sizes, paired
    missed: tuple[int, ...] = ()  # sizes whose measured interval the fitted curve does not pass

    @property
    def falling(self) -> list[str]:
        """Steps at which more data are surely worse."""
        return [name for name, found in self.steps.items() if found.high < 0]


class GroupResult(Record):
    """Rows that answer one question."""

    name: str
    title: str
    note: str
    reference: str
    seeds: tuple[int, ...]
    rows: tuple[RowResult, ...]
    curves: tuple[Curve, ...] = ()

    @property
    def metrics(self) -> list[str]:
        return [metric for metric in LABELS if any(metric in row.figures for row in self.rows)]

    @property
    def by_name(self) -> dict[str, RowResult]:
        return {row.name: row for row in self.rows}


class StudyTable(Record):
    """Everything that was measured."""

    name: str
    benchmark: str
    images: int
    resamples: int
    base: Figures
    base_by_fault: Figures
    groups: tuple[GroupResult, ...]
    machine: str
    provenance: dict[str, str] = {}


def figure(found: Interval | None) -> str:
    """A value with its interval; a dash where there is none."""
    return "-" if found is None else f"{found.value:.3f} {bounds(found)}"


def bounds(found: Interval | None) -> str:
    """``[0.661, 0.752]``; empty where there is none."""
    return "" if found is None else f"[{found.low:.3f}, {found.high:.3f}]"


def change(found: Interval | None) -> str:
    """A difference, marked with ``*`` where its interval leaves zero out; empty where there is none."""
    return "" if found is None else f"{found.value:+.3f}{'*' if is_sure(found) else ''}"


def is_sure(difference: Interval) -> bool:
    """Whether the interval of a difference leaves zero out."""
    return difference.low > 0 or difference.high < 0


def markdown(table: StudyTable) -> str:
    """A table for every group: a row per row of the group and one for the base, differences in brackets."""
    lines = []
    for group in table.groups:
        lines += [f"### {group.title}", "", *_header("", "pairs", *(LABELS[m] for m in group.metrics))]
        lines.append(f"| base | 0 | {' | '.join(figure(table.base.get(m)) for m in group.metrics)} |")
        for row in group.rows:
            lines.append(f"| {row.name} | {row.pairs} | {' | '.join(_cell(row, m) for m in group.metrics)} |")
        faults = list(table.base_by_fault)
        lines += ["", *_header("recall at 10 % false alarms", *faults)]
        for name, found in {"base": table.base_by_fault, **{row.name: row.by_fault for row in group.rows}}.items():
            lines.append(f"| {name} | {' | '.join(figure(found.get(fault)) for fault in faults)} |")
        lines.append("")
    return "\n".join(lines)


def _header(*titles: str) -> list[str]:
    return ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]


def _cell(row: RowResult, metric: str) -> str:
    found = change(row.differences.get(metric))
    return f"{figure(row.figures.get(metric))}{f' ({found})' if found else ''}"


def comma_separated(table: StudyTable) -> str:
    """A line per group, row and metric: value and interval, values of the seeds, differences to reference and base."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    head = ("group", "row", "faults", "pairs", "sources", "seconds", "metric", "value", "low", "high", "n", "seeds")
    writer.writerow((*head, "minus_reference", "d_low", "d_high", "minus_base", "b_low", "b_high"))
    for metric, found in table.base.items():
        writer.writerow(("", "base", "", 0, 0, "", metric, *_numbers(found), found.n, *[""] * 7))
    for group in table.groups:
        for row in group.rows:
            for metric, found in row.figures.items():
                seeds = " ".join(f"{value:.6g}" for value in row.seeds[metric])
                facts = (group.name, row.name, row.faults, row.pairs, row.sources, row.seconds or "")
                against = (*_numbers(row.differences.get(metric)), *_numbers(row.gains.get(metric)))
                writer.writerow((*facts, metric, *_numbers(found), found.n, seeds, *against))
    return buffer.getvalue()


def _numbers(found: Interval | None) -> tuple[str, ...]:
    return ("",) * 3 if found is None else tuple(f"{v:.6g}" for v in (found.value, found.low, found.high))

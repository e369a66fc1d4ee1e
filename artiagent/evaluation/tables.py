"""A report as a table for people and as CSV. Computes nothing."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from artiagent.records import EvaluationReport, Interval

# One block for each task; a wide one would be cut by a terminal.
COLUMNS: dict[str, tuple[str, ...]] = {
    "detection": ("accuracy", "macro_f1", "auroc", "recall_at_10"),
    "localization": ("iou", "pixel_f1", "box_f1", "false_alarm_area", "empty_on_clean"),
    "explanation": ("rouge_l", "grounded_recall", "css"),
}
_CELL = 20  # characters of ".731 [.694, .766]" and a gap
_NAME = 24
_FIELDS = ("benchmark", "benchmark_sha256", "prompt_hash", "model", "model_sha256", "group", "metric")


def text_table(report: EvaluationReport) -> str:
    """One benchmark: metrics as columns, models and baselines as rows, 95 % intervals; statuses of answers below."""
    lines = [f"{report.benchmark}: {report.n} images, {report.n_faulty} faulty; 95 % intervals over images"]
    for task, columns in COLUMNS.items():
        rows = {name: scores for name, scores in report.scores.items() if scores.keys() & set(columns)}
        present = [column for column in columns if any(column in scores for scores in rows.values())]
        if present:
            lines += ["", f"{task:<{_NAME}}" + "".join(f"{column:<{_CELL}}" for column in present).rstrip()]
            lines += [f"{_fit(name):<{_NAME}}" + _cells(scores, present) for name, scores in rows.items()]
    lines += ["", "answers by status"]
    lines += [f"{_fit(name):<{_NAME}}{_grouped(found)}" for name, found in report.statuses.items()]
    return "\n".join(lines)


def report_csv(report: EvaluationReport) -> str:
    """All figures of the report and its further ones, one a line; ``group`` is a fault type or ``generator:NAME``, and
    empty for all images."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*_FIELDS, "value", "low", "high", "n"))
    for part in (report, *report.further):
        for model, group, metric, found in _figures(part):
            key = (part.benchmark, part.benchmark_sha256, part.prompt_hash, model, part.models.get(model, ""))
            writer.writerow((*key, group, metric, *(f"{v:.6f}" for v in (found.value, found.low, found.high)), found.n))
    return text.getvalue()


def _figures(part: EvaluationReport) -> Iterator[tuple[str, str, str, Interval]]:
    for model, scores in part.scores.items():
        groups = {k.removeprefix(f"{model}/"): v for k, v in part.breakdown.items() if k.startswith(f"{model}/")}
        for group, found in {"": scores, **groups}.items():
            for metric, interval in found.items():
                yield model, group, metric, interval


def _cells(scores: dict[str, Interval], columns: list[str]) -> str:
    return "".join(f"{_cell(scores.get(column)):<{_CELL}}" for column in columns).rstrip()


def _cell(found: Interval | None) -> str:
    """``.731 [.694, .766]``; a dash where a metric does not apply."""
    if found is None:
        return "-"
    value, low, high = (f"{number:.3f}" for number in (found.value, found.low, found.high))
    return f"{_short(value)} [{_short(low)}, {_short(high)}]"


def _short(number: str) -> str:
    """``.731``, ``1.00``: four characters each."""
    return number.removeprefix("0")[:4]


def _grouped(statuses: dict[str, int]) -> str:
    """``detection ok 600; localization ok 300, prose 12``."""
    tasks: dict[str, list[str]] = {}
    for key, count in statuses.items():
        task, _, status = key.partition(":")
        tasks.setdefault(task, []).append(f"{status} {count}")
    return "; ".join(f"{task} {', '.join(found)}" for task, found in tasks.items())


def _fit(name: str) -> str:
    return name if len(name) < _NAME else f"{name[: _NAME - 4]}..."

"""A board as text: the terminal's tables, CSV and columns in long format. Measures nothing."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any, NamedTuple

from artiagent.leaderboard.board import Board, Scores, Standing, Table
from artiagent.leaderboard.quoted import QuotedRow, paper_table
from artiagent.records import Interval

LABELS = {
    "accuracy": "accuracy", "macro_f1": "macro-F1", "auroc": "AUROC", "recall_at_10": "recall at 10 % FA",
    "iou": "IoU", "pixel_f1": "pixel F1", "box_f1": "box F1", "false_alarm_area": "false-alarm area",
    "rouge_l": "ROUGE-L", "grounded_recall": "grounded recall", "css": "CSS", "recall": "recall",
}  # fmt: skip
WIDTH = 120
NAME, CELL, UNREAD = 29, 16, 6  # widths of the terminal's columns; a difference has a sign more
IN_TERMINAL = ("macro_f1", "auroc", "iou", "rouge_l", "pixel_f1")  # beside the metric that the table is sorted by
FINE = ("ok", "empty", "too_many")  # statuses of answers that could be read


class Cell(NamedTuple):
    """One figure in long format. ``low`` and ``high`` are None where there is no interval."""

    model: str
    benchmark: str
    revision: str
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int
    quoted: bool
    kind: str  # model, trivial, quoted
    part: str  # fault type or generator, "" for the whole benchmark
    prompts: str


def cells(board: Board) -> list[Cell]:
    """Every figure: models, trivial baselines and quoted rows, parts, counts of answers by status as ``answers
    TASK:STATUS``, and paired differences as ``minus best: METRIC`` and ``minus base: METRIC``."""
    return [cell for table in board.tables for cell in _cells(table)]


def _cells(table: Table) -> Iterator[Cell]:
    where, end = (table.benchmark, table.benchmark_sha256), table.prompt_hash
    for row in table.models:
        figures = [("", "", row.scores), ("minus best: ", "", row.to_best), ("minus base: ", "", row.to_base)]
        figures += [("", part, scores) for part, scores in row.slices.items()]
        for prefix, part, scores in figures:
            for metric, i in scores.items():
                yield Cell(
                    row.model, *where, f"{prefix}{metric}", i.value, i.low, i.high, i.n, False, "model", part, end
                )
        for status, count in row.statuses.items():
            yield Cell(row.model, *where, f"answers {status}", count, None, None, table.n, False, "model", "", end)
    for name, scores in table.trivial.items():
        for metric, i in scores.items():
            yield Cell(name, *where, metric, i.value, i.low, i.high, i.n, False, "trivial", "", end)
    for quoted in table.quoted:
        for metric, value in quoted.scores[table.published].items():
            yield Cell(quoted.model, *where, metric, value, None, None, table.n, True, "quoted", "", "")


def comma_separated(board: Board) -> str:
    """CSV of ``cells``, with a header; an empty field is None."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(Cell._fields)
    writer.writerows(cells(board))
    return buffer.getvalue()


def columns(board: Board) -> dict[str, list[Any]]:
    """``cells`` by column, as MLflow's ``log_table`` takes them."""
    found = cells(board)
    return {name: [getattr(cell, name) for cell in found] for name in Cell._fields}


def unreadable(row: Standing) -> int:
    """Answers that could not be read and count as wrong."""
    return sum(count for status, count in row.statuses.items() if status.rpartition(":")[2] not in FINE)


def text(board: Board) -> str:
    """What the command prints; no line of a table is wider than ``WIDTH``."""
    lines: list[str] = []
    for table in board.tables:
        lines += [*map(_clip, _text(table)), ""]
    lines += board.notes
    if lone := sorted({table.benchmark for table in board.tables if not table.published}):
        lines.append(f"{paper_table().source} is about other images than {', '.join(lone)}: not shown beside them.")
    return "\n".join(lines)


def _text(table: Table) -> Iterator[str]:
    shown = [table.sort, *(m for m in IN_TERMINAL if m in table.metrics and m != table.sort)][:4]
    yield f"{table.benchmark}  {table.n} images, {table.n_faulty} faulty, revision {table.benchmark_sha256[:12]}"
    if table.apart:
        yield f"  {table.apart}"
    first, *others = [LABELS.get(metric, metric) for metric in shown]
    yield _columns("model", [first, "minus best", *others], "unread")
    for row in table.models:
        yield _line(row.model, row.scores, shown, row.to_best.get(table.sort), str(unreadable(row) or "-"))
    for name, scores in table.trivial.items():
        yield _line(f"  {name}", scores, shown)
    if table.quoted:
        yield f"  quoted, {paper_table().source} ({table.published}), no intervals; * not comparable:"
    for quoted in table.quoted:
        yield _quoted_line(quoted, table.published, shown)


def _line(name: str, scores: Scores, shown: list[str], difference: Interval | None = None, last: str = "") -> str:
    first, *others = [brief(scores.get(metric), ",") for metric in shown]
    return _columns(name, [first, brief(difference, ","), *others], last)


def _quoted_line(row: QuotedRow, benchmark: str, shown: list[str]) -> str:
    values = row.scores[benchmark]
    found = [number(values[m], 3) if m in values else "-" for m in shown]
    if "iou" in shown and not row.comparable(benchmark):
        found[shown.index("iou")] += "*"
    return _columns(f"  {row.model}", [found[0], "", *found[1:]])


def _columns(name: str, found: list[str], last: str = "") -> str:
    """A line of the table; the second column holds differences."""
    widths = [CELL + 2 * (k == 1) for k in range(len(found))]
    short = name if len(name) < NAME else name[: NAME - 2] + "~"
    cells_of = "".join(f"{value:>{width}}" for value, width in zip(found, widths, strict=True))
    return f"{short:<{NAME}}{cells_of}{last:>{UNREAD + 1}}"


def brief(found: Interval | None, comma: str = ", ") -> str:
    """``.817 [.79, .85]``; a dash where there is none."""
    if found is None:
        return "-"
    return f"{number(found.value, 3)} [{number(found.low, 2)}{comma}{number(found.high, 2)}]"


def number(value: float, digits: int) -> str:
    """Without the zero before the point, as the paper prints figures below one."""
    text_of = f"{value:.{digits}f}"
    return text_of.replace("0.", ".", 1) if text_of.startswith(("0.", "-0.")) else text_of


def _clip(line: str) -> str:
    return line.rstrip() if len(line) <= WIDTH else line[: WIDTH - 1] + "~"

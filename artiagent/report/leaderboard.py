"""``leaderboard.html``, ``.csv`` and ``.json``: what a person opens, and the same figures for a machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from artiagent.leaderboard.board import COMPARED, Board, Table
from artiagent.leaderboard.quoted import SHOWN, paper_table
from artiagent.leaderboard.table import LABELS, comma_separated, number, unreadable
from artiagent.records import Interval
from artiagent.report.charts import score_chart
from artiagent.report.page import environment
from artiagent.store import write_atomic

PAGE, CSV, JSON = "leaderboard.html", "leaderboard.csv", "leaderboard.json"
CHARTED = 14  # rows: more do not fit into a figure that is read
PARTS = ("recall", "auroc", "recall_at_10", "iou", "rouge_l", "grounded_recall")


def write_leaderboard(folder: Path, board: Board, galleries: Mapping[str, dict[str, Any]] | None = None) -> None:
    """Write the three files into ``folder``.

    Args:
        folder: created.
        board: the figures.
        galleries: key of a table -> its strips (``artiagent.report.strips.gallery``).
    """
    write_atomic(folder / JSON, board.model_dump_json(indent=1).encode())
    write_atomic(folder / CSV, comma_separated(board).encode())
    write_atomic(folder / PAGE, render_leaderboard(board, galleries or {}).encode())


def render_leaderboard(board: Board, galleries: Mapping[str, dict[str, Any]]) -> str:
    """HTML text, self-contained."""
    paper = paper_table()
    return (
        environment()
        .get_template("leaderboard.html.j2")
        .render(
            board=board, paper=paper, galleries=galleries, labels=LABELS, number=number, chart=chart, surely=surely,
            unreadable=unreadable, statuses=statuses, parts=parts, compared=COMPARED,
            quoted_columns=quoted_columns, paper_columns=_paper_columns(), plain=plain,
            lone=sorted({table.benchmark for table in board.tables if not table.published}),
        )
    )  # fmt: skip


def chart(table: Table) -> str:
    """Models and trivial baselines with their intervals, inline SVG."""
    rows = {row.model: row.scores for row in table.models[:CHARTED]} | table.trivial
    figures = {name: {m: i.model_dump() for m, i in scores.items()} for name, scores in rows.items()}
    shown = dict.fromkeys((table.sort, "macro_f1", "auroc", "iou", "rouge_l"))
    return score_chart(figures, tuple(shown)[:4], accented=[row.model for row in table.models[:CHARTED]])


def surely(found: Interval | None) -> str:
    """CSS class of a difference whose interval excludes zero."""
    if found is None or found.low <= 0 <= found.high:
        return ""
    return "up" if found.value > 0 else "down"


def parts(table: Table) -> dict[str, dict[str, dict[str, Any]]]:
    """Fault type or generator -> model -> metric -> interval."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in table.models:
        for part, scores in row.slices.items():
            found.setdefault(part, {})[row.model] = {metric: scores[metric] for metric in PARTS if metric in scores}
    return dict(sorted(found.items()))


def statuses(table: Table) -> list[str]:
    """Every ``task:status`` that any model's answers have."""
    return sorted({status for row in table.models for status in row.statuses})


def quoted_columns(table: Table) -> list[tuple[str, str]]:
    """Pairs of columns per task that the paper has on this benchmark: (task, metric)."""
    shown = {metric for row in table.quoted for metric in row.scores[table.published]}
    return [(task, m) for task, pair in paper_table().metrics.items() for m in pair if m in shown]


def plain(value: float | None) -> str:
    """A quoted figure as printed: three digits, no interval."""
    return "–" if value is None else number(value, 3)


def _paper_columns() -> list[tuple[str, tuple[str, ...]]]:
    """(benchmark, metrics) in the paper's order of columns."""
    table = paper_table()
    return [
        (name, tuple(m for m in SHOWN if any(m in row.scores.get(name, {}) for row in table.rows)))
        for name in table.benchmarks
    ]

"""What a person opens after an ablation: tables, charts, and the same jobs in all rows of a group side by side."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from artiagent.ablation.metrics import RowData
from artiagent.ablation.table import (
    DETECTION,
    LABELS,
    AblationTable,
    Figures,
    RowResult,
    bounds,
    change,
    comma_separated,
    groups,
    markdown,
    reconstruction_cells,
    settings,
    value,
)
from artiagent.instruction.conversations import usable
from artiagent.records import ARTIFACT_TOOLS, Pair
from artiagent.report.charts import score_chart, tradeoff_chart
from artiagent.report.page import environment, example
from artiagent.store import Row, read_rows, write_atomic

PAGE, TABLE = "report.html", "ablation.json"
SHOWN = ("accepted", "change_inside", "row_evaluations", "macro_f1", "auroc")
TRACES = ("audit_ring", "audit_background")
Job = tuple[str, int]  # source and variant: what a job is called in every plan


def write_ablation(folder: Path, table: AblationTable, rows: Sequence[RowData], per_tool: int) -> None:
    """Write ``report.html``, the table as JSON, CSV and Markdown, and the charts as SVG into ``folder``.

    Args:
        folder: ``runs/<name>``; created.
        table: the figures.
        rows: what the rows made; the gallery reads their pairs.
        per_tool: jobs per tool that the gallery shows.
    """
    charts = {name: chart for name, chart in _charts(table).items() if chart}
    for name, chart in charts.items():
        write_atomic(folder / "charts" / f"{name.replace(' ', '-')}.svg", chart.encode())
    write_atomic(folder / TABLE, table.model_dump_json(indent=1).encode())
    write_atomic(folder / "ablation.csv", comma_separated(table).encode())
    write_atomic(folder / "ablation.md", markdown(table).encode())
    labels = {key: label for key, label in LABELS.items() if any(value(row, key) != "-" for row in table.rows)}
    page = environment().get_template("ablation.html.j2").render(
        table=table, groups=groups(table), charts=charts, gallery=gallery(table, rows, per_tool),
        labels=labels, detection=DETECTION, value=value, bounds=bounds, change=change, settings=settings,
        reconstruction_cells=reconstruction_cells, twins_differ=twins_differ,
    )  # fmt: skip
    write_atomic(folder / PAGE, page.encode())


def gallery(table: AblationTable, rows: Sequence[RowData], per_tool: int) -> dict[Job, dict[str, dict[str, Any]]]:
    """Job -> row name -> example; the jobs are the reference's first accepted ones of every tool, each of a source of
    its own. A row that lacks a job, or planned none there, has no entry."""
    by_name = {data.row.name: data for data in rows}
    chosen = _chosen(by_name[table.reference], per_tool)
    found: dict[Job, dict[str, dict[str, Any]]] = {job: {} for job in chosen}
    for name, data in by_name.items():
        for row in _pairs(data, set(chosen)):
            found[row.record.source_id, row.record.variant][name] = example(row)
    return found


def twins_differ(rows: Sequence[RowResult], seen: Mapping[str, dict[str, Any]]) -> bool:
    """Whether the clean side of a job depends on the row, so that one picture does not stand for all."""
    return len({seen[row.name]["clean"] for row in rows if row.name in seen}) > 1


def _chosen(data: RowData, per_tool: int) -> list[Job]:
    jobs: dict[str, list[Job]] = defaultdict(list)
    sources: set[str] = set()
    accepted = (row.record for row in read_rows(data.curated, Pair, ()) if usable(row.record))
    for pair in sorted(accepted, key=lambda pair: pair.job_id):
        tool = pair.artifacts[0].injection.tool
        if len(pair.artifacts) == 1 and len(jobs[tool]) < per_tool and pair.source_id not in sources:
            jobs[tool].append((pair.source_id, pair.variant))
            sources.add(pair.source_id)
    return [job for turn in zip_longest(*(jobs[tool] for tool in ARTIFACT_TOOLS)) for job in turn if job is not None]


def _pairs(data: RowData, jobs: set[Job]) -> list[Row[Pair]]:
    keys = {row.key for row in read_rows(data.curated, Pair, ()) if (row.record.source_id, row.record.variant) in jobs}
    return list(read_rows(data.curated, Pair, wanted=keys.__contains__)) if keys else []


def _charts(table: AblationTable) -> dict[str, str]:
    """SVG by group of rows, ``detection`` of all rows that have one, and ``reconstruction``."""
    charts = {group: _group_chart(table, rows) for group, rows in groups(table).items()}
    learnt = {row.name: _plain(row.figures) for row in table.rows if row.trained_on is not None}
    if learnt:
        charts["detection"] = score_chart(
            {**learnt, "before fine-tuning": _plain(table.base)}, DETECTION, (table.reference,)
        )
    curves: dict[str, list[tuple[float, dict[str, Any]]]] = defaultdict(list)
    bound: dict[str, Any] = {}
    for result in table.reconstruction:
        figures = _plain(result.figures)
        if result.steps:
            curves[f"{result.solver}{'' if result.values else '*'}"].append((result.row_evaluations, figures))
        else:
            bound = figures
    if curves:
        charts["reconstruction"] = tradeoff_chart(curves, ("psnr", "distance"), "row evaluations", bound)
    return charts


def _group_chart(table: AblationTable, rows: list[RowResult]) -> str:
    scores = {row.name: _plain(row.figures) for row in rows}
    told = Counter(m for row in rows for m in TRACES if m in row.figures and not _is_blind(row, m))
    return score_chart(scores, (*SHOWN, *told), accented=(table.reference,))


def _plain(figures: Figures) -> dict[str, dict[str, float]]:
    return {metric: found.model_dump() for metric, found in figures.items()}


def _is_blind(row: RowResult, metric: str) -> bool:
    return row.figures[metric].low <= 0.5 <= row.figures[metric].high

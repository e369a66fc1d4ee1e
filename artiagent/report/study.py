"""What a person opens after a study: findings, charts and tables of every group, self-contained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from artiagent.report.charts import plt
from artiagent.report.page import environment
from artiagent.report.study_charts import as_png, as_svg, draw_curves, draw_differences, draw_rows
from artiagent.store import write_atomic
from artiagent.studies.findings import findings, seeds_told
from artiagent.studies.table import (
    LABELS,
    GroupResult,
    StudyTable,
    bounds,
    change,
    comma_separated,
    markdown,
)

PAGE, TABLE = "report.html", "study.json"


def write_study(folder: Path, table: StudyTable) -> None:
    """Write ``report.html``, the table as JSON, CSV and Markdown, and the charts as SVG and PNG into ``folder``.

    Args:
        folder: ``runs/<name>``; created.
        table: the figures.
    """
    charts: dict[str, dict[str, str]] = {}
    for group in table.groups:
        charts[group.name] = {}
        for kind, figure in _figures(table, group).items():
            charts[group.name][kind] = as_svg(figure)
            write_atomic(folder / "charts" / f"{group.name}-{kind}.svg", charts[group.name][kind].encode())
            write_atomic(folder / "charts" / f"{group.name}-{kind}.png", as_png(figure))
            plt.close(figure)
    write_atomic(folder / TABLE, table.model_dump_json(indent=1).encode())
    write_atomic(folder / "study.csv", comma_separated(table).encode())
    write_atomic(folder / "study.md", markdown(table).encode())
    page = environment().get_template("study.html.j2").render(
        table=table, charts=charts, findings=findings(table), labels=LABELS, bounds=bounds, change=change,
        seeds_told=seeds_told, settings=settings,
    )  # fmt: skip
    write_atomic(folder / PAGE, page.encode())


def settings(row_set: dict[str, Any]) -> str:
    """What a row sets, in one line."""
    return ", ".join(f"{key} {_told(value)}" for key, value in row_set.items()) or "as configured"


def _told(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_told(item) for item in value) + "]"
    return " ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def _figures(table: StudyTable, group: GroupResult) -> dict[str, Any]:
    if group.curves:
        return {"curve": draw_curves(table, group)}
    found = {"scores": draw_rows(table, group)}
    return found | ({"differences": draw_differences(group)} if len(group.rows) > 1 else {})

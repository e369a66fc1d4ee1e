"""Charts of a study: a curve over the number of pairs, and rows beside one another, as figures of matplotlib."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from artiagent.records import Interval
from artiagent.report.charts import ACCENT, INK, SECOND, plt
from artiagent.studies.table import LABELS, Curve, GroupResult, RowResult, StudyTable

COLUMNS = 3  # panels side by side
FILLED = 0.16  # opacity of a band


def draw_curves(table: StudyTable, group: GroupResult) -> Any:
    """A panel per fitted metric: every model, means with intervals, the fitted curve with its band and continuation,
    the base as a line and drawn faults, where a group has them, as a point of their own."""
    figure, axes = plt.subplots(1, len(group.curves), figsize=(5.4 * len(group.curves), 3.9), squeeze=False)
    drawn = [row for other in table.groups for row in other.rows if row.faults == "drawn"]
    for axis, curve in zip(axes[0], group.curves, strict=True):
        _draw_curve(axis, curve, group.rows)
        if (base := table.base.get(curve.metric)) is not None:
            axis.axhspan(base.low, base.high, color=INK, alpha=FILLED, lw=0)
            axis.axhline(base.value, color=INK, lw=1, ls=":")
            end = curve.band[-1].pairs
            axis.text(end, base.high, "base, not fine-tuned", fontsize=8, color=INK, ha="right", va="bottom")
        for row in drawn[:1]:
            _draw_oracle(axis, row, curve.metric)
        axis.set_title(LABELS[curve.metric], fontsize=10, color=INK, loc="left")
        axis.set_xlabel("training pairs", fontsize=9, color=INK)
    figure.legend(
        handles=_curve_legend(), fontsize=8, frameon=False, labelcolor=INK, loc="upper left", ncols=4,
        borderaxespad=0.3,
    )  # fmt: skip
    figure.tight_layout(rect=(0, 0, 1, 0.94))
    return figure


def draw_rows(table: StudyTable, group: GroupResult) -> Any:
    """A panel per metric: rows as means with intervals, every model a small ring, a line at the reference."""
    entries = [("base", table.base, {})] + [(row.name, row.figures, row.seeds) for row in group.rows]
    figure, panels = _grid(group.metrics, len(entries))
    for axis, metric in panels:
        for place, (name, figures, seeds) in enumerate(entries):
            colour = INK if name == "base" else ACCENT
            _dot(axis, figures.get(metric), place, colour)
            for value in seeds.get(metric, ()) if len(seeds.get(metric, ())) > 1 else ():
                axis.plot(value, place + 0.22, "o", mfc="none", mec=colour, ms=3.5, mew=0.8)
        reference = group.by_name[group.reference].figures.get(metric)
        if reference is not None:
            axis.axvline(reference.value, color=ACCENT, lw=0.9, ls=":")
        _name_rows(axis, [name for name, _, _ in entries])
    figure.tight_layout()
    return figure


def draw_differences(group: GroupResult) -> Any:
    """A panel per metric: every row minus the reference, in pairs; coloured where the interval leaves zero out."""
    rows = [row for row in group.rows if row.name != group.reference]
    metrics = [metric for metric in group.metrics if any(metric in row.differences for row in rows)]
    figure, panels = _grid(metrics, len(rows))
    for axis, metric in panels:
        axis.axvline(0, color=INK, lw=0.9)
        for place, row in enumerate(rows):
            found = row.differences.get(metric)
            sure = found is not None and (found.low > 0 or found.high < 0)
            _dot(axis, found, place, SECOND if sure else INK)
        _name_rows(axis, [row.name for row in rows])
    figure.tight_layout()
    return figure


def as_svg(figure: Any) -> str:
    """Transparent, for a page; equal figures give equal text."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def as_png(figure: Any) -> bytes:
    """On white, for a document."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, facecolor="white")
    return buffer.getvalue()


def _draw_curve(axis: Any, curve: Curve, rows: Sequence[RowResult]) -> None:
    at = [point.pairs for point in curve.band]
    values, low, high = (np.array([getattr(p.value, k) for p in curve.band]) for k in ("value", "low", "high"))
    within, beyond = np.array(at) <= rows[-1].pairs, np.array(at) >= rows[-1].pairs
    axis.fill_between(at, low, high, color=ACCENT, alpha=FILLED, lw=0)
    axis.plot(np.array(at)[within], values[within], color=ACCENT, lw=1.3)
    axis.plot(np.array(at)[beyond], values[beyond], color=ACCENT, lw=1.3, ls="--")
    for row in rows:
        found = row.figures[curve.metric]
        axis.plot([row.pairs] * 2, [found.low, found.high], color=ACCENT, lw=1.8, solid_capstyle="round")
        axis.plot(row.pairs, found.value, "o", color=ACCENT, ms=5.5)
        for value in row.seeds[curve.metric]:
            axis.plot(row.pairs * 1.09, value, "o", mfc="none", mec=ACCENT, ms=3.5, mew=0.8)
    ticks = [row.pairs for row in rows] + [point.pairs for point in curve.beyond]
    axis.set_xscale("log", base=2)
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.minorticks_off()
    _bare(axis, "both")


def _draw_oracle(axis: Any, row: RowResult, metric: str) -> None:
    if (found := row.figures.get(metric)) is None:
        return
    axis.axhline(found.value, color=SECOND, lw=1, ls=":")
    axis.plot([row.pairs * 0.92] * 2, [found.low, found.high], color=SECOND, lw=1.8, solid_capstyle="round")
    axis.plot(row.pairs * 0.92, found.value, "D", color=SECOND, ms=5)
    label = f" drawn faults, {row.pairs:,} pairs"
    axis.text(axis.get_xlim()[0], found.value, label, fontsize=8, color=SECOND, va="bottom")


def _curve_legend() -> list[Any]:
    line = plt.Line2D
    return [
        line([], [], color=ACCENT, marker="o", lw=1.8, ms=5.5, label="mean, 95 % interval"),
        line([], [], color=ACCENT, marker="o", mfc="none", lw=0, ms=3.5, label="a model (seed)"),
        line([], [], color=ACCENT, lw=1.3, label="fitted curve with band"),
        line([], [], color=ACCENT, lw=1.3, ls="--", label="continued"),
    ]


def _grid(metrics: Sequence[str], rows: int) -> tuple[Any, Iterable[tuple[Any, str]]]:
    """Figure and (axis, metric); the axes that are left over are hidden."""
    columns = min(COLUMNS, len(metrics))
    lines = -(-len(metrics) // columns)
    height = lines * (0.3 * rows + 0.65)
    figure, axes = plt.subplots(lines, columns, figsize=(3.5 * columns, height), squeeze=False, sharey=True)
    for axis in axes.ravel()[len(metrics) :]:
        axis.set_visible(False)
    panels = list(zip(axes.ravel(), metrics, strict=False))
    for axis, metric in panels:
        axis.set_title(LABELS[metric], fontsize=9, color=INK)
        _bare(axis, "x")
    return figure, panels


def _dot(axis: Any, found: Interval | None, place: float, colour: str) -> None:
    if found is not None:
        axis.plot([found.low, found.high], [place, place], color=colour, lw=2, solid_capstyle="round")
        axis.plot(found.value, place, "o", color=colour, ms=5)


def _name_rows(axis: Any, names: Sequence[str]) -> None:
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)


def _bare(axis: Any, grid: str) -> None:
    axis.tick_params(labelsize=8, colors=INK, length=0)
    axis.grid(axis=grid, color=INK, alpha=0.18, lw=0.6)
    for side in axis.spines.values():
        side.set_visible(False)
    axis.patch.set_alpha(0)

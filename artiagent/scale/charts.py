"""A plan as charts: where time and money go, and what more shards buy.

Knows matplotlib. Does not know where a figure comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from artiagent.report.charts import ACCENT, BAD, INK, SECOND
from artiagent.scale.records import Plan, Quantiles
from artiagent.scale.sweep import FAILS, Curve, Point

STAGES, SHARDS = "plan-stages.png", "plan-shards.png"


def charts(plan: Plan, curves: Sequence[Curve], folder: Path) -> list[Path]:
    """PNG files below ``folder``; nothing of what cannot be drawn. Returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {STAGES: _stages(plan), SHARDS: _shards(curves)}
    return [_saved(figure, folder / name) for name, figure in drawn.items() if figure is not None]


def _stages(plan: Plan) -> Figure | None:
    shown = [s for s in plan.stages if s.hours.p50 is not None and (s.hours.p95 > 0.02 or s.money.p95 > 1)]
    if not shown:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(9, 0.32 * len(shown) + 1.2), sharey=True)
    places = range(len(shown))
    columns = (([s.hours for s in shown], "hours"), ([s.money for s in shown], f"{plan.currency} for machines"))
    for axis, (values, title) in zip(axes, columns, strict=True):
        axis.barh(places, [v.p50 for v in values], color=ACCENT, height=0.6)
        axis.hlines(places, [v.p50 for v in values], [v.p95 for v in values], color=SECOND, lw=2)
        axis.set_title(f"{title}: p50 (bar) to p95 (line)", fontsize=9, color=INK)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(places, [s.name for s in shown])
    axes[0].invert_yaxis()
    return figure


def _shards(curves: Sequence[Curve]) -> Figure | None:
    drawn = [(c, points) for c in curves if (points := [p for p in c.points if p.hours.p50 is not None])]
    if not drawn:
        return None
    size = (2.7 * len(drawn), 4.4)
    figure, axes = plt.subplots(2, len(drawn), figsize=size, squeeze=False, sharex="col")
    for (time, money), (curve, points) in zip(axes.T, drawn, strict=True):
        _over_shards(time, points, [p.hours for p in points], curve.best)
        _over_shards(money, points, [p.money for p in points], curve.best)
        time.set_title(curve.stage, fontsize=9, color=INK)
        money.set_xlabel(f"shards (best: {curve.best})", fontsize=8)
    axes[0, 0].set_ylabel("hours, p50 to p95", fontsize=8)
    axes[1, 0].set_ylabel("money, p50 to p95", fontsize=8)
    figure.suptitle("red: 1 % of the runs or more fail there; what is shown are the others", fontsize=8, color=INK)
    return figure


def _over_shards(axis: Axes, points: Sequence[Point], values: Sequence[Quantiles], best: int) -> None:
    numbers, median = [p.shards for p in points], [v.p50 for v in values]
    axis.fill_between(numbers, median, [v.p95 for v in values], color=ACCENT, alpha=0.25, lw=0)
    axis.plot(numbers, median, color=ACCENT, lw=1.2)
    axis.scatter(numbers, median, c=[BAD if p.failed >= FAILS else ACCENT for p in points], s=14, zorder=3)
    axis.axvline(best, color=SECOND, lw=1, ls=":")
    axis.set(xscale="log", yscale="log")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticks(numbers[::2], [str(n) for n in numbers[::2]], fontsize=7)
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)


def _saved(figure: Figure, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path

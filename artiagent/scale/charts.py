"""A plan as charts: where time and money go, and what more shards buy.

Knows matplotlib. Does not know where a figure comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from artiagent.report.charts import ACCENT, INK, SECOND
from artiagent.scale.plan import Plan
from artiagent.scale.sweep import Curve

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
    figure, axes = plt.subplots(1, len(drawn), figsize=(2.6 * len(drawn), 2.7), squeeze=False)
    for axis, (curve, points) in zip(np.ravel(axes), drawn, strict=True):
        numbers, median = [p.shards for p in points], [p.hours.p50 for p in points]
        axis.fill_between(numbers, median, [p.hours.p95 for p in points], color=ACCENT, alpha=0.25, lw=0)
        axis.plot(numbers, median, color=ACCENT, marker="o", ms=3)
        axis.axvline(curve.best, color=SECOND, lw=1, ls=":")
        axis.set(xscale="log", yscale="log", xlabel=f"shards (best: {curve.best})")
        axis.minorticks_off()
        axis.set_xticks(numbers[::2], [str(n) for n in numbers[::2]], fontsize=7)
        axis.set_title(curve.stage, fontsize=9, color=INK)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("hours, p50 to p95")
    return figure


def _saved(figure: Figure, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path

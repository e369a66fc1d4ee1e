"""The verifiers' part of a run's report: how good, how sure of itself, by tool and by distance.

Reads the figures that the stage wrote; computes nothing new. ``reward.html.j2`` draws what `reward_facts` collects.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from artiagent.report.charts import ACCENT, INK, curve_chart, plt, score_chart
from artiagent.report.study_charts import as_svg

FIGURES, CURVES = "figures.json", "training.json"
LARGEST_DOT = 120.0  # points^2, of the bin with the most comparisons


def reward_facts(folder: Path) -> dict[str, Any]:
    """What the template needs: figures (None of a reward without them, as older versions wrote), charts as SVG."""
    figures = json.loads((folder / FIGURES).read_text()) if (folder / FIGURES).is_file() else None
    curve = json.loads((folder / CURVES).read_text())
    return {
        "figures": figures,
        "curve": curve_chart(curve, ("loss", "pair_accuracy")),
        "calibration": as_svg(draw_calibration(figures["calibration"])) if figures else "",
        "kinds": score_chart(_kinds(figures), ("within", "across"), accented=()) if figures else "",
    }


def draw_calibration(found: dict[str, Any]) -> Any:
    """Told probability against the share that was right, with intervals; a larger dot stands for more comparisons."""
    figure, axis = plt.subplots(figsize=(4.2, 3.6))
    axis.plot([0.5, 1], [0.5, 1], color=INK, lw=0.8, ls=":")
    most = max((b["right"]["n"] for b in found["bins"]), default=1)
    for b in found["bins"]:
        right = b["right"]
        axis.plot([b["told"]] * 2, [right["low"], right["high"]], color=ACCENT, lw=2, alpha=0.5, solid_capstyle="round")
        axis.scatter(b["told"], right["value"], s=12 + LARGEST_DOT * (right["n"] / most) ** 0.5, color=ACCENT, zorder=3)
    axis.set_xlim(0.49, 1.02)
    axis.set_ylim(min([0.5, *(b["right"]["low"] for b in found["bins"])]) - 0.03, 1.03)
    axis.set_xlabel("probability given to the better side", fontsize=8, color=INK)
    axis.set_title("share of comparisons in which it was the clean one", fontsize=9, color=INK)
    axis.tick_params(labelsize=8, colors=INK, length=0)
    axis.grid(color=INK, alpha=0.18, lw=0.6)
    axis.patch.set_alpha(0)
    for side in axis.spines.values():
        side.set_visible(False)
    return figure


def _kinds(figures: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Rows of the chart: tools, then bins of distance."""
    bins = {f"distance {b['low']:.2f} to {b['high']:.2f}": b for b in figures["distances"]}
    return {"all": figures["verifiers"]["ensemble"], **figures["tools"], **bins}

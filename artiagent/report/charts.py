"""Charts of the report as inline SVG: scores with intervals, training curves."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
mpl.rcParams["svg.hashsalt"] = "artiagent"
import matplotlib.pyplot as plt  # noqa: E402  (after the backend is chosen)

INK, ACCENT, SECOND, BAD = "#64748b", "#0f766e", "#b45309", "#dc2626"
# Mid tones that stand out on the light and on the dark page.
SERIES = (ACCENT, "#b45309", "#7c3aed", "#dc2626", "#2563eb", "#ca8a04", "#db2777", "#64748b", "#0891b2", "#65a30d")
LABELS = {
    "macro_f1": "macro-F1", "auroc": "AUROC", "accuracy": "accuracy",
    "recall_at_10": "recall at 10 % FA", "iou": "IoU", "pixel_f1": "pixel F1",
    "rouge_l": "ROUGE-L", "grounded_recall": "grounded recall",
    "accepted": "accepted, share", "row_evaluations": "row evaluations / accepted",
    "change_inside": "change inside targets", "audit_ring": "audit, ring (.5 = no trace)",
    "audit_background": "audit, background (.5)", "psnr": "PSNR, dB", "distance": "perceptual distance",
}  # fmt: skip


def score_chart(
    scores: Mapping[str, Mapping[str, Any]], metrics: tuple[str, ...], accented: Collection[str] | None = None
) -> str:
    """Dots with 95 % intervals, a panel per metric, a row per model; ``accented`` rows stand out, by default two."""
    accented = list(scores)[:2] if accented is None else accented
    shown = [m for m in metrics if any(m in s for s in scores.values())]
    if not shown:
        return ""
    figure, axes = plt.subplots(1, len(shown), figsize=(2.6 * len(shown), 0.34 * len(scores) + 0.7), sharey=True)
    for axis, metric in zip(np.atleast_1d(axes), shown, strict=True):
        for row, (name, values) in enumerate(scores.items()):
            if (i := values.get(metric)) is not None:
                colour = ACCENT if name in accented else INK
                axis.plot([i["low"], i["high"]], [row, row], color=colour, lw=2, solid_capstyle="round")
                axis.plot(i["value"], row, "o", color=colour, ms=5)
        axis.set_title(LABELS.get(metric, metric), fontsize=9, color=INK)
        axis.set_yticks(range(len(scores)), list(scores))
        axis.set_ylim(len(scores) - 0.5, -0.5)
        _plain(axis)
    return _svg(figure)


def curve_chart(points: list[dict[str, Any]], keys: tuple[str, ...]) -> str:
    """Training curves over the running index of logged points; stages are separated by a line."""
    keys = tuple(k for k in keys if any(k in p for p in points))
    if not keys:
        return ""
    figure, axes = plt.subplots(1, len(keys), figsize=(3.1 * len(keys), 2.1))
    for axis, key in zip(np.atleast_1d(axes), keys, strict=True):
        found = [(k, p[key], p.get("stage")) for k, p in enumerate(points) if key in p]
        axis.plot([k for k, _, _ in found], [v for _, v, _ in found], color=ACCENT, lw=1.4)
        for before, after in zip(found, found[1:], strict=False):
            if before[2] != after[2]:
                axis.axvline(after[0], color=SECOND, lw=0.8, ls=":")
        axis.set_title(key.replace("_", " "), fontsize=9, color=INK)
        _plain(axis)
    return _svg(figure)


def tradeoff_chart(
    curves: Mapping[str, Sequence[tuple[float, Mapping[str, Any]]]], metrics: tuple[str, ...], cost: str,
    bound: Mapping[str, Any],
) -> str:  # fmt: skip
    """What a cost buys: a panel per metric, a line per curve with 95 % intervals.

    Args:
        curves: name -> points of (cost, metric -> interval); a name that ends with "*" is dashed.
        metrics: of the panels.
        cost: label of the horizontal axis.
        bound: metric -> interval of what no cost can beat, a dotted line.
    """
    figure, axes = plt.subplots(1, len(metrics), figsize=(4.2 * len(metrics), 3.0))
    colours: dict[str, str] = {}
    for axis, metric in zip(np.atleast_1d(axes), metrics, strict=True):
        for name, points in curves.items():
            colour = colours.setdefault(name.rstrip("*"), (ACCENT, SECOND, INK)[len(colours) % 3])
            style = "--" if name.endswith("*") else "-"
            axis.plot([x for x, _ in points], [p[metric]["value"] for _, p in points], style, color=colour, lw=1.4)
            for x, p in points:
                axis.plot([x, x], [p[metric]["low"], p[metric]["high"]], color=colour, lw=2, alpha=0.5)
        if metric in bound:
            axis.axhline(bound[metric]["value"], color=INK, lw=0.8, ls=":")
        axis.set_title(LABELS.get(metric, metric), fontsize=9, color=INK)
        axis.set_xlabel(cost, fontsize=8, color=INK)
        _plain(axis)
    handles = [plt.Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
    np.atleast_1d(axes)[-1].legend(handles=handles, fontsize=8, frameon=False, labelcolor=INK)
    return _svg(figure)


def share_chart(rows: Mapping[str, Mapping[str, int]], order: Sequence[str]) -> str:
    """A bar per row, cut into the shares of its counts; ``order`` of the counts' names fixes their colours."""
    rows = {name: counts for name, counts in rows.items() if sum(counts.values())}
    if not rows:
        return ""
    figure, axis = plt.subplots(figsize=(9.6, 0.3 * len(rows) + 0.9))
    named: set[str] = set()
    for row, counts in enumerate(rows.values()):
        left, total = 0.0, sum(counts.values())
        for colour, key in zip(SERIES, order, strict=False):
            if not (n := counts.get(key, 0)):
                continue
            axis.barh(row, n / total, left=left, color=colour, height=0.68, label=None if key in named else key)
            if n / total > 0.045:
                axis.text(left + n / total / 2, row, str(n), ha="center", va="center", fontsize=8, color="white")
            left += n / total
            named.add(key)
    axis.set_yticks(range(len(rows)), list(rows))
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlim(0, 1)
    axis.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    handles = {key: plt.Rectangle((0, 0), 1, 1, color=c) for c, key in zip(SERIES, order, strict=False) if key in named}
    axis.legend(
        handles.values(), handles.keys(), loc="lower left", bbox_to_anchor=(0, 1), ncols=6, fontsize=8, frameon=False,
        labelcolor=INK, handlelength=1, handleheight=1,
    )  # fmt: skip
    _plain(axis)
    return _svg(figure)


class Histogram(NamedTuple):
    """Counts [bins] of each series, stacked; ``span`` is shaded, at ``marks`` there is a dotted line."""

    series: Mapping[str, Sequence[int]]
    span: tuple[float, float] | None = None
    marks: Sequence[float] = ()


def histogram_chart(panels: Mapping[str, Histogram], edges: Sequence[float], label: str, columns: int = 1) -> str:
    """A panel for each histogram, all over the same bins (``edges`` [bins + 1]); series keep their colours."""
    if not panels:
        return ""
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(9.6 / columns * min(columns, 2), 0.95 * lines + 0.5), sharex=True, squeeze=False
    )
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel.series))
    colours = dict(zip(names, (ACCENT, BAD, SECOND, INK), strict=False))
    left, width = np.array(edges[:-1]), np.diff(edges)
    for axis, (title, panel) in zip(axes.T.ravel(), panels.items(), strict=False):
        bottom = np.zeros(len(left))
        if panel.span is not None:
            axis.axvspan(*panel.span, color=INK, alpha=0.14, lw=0)
        for name, counts in panel.series.items():
            some = np.flatnonzero(counts)  # empty bars would be most of the file
            axis.bar(left[some], np.take(counts, some), width[some], bottom[some], align="edge", color=colours[name])
            bottom += np.array(counts)
        for mark in panel.marks:
            axis.axvline(mark, color=INK, lw=1.2, ls=":")
        axis.set_title(title, fontsize=9, color=INK, loc="left", pad=3)
        axis.set_yticks([bottom.max()], [f"{bottom.max():.0f}"])
        axis.set_xlim(edges[0], edges[-1])
        _plain(axis)
    for axis in axes.T.ravel()[len(panels) :]:
        axis.set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel(label, fontsize=8, color=INK)
    if len(names) > 1:
        handles = [plt.Rectangle((0, 0), 1, 1, color=colours[name]) for name in names]
        axes[0, -1].legend(
            handles, names, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(names), fontsize=8, frameon=False,
            labelcolor=INK, handlelength=1, handleheight=1, borderaxespad=0.2,
        )  # fmt: skip
    return _svg(figure)


def _plain(axis: Any) -> None:
    axis.tick_params(labelsize=8, colors=INK, length=0)
    axis.grid(axis="x", color=INK, alpha=0.18, lw=0.6)
    for side in axis.spines.values():
        side.set_visible(False)
    axis.patch.set_alpha(0)


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.tight_layout()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]

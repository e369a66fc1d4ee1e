"""``audit.html``: how often generators draw artifacts, of which type, and pictures to check it by.

Knows an AuditReport and the rows behind it. Computes no figure anew.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from artiagent.images import data_uri, encode, scaled
from artiagent.inspection.findings import ARTIFACTS, UNANSWERED, UNREAD
from artiagent.inspection.pictures import upright
from artiagent.mitigation.audit.records import Audited, AuditReport
from artiagent.records import DatasetRef, Interval
from artiagent.report.charts import INK, SERIES, plt
from artiagent.report.page import environment
from artiagent.report.study_charts import as_svg
from artiagent.store import read_rows, write_atomic

PAGE = "audit.html"
WORST, RANDOM = 6, 6  # pictures of each generator
_LONGEST = 320  # px of an embedded picture


def write_page(
    report: AuditReport, sets: Sequence[DatasetRef], records: Sequence[Audited], folder: Path, seed: int
) -> Path:
    """Write the page, self-contained.

    Args:
        report: the figures.
        sets: data sets with the column "image".
        records: theirs.
        folder: for the page.
        seed: of the draw of pictures that nobody chose.
    """
    shown = {
        name: choose([record for record in records if record.generator == name], seed) for name in report.generators
    }
    keys = {f"{r.generator}/{r.image}" for kinds in shown.values() for some in kinds.values() for r in some}
    pictures = {
        row.key: data_uri(encode(scaled(upright(row.images["image"], row.key), _LONGEST), "jpeg"))
        for rows in sets
        for row in read_rows(rows, Audited, ("image",), keys.__contains__)
    }
    page = environment().get_template("audit.html.j2").render(
        report=report, galleries=shown, pictures=pictures, faults=faults(report), chart=fault_chart(report),
        rates=rate_chart(report), cell=_cell, surely=_surely, percent=_percent,
    )  # fmt: skip
    write_atomic(folder / PAGE, page.encode())
    return folder / PAGE


def choose(records: Iterable[Audited], seed: int) -> dict[str, list[Audited]]:
    """The worst images by score, and as many drawn at random from all the answered ones."""
    answered = [record for record in records if record.verdict not in (UNREAD, UNANSWERED)]
    answered.sort(key=lambda record: record.image)
    drawn = random.Random(seed).sample(answered, min(RANDOM, len(answered)))
    worst = sorted(
        (record for record in answered if record.verdict == ARTIFACTS),
        key=lambda record: (-(record.score if record.score is not None else 1.0), record.image),
    )
    return {"The highest P(artifacts)": worst[:WORST], "Drawn at random": drawn}


def faults(report: AuditReport) -> list[str]:
    """Types that were named, the most frequent over all generators first."""
    total: dict[str, float] = {}
    for found in report.generators.values():
        for name, rate in found.by_fault.items():
            total[name] = total.get(name, 0.0) + rate.value
    return sorted(total, key=lambda name: (-total[name], name))


def rate_chart(report: AuditReport) -> str:
    """Called faulty, corrected by each benchmark, and the independent counter: a panel each, a row per generator."""
    panels: dict[str, Mapping[str, Interval | None]] = {
        "called faulty by the VLM": {name: found.rate for name, found in report.generators.items()}
    }
    for benchmark in report.detector:
        panels[f"corrected by {benchmark}"] = {
            name: found.corrected.get(benchmark) for name, found in report.generators.items()
        }
    panels["parts counted wrong"] = {name: found.parts for name, found in report.generators.items()}
    panels = {title: rows for title, rows in panels.items() if any(rows.values())}
    names = list(report.generators)
    figure, axes = plt.subplots(
        1, len(panels), figsize=(3.1 * len(panels) + 1, 0.42 * len(names) + 0.8), sharey=True, squeeze=False
    )
    for axis, (title, rows) in zip(axes[0], panels.items(), strict=True):
        for k, name in enumerate(names):
            if (found := rows[name]) is not None:
                _bar(axis, k, found, SERIES[k % len(SERIES)], 0.62)
        axis.set_title(title, fontsize=9, color=INK)
        axis.set_yticks(range(len(names)), names)
        axis.set_ylim(len(names) - 0.4, -0.6)
        _shares(axis)
    figure.tight_layout()
    return as_svg(figure)


def fault_chart(report: AuditReport) -> str:
    """Rate of each type of fault, generators beside one another; "" where nothing was called faulty."""
    shown, names = faults(report), list(report.generators)
    if not shown:
        return ""
    thick = 0.8 / len(names)
    figure, axis = plt.subplots(figsize=(9.6, (0.2 * len(names) + 0.22) * len(shown) + 0.8))
    for k, name in enumerate(names):
        for row, fault in enumerate(shown):
            if (found := report.generators[name].by_fault.get(fault)) is not None:
                _bar(axis, row + (k - (len(names) - 1) / 2) * thick, found, SERIES[k % len(SERIES)], 0.86 * thick)
    axis.set_yticks(range(len(shown)), shown)
    axis.set_ylim(len(shown) - 0.45, -0.55)
    handles = [plt.Rectangle((0, 0), 1, 1, color=SERIES[k % len(SERIES)]) for k in range(len(names))]
    axis.legend(
        handles, names, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, fontsize=8, frameon=False, labelcolor=INK,
        handlelength=1, handleheight=1,
    )  # fmt: skip
    _shares(axis)
    figure.tight_layout()
    return as_svg(figure)


def _bar(axis: Any, place: float, found: Interval, colour: str, thick: float) -> None:
    axis.barh(place, found.value, height=thick, color=colour, alpha=0.8)
    axis.plot([found.low, found.high], [place, place], color=INK, lw=1.6, solid_capstyle="round")


def _shares(axis: Any) -> None:
    axis.set_xlim(left=0)
    axis.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axis.tick_params(labelsize=8, colors=INK, length=0)
    axis.grid(axis="x", color=INK, alpha=0.18, lw=0.6)
    for side in axis.spines.values():
        side.set_visible(False)
    axis.patch.set_alpha(0)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _cell(found: Interval | None) -> str:
    """``12.3 % [10.0, 14.8]``; a dash where there is no figure."""
    return "–" if found is None else f"{_percent(found.value)} % [{_percent(found.low)}, {_percent(found.high)}]"


def _surely(found: Interval | None) -> str:
    """CSS class of a difference whose interval excludes zero."""
    return "" if found is None or found.low <= 0 <= found.high else "more" if found.value > 0 else "less"

"""What a person opens after a search: judges against transformer calls, gains with intervals, first and last rounds.

Knows figures and the template's needs. Computes nothing about pictures.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np

from artiagent.images import data_uri
from artiagent.mitigation.search.curves import LOWER_IS_BETTER, NAMES, SCORES, better
from artiagent.mitigation.search.records import Candidate, Course, Round, SearchReport
from artiagent.records import DatasetRef, Interval
from artiagent.report.charts import INK, SERIES, plt
from artiagent.report.page import environment
from artiagent.report.study_charts import as_svg
from artiagent.report.summary import interval_text
from artiagent.store import read_rows

SHOWN = 12  # prompts with pictures, evenly over the list
COLUMNS = 3  # charts side by side
FILLED = 0.14  # opacity of a band


def render_search(report: SearchReport, drawn: DatasetRef, rounds: DatasetRef) -> str:
    """HTML text of the page, self-contained."""
    scores = [score for score in SCORES if all(score in course.curves for course in report.courses.values())]
    return (
        environment()
        .get_template("search.html.j2")
        .render(
            report=report, scores=scores, names=NAMES, lower=LOWER_IS_BETTER, chart=as_svg(draw_courses(report)),
            strips=strips(drawn, rounds, report), cell=cell, plain=plain, tiles=_tiles(report),
        )
    )  # fmt: skip


def draw_courses(report: SearchReport) -> Any:
    """A panel per score: the mean over prompts of the best so far against calls per prompt, a band for the interval."""
    scores = [score for score in SCORES if all(score in course.curves for course in report.courses.values())]
    lines = -(-len(scores) // COLUMNS)
    figure, axes = plt.subplots(lines, COLUMNS, figsize=(3.7 * COLUMNS, 2.7 * lines + 0.4), squeeze=False)
    for axis, score in zip(axes.ravel(), scores, strict=False):
        for colour, course in zip(SERIES, report.courses.values(), strict=False):
            _draw_course(axis, course, score, colour)
        axis.set_title(NAMES[score], fontsize=9, color=INK, loc="left")
        axis.set_xlabel("transformer calls per prompt", fontsize=8, color=INK)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
        _bare(axis)
    for axis in axes.ravel()[len(scores) :]:
        axis.set_visible(False)
    handles = [
        plt.Line2D([], [], color=c, lw=1.6, label=NAMES[n]) for c, n in zip(SERIES, report.courses, strict=False)
    ]
    figure.legend(handles=handles, fontsize=9, frameon=False, labelcolor=INK, loc="upper left", ncols=len(handles))
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.25 / figure.get_figheight()))
    return figure


def strips(drawn: DatasetRef, rounds: DatasetRef, report: SearchReport) -> list[dict[str, Any]]:
    """For some prompts and every algorithm the best picture of the rounds, a picture once: where it was found."""
    wanted = {f"{number:05d}" for number in range(0, report.prompts, max(1, report.prompts // SHOWN))[:SHOWN]}
    chosen = [row for row in read_rows(rounds, Round, (), lambda key: key.split("/")[0] in wanted)]
    needed = {row.record.best for row in chosen}
    pictures = {row.key: row for row in read_rows(drawn, Candidate, wanted=needed.__contains__)}
    made = []
    for _, of_prompt in itertools.groupby(chosen, key=lambda row: row.key.split("/")[0]):
        records = [row.record for row in of_prompt]
        searches = {name: _found((r for r in records if r.algorithm == name), pictures) for name in report.courses}
        made.append({"prompt": records[0].prompt, "searches": searches})
    return made


def cell(score: str, found: Interval) -> dict[str, str]:
    """A difference and whether it is sure: better, worse, or neither."""
    return {**plain(found), "sure": {1: "better", -1: "worse", 0: ""}[better(score, found)]}


def plain(found: Interval) -> dict[str, str]:
    """Value and bounds as text."""
    value, _, bounds = interval_text(found.model_dump()).partition(" ")
    return {"value": value, "bounds": bounds}


def _tiles(report: SearchReport) -> list[tuple[str, str]]:
    """Value and label of the figures at the top."""
    first = next(iter(report.courses.values()))
    name = next(iter(report.courses))
    tiles = [(str(report.prompts), "prompts"), (f"{first.calls[-1]}", f"calls per prompt, {NAMES[name]}")]
    for score in ("held_out", "faulty"):
        if score in first.curves:
            ends = first.curves[score][0].value, first.curves[score][-1].value
            tiles.append((f"{ends[0]:.2f} → {ends[1]:.2f}", f"{NAMES[score]}, {NAMES[name]}, first to last round"))
    if "images_per_second" in report.cost:
        tiles.append((f"{report.cost['images_per_second']:.1f}/s", "pictures drawn and scored"))
    return tiles


def _draw_course(axis: Any, course: Course, score: str, colour: str) -> None:
    values, low, high = (np.array([getattr(i, k) for i in course.curves[score]]) for k in ("value", "low", "high"))
    axis.fill_between(course.calls, low, high, color=colour, alpha=FILLED, lw=0, step="post")
    axis.step(course.calls, values, where="post", color=colour, lw=1.5)
    axis.plot(course.calls, values, "o", color=colour, ms=2.5)


def _bare(axis: Any) -> None:
    axis.tick_params(labelsize=8, colors=INK, length=0)
    axis.grid(color=INK, alpha=0.18, lw=0.6)
    for side in axis.spines.values():
        side.set_visible(False)
    axis.patch.set_alpha(0)


def _found(rounds: Iterable[Round], pictures: dict[str, Any]) -> list[dict[str, Any]]:
    """Pictures of a search in the order in which they became the best; the last round's always last."""
    made: dict[str, dict[str, Any]] = {}
    for each in rounds:
        shown = made.setdefault(
            each.best,
            {
                "image": data_uri(pictures[each.best].images["image"]), "first": each.round, "calls": each.calls,
                "scores": each.scores,
            },
        )  # fmt: skip
        shown["last"] = each.round
    return list(made.values())

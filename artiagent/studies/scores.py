"""Answers of all runs -> the table of a study: means over seeds, intervals over images and seeds, fitted curves.

Every figure is recomputed on the same resampled images, and the seeds of a group's rows are resampled together: a
difference of two rows compares runs of one seed.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from artiagent.config import BenchmarkSet, EvaluationSection
from artiagent.evaluation.benchmarks import BenchmarkItem, read_truth
from artiagent.evaluation.bootstrap import draw_weights
from artiagent.evaluation.scoring import scores_by_fault, scores_of
from artiagent.records import DatasetRef, Interval, Prediction
from artiagent.store import read_rows
from artiagent.studies.curve import bounds, fit_power_law
from artiagent.studies.records import StudyRun, StudyRuns
from artiagent.studies.rows import StudyGroup, StudyRow, StudySection
from artiagent.studies.table import LABELS, Curve, CurvePoint, Figures, GroupResult, RowResult, StudyTable

CURVES = ("macro_f1", "auroc")
BAND = 40  # points of a drawn curve


class Drawn(NamedTuple):
    """A figure: its plain value, the same on every resample [R], and the number of images that it is about."""

    value: float
    resampled: np.ndarray
    n: int

    def interval(self) -> Interval:
        low, high = bounds(self.resampled)
        return Interval(value=self.value, low=float(low), high=float(high), n=self.n)

    def minus(self, other: Drawn) -> Drawn:
        return Drawn(self.value - other.value, self.resampled - other.resampled, self.n)


Scores = dict[str, Drawn]  # metric, or "fault:<type>" for its recall at 10 % false alarms


class Judged:
    """Scores of runs on the images of one benchmark; ``weights`` [R, n] are drawn once for all."""

    def __init__(self, evaluation: EvaluationSection, benchmark: BenchmarkSet, resamples: int) -> None:
        self.items: list[BenchmarkItem] = read_truth(benchmark, evaluation.limit)
        self.encoder, self.seed = evaluation.sentence_encoder, evaluation.seed
        self.weights = draw_weights(len(self.items), resamples, evaluation.seed)
        self._known: dict[tuple[str, tuple[str, ...]], Scores] = {}

    def scores(self, predictions: DatasetRef, tasks: Sequence[str]) -> Scores:
        """Of one run; computed once for every set of tasks."""
        key = (predictions.uri, tuple(tasks))
        if key not in self._known:
            rows = {row.record.item_id: row.record for row in read_rows(predictions, Prediction)}
            answers = [rows[item.item_id] for item in self.items]
            found = scores_of(self.items, answers, tasks, self.encoder)
            by_fault = scores_by_fault(self.items, answers, ("detection",))
            found |= {f"fault:{f}": row["recall_at_10"] for f, row in by_fault.items() if "recall_at_10" in row}
            whole = np.ones((1, len(self.items)), dtype=np.float32)
            self._known[key] = {
                name: Drawn(float(score.statistic(whole)[0]), score.statistic(self.weights), score.n)
                for name, score in found.items()
                if name in LABELS or name.startswith("fault:")
            }
        return self._known[key]

    def averaged(self, runs: Sequence[StudyRun], tasks: Sequence[str]) -> Scores:
        """Mean over the seeds, which are resampled like the images; groups of equally many seeds draw the same."""
        each = [self.scores(run.predictions, tasks) for run in runs]
        picks = np.random.default_rng(self.seed).integers(0, len(runs), size=(len(runs), len(self.weights)))
        resample = np.arange(len(self.weights))
        return {
            name: Drawn(
                float(np.mean([one[name].value for one in each])),
                np.stack([one[name].resampled for one in each])[picks, resample].mean(axis=0),
                first.n,
            )
            for name, first in each[0].items()
            if all(name in one for one in each)
        }


def tabulate(
    name: str,
    section: StudySection,
    evaluation: EvaluationSection,
    places: Mapping[str, Mapping[str, Sequence[int]]],
    runs: StudyRuns,
    benchmark: BenchmarkSet,
    provenance: Mapping[str, str],
) -> StudyTable:
    """Score every run and compare rows with their group's reference and with the base.

    Args:
        name: of the study's run.
        section: its groups.
        evaluation: how answers were asked for, and the seed of the resamples.
        places: group -> row -> places of its runs in ``runs``, one for each seed.
        runs: all runs.
        benchmark: what they were asked about.
        provenance: for the reader.
    """
    judged = Judged(evaluation, benchmark, section.resamples)
    every = ("detection", "localization", "explanation")
    base = judged.scores(runs.base, every)
    groups = tuple(
        _group(group, section, judged, base, {r: [runs.runs[i] for i in at] for r, at in places[group.name].items()})
        for group in section.groups
    )
    return StudyTable(
        name=name, benchmark=benchmark.name, images=len(judged.items), resamples=section.resamples,
        base=_figures(base), base_by_fault=_by_fault(base), groups=groups, machine=machine(),
        provenance=dict(provenance),
    )  # fmt: skip


def _group(
    group: StudyGroup, section: StudySection, judged: Judged, base: Scores, runs: Mapping[str, Sequence[StudyRun]]
) -> GroupResult:
    scores = {row.name: judged.averaged(runs[row.name], group.tasks) for row in group.rows}
    drawn = next((scores[row.name] for row in group.rows if row.faults == "drawn"), None)
    rows = tuple(
        _row(row, judged, group, runs[row.name], scores[row.name]).model_copy(
            update={
                "set": {**group.set, **row.set},
                "differences": {} if row.name == group.reference else _minus(scores[row.name], scores[group.reference]),
                "gains": _minus(scores[row.name], base),
                "share": _share(scores[row.name], drawn, base) if drawn and row.faults != "drawn" else {},
            }
        )
        for row in group.rows
    )
    sizes = [row.pairs for row in rows]
    curves = (
        ()
        if not group.curve
        else tuple(
            _curve(metric, sizes, [scores[row.name][metric] for row in group.rows], section.doublings)
            for metric in CURVES
            if all(metric in row for row in scores.values())
        )
    )
    return GroupResult(
        name=group.name, title=group.title, note=group.note, reference=group.reference,
        seeds=group.seeds or section.seeds, rows=rows, curves=curves,
    )  # fmt: skip


def _row(row: StudyRow, judged: Judged, group: StudyGroup, runs: Sequence[StudyRun], scores: Scores) -> RowResult:
    each = [judged.scores(run.predictions, group.tasks) for run in runs]
    seconds = [run.seconds for run in runs if run.seconds is not None]
    return RowResult(
        name=row.name, set=row.set, faults=row.faults, note=row.note, pairs=runs[0].pairs, sources=runs[0].sources,
        seconds=round(float(np.mean(seconds)), 1) if seconds else None, figures=_figures(scores),
        seeds={metric: tuple(one[metric].value for one in each) for metric in scores if metric in LABELS},
        by_fault=_by_fault(scores), differences={}, gains={},
    )  # fmt: skip


def _figures(scores: Scores) -> Figures:
    return {metric: scores[metric].interval() for metric in LABELS if metric in scores}


def _by_fault(scores: Scores) -> Figures:
    return {key.partition(":")[2]: found.interval() for key, found in scores.items() if key.startswith("fault:")}


def _minus(scores: Scores, other: Scores) -> Figures:
    return {m: scores[m].minus(other[m]).interval() for m in LABELS if m in scores and m in other}


def _share(scores: Scores, drawn: Scores, base: Scores) -> Figures:
    """Gain over the base as a share of the drawn row's gain; only where that gain is sure."""
    found = {}
    for metric in LABELS:
        if metric in scores and metric in drawn and metric in base:
            whole, part = drawn[metric].minus(base[metric]), scores[metric].minus(base[metric])
            if whole.interval().low > 0:
                share = Drawn(part.value / whole.value, part.resampled / whole.resampled, part.n)
                found[metric] = share.interval()
    return found


def _curve(metric: str, sizes: Sequence[int], points: Sequence[Drawn], doublings: int) -> Curve:
    """The fitted curve with intervals from the resamples' fits, and its continuation."""
    resampled = np.stack([point.resampled for point in points], axis=1)
    plain, spread = np.array([[point.value for point in points]]), resampled.std(axis=0)
    fit, fits = (fit_power_law(sizes, 1 - values, spread) for values in (plain, resampled))
    beyond = [sizes[-1] * 2**k for k in range(1, doublings + 1)]
    spread_out = np.geomspace(sizes[0], [*sizes, *beyond][-1], BAND).round().astype(int)
    grid = np.unique([*spread_out, *sizes]).tolist()
    n = points[0].n

    def along(at: list[int]) -> tuple[CurvePoint, ...]:
        values, (low, high) = 1 - fit.at(at)[0], bounds(1 - fits.at(at))
        found = zip(at, values.tolist(), low.tolist(), high.tolist(), strict=True)
        return tuple(CurvePoint(pairs=p, value=Interval(value=v, low=a, high=b, n=n)) for p, v, a, b in found)

    def parameter(name: str) -> Interval:
        return Drawn(float(getattr(fit, name)[0]), getattr(fits, name), n).interval()

    steps = {
        f"{large} - {small}": after.minus(before).interval()
        for small, large, before, after in zip(sizes, sizes[1:], points, points[1:], strict=False)
    }
    measured = zip(sizes, points, 1 - fit.at(sizes)[0], strict=True)
    missed = tuple(size for size, point, law in measured if not _within(law, point.interval()))
    return Curve(
        metric=metric, missed=missed, start=sizes[0], excess=parameter("excess"), exponent=parameter("exponent"),
        floor=parameter("floor"), band=along(grid), beyond=along(beyond), steps=steps,
    )  # fmt: skip


def _within(value: float, found: Interval) -> bool:
    return found.low <= value <= found.high


@lru_cache
def machine() -> str:
    """Processor and cores, or the accelerator's name."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    return f"{_processor()}, {os.cpu_count()} cores, no GPU"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()

"""Predictions on a benchmark -> named statistics, ready for the bootstrap.

Knows which metric a task has and on which images it is defined. Does not resample.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from artiagent.evaluation.benchmarks import BenchmarkItem
from artiagent.evaluation.bootstrap import Statistic
from artiagent.evaluation.metrics import (
    auroc,
    grounded_recall,
    macro_f1,
    match_boxes,
    mean_of,
    pixel_overlap,
    ratio_of,
    recall_at,
    rouge_l,
    sentence_similarity,
)
from artiagent.grid import union_mask
from artiagent.records import Prediction

FALSE_ALARMS = 0.1  # share of clean images that may score above the threshold of "recall_at_10"


@dataclass(frozen=True)
class Score:
    """A statistic with the number of images it is about."""

    statistic: Statistic
    n: int


def scores_of(
    items: Sequence[BenchmarkItem],
    predictions: Sequence[Prediction],
    tasks: Iterable[str],
    encoder: str | None = None,
) -> dict[str, Score]:
    """Metric name -> score, for the tasks that the benchmark has ground truth for. ``predictions`` align with
    ``items``.
    """
    measures = {"detection": _detection, "localization": _localization}
    scores: dict[str, Score] = {}
    for task in tasks:
        if task == "explanation":
            scores |= _explanation(items, predictions, encoder)
        else:
            scores |= measures[task](items, predictions)
    return scores


def scores_by_fault(
    items: Sequence[BenchmarkItem], predictions: Sequence[Prediction], tasks: Iterable[str]
) -> dict[str, dict[str, Score]]:
    """Fault type -> metric: recall, AUROC and recall at 10 % false alarms against all clean images, localization and
    explanation on its images."""
    whole = {task: scores_of(items, predictions, (task,)) for task in tasks}
    columns = _Columns.of(items, predictions)
    result: dict[str, dict[str, Score]] = {}
    for fault in sorted({item.fault for item in items if item.faulty and item.fault}):
        chosen = np.array([item.faulty and item.fault == fault for item in items])
        scores: dict[str, Score] = {}
        if "detection" in whole:
            scores["recall"] = _mean(columns.answers == 1, chosen)
            against = chosen | ~columns.faulty
            scores |= _masked(whole["detection"], ("auroc", "recall_at_10"), against)
        scores |= _masked(whole.get("localization", {}), ("iou", "pixel_f1"), chosen)
        scores |= _masked(whole.get("explanation", {}), ("rouge_l", "grounded_recall"), chosen)
        result[fault] = scores
    return result


@dataclass(frozen=True)
class _Columns:
    """Per image: truth bool [n]; answers int [n] 1 yes, 0 no, -1 unparsable; scores float [n]."""

    faulty: np.ndarray
    answers: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(cls, items: Sequence[BenchmarkItem], predictions: Sequence[Prediction]) -> _Columns:
        answers = [-1 if p.verdict is None else int(p.verdict) for p in predictions]
        scores = [np.nan if p.score is None else p.score for p in predictions]
        return cls(np.array([item.faulty for item in items]), np.array(answers), np.array(scores, dtype=np.float64))

    @property
    def scored(self) -> bool:
        return not np.isnan(self.scores).any()


def _detection(items: Sequence[BenchmarkItem], predictions: Sequence[Prediction]) -> dict[str, Score]:
    """Nothing on a benchmark of one class: accuracy there rewards whoever always says yes."""
    columns = _Columns.of(items, predictions)
    if columns.faulty.all() or not columns.faulty.any():
        return {}
    n = len(items)
    correct = columns.answers == columns.faulty.astype(int)
    scores = {
        "accuracy": Score(mean_of(correct.astype(float)), n),
        "macro_f1": Score(macro_f1(columns.faulty, columns.answers), n),
    }
    if columns.scored:
        scores["auroc"] = Score(auroc(columns.faulty, columns.scores), n)
        scores["recall_at_10"] = Score(recall_at(columns.faulty, columns.scores, FALSE_ALARMS), n)
    return scores


def _localization(items: Sequence[BenchmarkItem], predictions: Sequence[Prediction]) -> dict[str, Score]:
    present = np.array([item.localizable for item in items])
    iou, f1, area = np.zeros((3, len(items)))
    matched, claimed, wanted = np.zeros((3, len(items)))
    for i, (item, answer) in enumerate(zip(items, predictions, strict=True)):
        region = union_mask(answer.boxes, item.height, item.width)
        area[i] = region.mean()
        if present[i]:
            iou[i], f1[i] = pixel_overlap(item.truth(), region)
            matched[i] = match_boxes(item.boxes, answer.boxes)
            claimed[i], wanted[i] = len(answer.boxes), len(item.boxes)
    scores = {}
    if present.any():
        n = int(present.sum())
        scores = {"iou": _mean(iou, present), "pixel_f1": _mean(f1, present)}
        if wanted.any():
            scores["box_recall"] = Score(ratio_of(matched, wanted), n)
            scores["box_f1"] = Score(ratio_of(2 * matched, claimed + wanted), n)
        if wanted.any() and claimed.any():
            scores["box_precision"] = Score(ratio_of(matched, claimed), n)
    if not present.all():
        scores["false_alarm_area"] = _mean(area, ~present)
        scores["empty_on_clean"] = _mean(area == 0, ~present)
    return scores


def _explanation(
    items: Sequence[BenchmarkItem], predictions: Sequence[Prediction], encoder: str | None
) -> dict[str, Score]:
    present = np.array([item.faulty and bool(item.explanation) for item in items])
    if not present.any():
        return {}
    pairs = list(zip(items, predictions, strict=True))
    rouge = np.array([rouge_l(i.explanation, p.explanation) if i.faulty else 0.0 for i, p in pairs])
    scores = {"rouge_l": _mean(rouge, present)}
    recall = [grounded_recall(i.entity, i.part, i.fault, p.explanation) if i.faulty else None for i, p in pairs]
    named = np.array([value is not None for value in recall])
    if named.any():
        scores["grounded_recall"] = _mean(np.array([value or 0.0 for value in recall]), named)
    if encoder is not None:
        chosen = np.flatnonzero(present)
        css = np.zeros(len(items))
        references = [items[k].explanation for k in chosen]
        css[chosen] = sentence_similarity(references, [predictions[k].explanation for k in chosen], encoder)
        scores["css"] = _mean(css, present)
    return scores


def _mean(values: np.ndarray, present: np.ndarray) -> Score:
    return Score(mean_of(values.astype(float), present), int(present.sum()))


def _restricted(statistic: Statistic, chosen: np.ndarray) -> Statistic:
    """The statistic on some of the images, under the same resampling of all of them."""
    return lambda weights: statistic(weights * chosen)


def _masked(scores: dict[str, Score], names: tuple[str, ...], chosen: np.ndarray) -> dict[str, Score]:
    n = int(chosen.sum())
    return {name: Score(_restricted(scores[name].statistic, chosen), n) for name in names if name in scores}

"""Predictions on a benchmark -> named statistics, ready for the bootstrap.

Knows which metric a task has and on which images it is defined. Does not resample.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from artiagent.evaluation.benchmarks import BenchmarkItem
from artiagent.evaluation.bootstrap import Statistic
from artiagent.evaluation.files import FILES
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

_READ = ("ok", "empty", "too_many")  # statuses of an answer that could be read, see parsing
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
    """Metric name -> score, for the tasks that the benchmark has ground truth for and the model answers at all.

    ``predictions`` align with ``items``. Raises ValueError for a mask of another size than its image.
    """
    measures = {"detection": _detection, "localization": _localization}
    scores: dict[str, Score] = {}
    for task in tasks:
        if not any(_answers(prediction, task) for prediction in predictions):
            continue
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
    names = np.array([item.fault if item.faulty else "" for item in items])
    clean = np.array([not item.faulty for item in items])
    return _scores_by(items, predictions, tasks, {name: (names == name, clean) for name in sorted({*names} - {""})})


def scores_by_generator(
    items: Sequence[BenchmarkItem], predictions: Sequence[Prediction], tasks: Iterable[str]
) -> dict[str, dict[str, Score]]:
    """``generator:NAME`` -> metrics as per fault type; against the clean images of the same generator, so that its
    style gives nothing away, or all where it has none. Generators without a faulty image are left out."""
    names = np.array([item.generator for item in items])
    faulty = np.array([item.faulty for item in items])
    groups = {}
    for name in sorted({*names[faulty]} - {""}):
        own = ~faulty & (names == name)
        groups[f"generator:{name}"] = (faulty & (names == name), own if own.any() else ~faulty)
    return _scores_by(items, predictions, tasks, groups)


def _scores_by(
    items: Sequence[BenchmarkItem],
    predictions: Sequence[Prediction],
    tasks: Iterable[str],
    groups: dict[str, tuple[np.ndarray, np.ndarray]],
) -> dict[str, dict[str, Score]]:
    """``groups``: name -> faulty images of the group, clean images they are told from (bool [n] each)."""
    if not groups:
        return {}
    whole: dict[str, Score] = {}
    for task in tasks:
        whole |= scores_of(items, predictions, (task,))
    answers = _Columns.of(items, predictions).answers
    localizable = np.array([item.localizable for item in items])
    explained = np.array([bool(item.explanation) for item in items])
    named = np.array([bool(item.entity or item.part or item.fault) for item in items])
    result: dict[str, dict[str, Score]] = {}
    for name, (chosen, clean) in groups.items():
        scores = {"recall": _mean(answers == 1, chosen)} if "accuracy" in whole else {}
        scores |= _masked(whole, ("auroc", "recall_at_10"), chosen | clean)
        scores |= _masked(whole, ("iou", "pixel_f1"), chosen & localizable)
        scores |= _masked(whole, ("rouge_l",), chosen & explained) | _masked(
            whole, ("grounded_recall",), chosen & named
        )
        result[name] = scores
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


def _answers(prediction: Prediction, task: str) -> bool:
    """Whether a model takes part in a task: a heat map from a file says nothing of the verdict, and is no wrong one."""
    return task in prediction.status or prediction.prompt_hash != FILES


def _region(item: BenchmarkItem, answer: Prediction) -> np.ndarray:
    """Bool [height, width] of what a prediction claims: its mask, else the union of its boxes."""
    if answer.mask is None:
        return union_mask(answer.boxes, item.height, item.width)
    if answer.mask.size != (item.height, item.width):
        raise ValueError(
            f"prediction {answer.item_id} of {answer.model}: mask of {answer.mask.size} (height, width); expected the "
            f"image's {(item.height, item.width)}"
        )
    return answer.mask.decode()


def _localization(items: Sequence[BenchmarkItem], predictions: Sequence[Prediction]) -> dict[str, Score]:
    """Box metrics only where truth and answers have boxes: a mask is not one box."""
    present = np.array([item.localizable for item in items])
    boxed = not any(answer.mask is not None for answer in predictions)
    iou, f1, area = np.zeros((3, len(items)))
    matched, claimed, wanted = np.zeros((3, len(items)))
    for i, (item, answer) in enumerate(zip(items, predictions, strict=True)):
        region = _region(item, answer)
        area[i] = np.count_nonzero(region) / region.size
        if present[i]:
            iou[i], f1[i] = pixel_overlap(item.truth(), region)
            if boxed:
                matched[i] = match_boxes(item.boxes, answer.boxes)
                claimed[i], wanted[i] = len(answer.boxes), len(item.boxes)
    scores = {}
    if present.any():
        scores = {"iou": _mean(iou, present), "pixel_f1": _mean(f1, present)}
        scores |= _box_scores(matched, claimed, wanted, int(present.sum()))
        scores["empty_on_faulty"] = _mean(area == 0, present)
    if not present.all():
        scores["false_alarm_area"] = _mean(area, ~present)
        read = np.array([answer.status.get("localization", "ok") in _READ for answer in predictions])
        scores["empty_on_clean"] = _mean((area == 0) & read, ~present)  # an answer that failed says nothing right
    return scores


def _box_scores(matched: np.ndarray, claimed: np.ndarray, wanted: np.ndarray, n: int) -> dict[str, Score]:
    scores = {}
    if wanted.any():
        scores["box_recall"] = Score(ratio_of(matched, wanted), n)
        scores["box_f1"] = Score(ratio_of(2 * matched, claimed + wanted), n)
    if wanted.any() and claimed.any():
        scores["box_precision"] = Score(ratio_of(matched, claimed), n)
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
    """Some of the scores on the chosen images; none where there are none."""
    n = int(chosen.sum())
    return {name: Score(_restricted(scores[name].statistic, chosen), n) for name in names if n and name in scores}

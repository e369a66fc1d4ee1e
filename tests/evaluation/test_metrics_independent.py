"""Metrics against other people's implementations, weighted as the bootstrap weights them, and against definitions."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.stem.porter import PorterStemmer
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from artiagent.evaluation.benchmarks import BenchmarkItem
from artiagent.evaluation.bootstrap import Statistic, difference, draw_weights, interval
from artiagent.evaluation.metrics import auroc, macro_f1, match_boxes, mean_of, pixel_overlap, ratio_of, rouge_l
from artiagent.evaluation.scoring import scores_of
from artiagent.records import Box, Mask, Prediction

# truth, answer (-1: unparsable), score with many ties, how often the image was drawn
images = st.lists(
    st.tuples(st.booleans(), st.integers(-1, 1), st.integers(0, 6), st.integers(0, 4)), min_size=2, max_size=60
)


def at(statistic: Statistic, weights: Sequence[int]) -> float:
    return float(statistic(np.array([weights], np.float32))[0])


@settings(max_examples=150, deadline=None)
@given(images)
def test_detection_agrees_with_scikit_learn_under_sample_weights(rows: list[tuple[bool, int, int, int]]) -> None:
    truth, answers, scores, weights = (np.array(column) for column in zip(*rows, strict=True))
    truth, scores = truth.astype(bool), scores / 6
    drawn = [set(truth[weights > 0])]
    if drawn == [{True, False}]:
        # unparsable is a third class that no image has
        f1 = f1_score(truth, answers, labels=[0, 1], average="macro", sample_weight=weights, zero_division=0)
        assert at(macro_f1(truth, answers), weights) == pytest.approx(f1, abs=1e-6)
        area = roc_auc_score(truth, scores, sample_weight=weights)
        assert at(auroc(truth, scores), weights) == pytest.approx(area, abs=1e-6)
    else:
        assert np.isnan(at(macro_f1(truth, answers), weights)) and np.isnan(at(auroc(truth, scores), weights))
    if weights.any():
        right = mean_of((answers == truth).astype(float))
        assert at(right, weights) == pytest.approx(accuracy_score(truth, answers, sample_weight=weights), abs=1e-6)
    else:
        assert np.isnan(at(mean_of(scores), weights))


masks = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda size: st.tuples(*(st.integers(0, 2 ** (size[0] * size[1]) - 1) for _ in range(2)), st.just(size))
)


@settings(max_examples=150, deadline=None)
@given(masks)
def test_overlap_of_masks_agrees_with_coco(drawn: tuple[int, int, tuple[int, int]]) -> None:
    *bits, (height, width) = drawn
    truth, answer = (
        np.array([number >> k & 1 for k in range(height * width)], bool).reshape(height, width) for number in bits
    )
    if not truth.any():
        with pytest.raises(ValueError, match="foreground IoU"):
            pixel_overlap(truth, answer)
        return
    encoded = [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in (truth, answer)]
    theirs = float(coco_mask.iou([encoded[1]], [encoded[0]], [0])[0, 0])
    iou, f1 = pixel_overlap(truth, answer)
    assert iou == pytest.approx(theirs)
    assert f1 == pytest.approx(2 * theirs / (1 + theirs))  # Dice


boxes = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 20), st.integers(1, 20)).map(
        lambda v: Box(v[0], v[1], v[0] + v[2], v[1] + v[3])
    ),
    min_size=1,
    max_size=5,
)


def coco_matches(truth: list[Box], answer: list[Box]) -> int:
    """Number of detections that COCOeval matches at IoU .5; all have the same score."""

    def xywh(box: Box) -> list[int]:
        return [box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0]

    common = {"image_id": 1, "category_id": 1}
    wanted = [{**common, "id": k + 1, "bbox": xywh(b), "area": b.area, "iscrowd": 0} for k, b in enumerate(truth)]
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = COCO()
        dataset.dataset = {"images": [{"id": 1}], "categories": [{"id": 1}], "annotations": wanted, "info": {}}
        dataset.createIndex()
        found = dataset.loadRes([{**common, "bbox": xywh(b), "score": 0.5} for b in answer])
        judge = COCOeval(dataset, found, "bbox")
        judge.params.iouThrs = np.array([0.5])
        judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
        judge.evaluate()
        judge.accumulate()
    matched = int((judge.evalImgs[0]["dtMatches"] > 0).sum())
    assert float(judge.eval["recall"].max()) == pytest.approx(matched / len(truth))
    return matched


@settings(max_examples=80, deadline=None)
@given(boxes, boxes)
def test_boxes_are_matched_as_by_cocoeval_or_better(truth: list[Box], answer: list[Box]) -> None:
    """COCOeval is greedy; where no box has a choice both must find the same, elsewhere ours finds at least as many."""
    ours, theirs = match_boxes(truth, answer), coco_matches(truth, answer)
    hits = np.array([[t.iou(a) >= 0.5 for a in answer] for t in truth])
    no_choice = hits.sum(0).max() <= 1 and hits.sum(1).max() <= 1
    assert ours == theirs if no_choice else theirs <= ours <= min(len(truth), len(answer))


def test_box_scores_are_those_of_the_sums(coco_pairs: list[tuple[list[Box], list[Box]]]) -> None:
    matched, wanted, claimed = (np.array(column, float) for column in zip(*[
        (coco_matches(truth, answer), len(truth), len(answer)) for truth, answer in coco_pairs
    ], strict=True))  # fmt: skip
    items = [item(f"i{k}", boxes=tuple(truth)) for k, (truth, _) in enumerate(coco_pairs)]
    rows = [answer_of(f"i{k}", boxes=tuple(boxes)) for k, (_, boxes) in enumerate(coco_pairs)]
    scores = scores_of(items, rows, ["localization"])
    ones = [1] * len(items)
    precision, recall = matched.sum() / claimed.sum(), matched.sum() / wanted.sum()
    assert at(scores["box_precision"].statistic, ones) == pytest.approx(precision)
    assert at(scores["box_recall"].statistic, ones) == pytest.approx(recall)
    assert at(scores["box_f1"].statistic, ones) == pytest.approx(2 * precision * recall / (precision + recall))


@pytest.fixture
def coco_pairs() -> list[tuple[list[Box], list[Box]]]:
    """Boxes far apart, so that none has a choice: of each truth a near copy, a far one, or nothing."""
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(20):
        truth = [Box(x, 4, x + 10, 14) for x in range(2, 60, 20)][: rng.integers(1, 4)]
        near = [Box(b.x0 + 1, b.y0, b.x1, b.y1) for b in truth if rng.random() < 0.6]
        far = [Box(b.x0, b.y1 + 2, b.x1, b.y1 + 12) for b in truth if rng.random() < 0.4]
        pairs.append((truth, [*near, *far] or [Box(0, 0, 1, 1)]))
    return pairs


WORDS = ["the", "dog", "dogs", "has", "an", "extra", "ear", "ears", "missing", "leg", "legs", "grows", "head", "2"]
sentences = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12)


@settings(max_examples=100, deadline=None)
@given(sentences, sentences)
def test_rouge_l_is_the_longest_common_subsequence_of_stems(reference: list[str], answer: list[str]) -> None:
    stem = PorterStemmer().stem
    first, second = ([stem(word) if len(word) > 3 else word for word in words] for words in (reference, answer))
    lengths = np.zeros((len(first) + 1, len(second) + 1), int)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            lengths[i + 1, j + 1] = lengths[i, j] + 1 if a == b else max(lengths[i, j + 1], lengths[i + 1, j])
    precision, recall = lengths[-1, -1] / len(second), lengths[-1, -1] / len(first)
    expected = 2 * precision * recall / (precision + recall) if lengths[-1, -1] else 0
    assert rouge_l(" ".join(reference).capitalize() + ".", " ".join(answer)) == pytest.approx(expected)


def item(item_id: str, faulty: bool = True, size: tuple[int, int] = (40, 60), **values) -> BenchmarkItem:
    return BenchmarkItem(item_id=item_id, faulty=faulty, height=size[0], width=size[1], **values)


def answer_of(item_id: str, **values) -> Prediction:
    given = {"verdict": True, "score": 0.5} | values
    return Prediction(benchmark="b", item_id=item_id, model="m", model_sha256="s", prompt_hash="p", **given)


@pytest.mark.parametrize("resampled", ["mean", "macro_f1", "auroc"])
def test_intervals_cover_as_often_as_they_say(resampled: str) -> None:
    """1,200 samples of 400 images from a population whose values are known: 95 % of the intervals hold them."""
    n, samples = 400, 1200
    rng = np.random.default_rng(7)
    weights = draw_weights(n, 500, seed=1)
    held = 0
    population = {"mean": 1 / 3, "auroc": 0.8413447460685429}  # of Beta(1, 2); Phi(sqrt(2) / sqrt(2))
    p, q = 0.8413447460685429, 0.5  # chance of a yes on a faulty image and on a clean one, half and half
    population["macro_f1"] = (2 * p / (p + q + 1) + 2 * (1 - q) / (1 - p + 1 - q + 1)) / 2
    for _ in range(samples):
        truth = rng.random(n) < 0.5
        scores = rng.normal(size=n) + np.sqrt(2) * truth
        if resampled == "mean":
            statistic = mean_of(rng.beta(1, 2, size=n))
        elif resampled == "auroc":
            statistic = auroc(truth, scores)
        else:
            statistic = macro_f1(truth, (rng.random(n) < np.where(truth, p, q)).astype(int))
        found = interval(statistic, weights)
        held += found.low <= population[resampled] <= found.high
    assert 0.93 <= held / samples <= 0.97


def test_a_paired_difference_of_equal_models_covers_zero() -> None:
    rng = np.random.default_rng(3)
    weights = draw_weights(250, 400, seed=1)
    held = 0
    for _ in range(600):
        truth = rng.random(250) < 0.5
        first, second = (np.where(rng.random(250) < 0.7, truth, ~truth).astype(int) for _ in range(2))
        found = difference(macro_f1(truth, first), macro_f1(truth, second), weights)
        held += found.low <= 0 <= found.high
    assert 0.92 <= held / 600 <= 0.975


def test_overlaps_of_large_images_take_milliseconds() -> None:
    """100 images of 1,024 px, truth as a mask and as boxes; a thousand must take seconds (bench/evaluation.py)."""
    side = 1024
    rows, columns = np.mgrid[:side, :side]
    mask = Mask.encode(np.hypot(rows - 500, columns - 400) < 300)
    corners = (Box(50, 60, 400, 700), Box(300, 500, 900, 1000))
    items = [item(f"i{k}", size=(side, side), **({"mask": mask} if k % 2 else {"boxes": corners})) for k in range(100)]
    answers = [answer_of(i.item_id, boxes=corners[:1]) for i in items]
    start = time.process_time()
    scores_of(items, answers, ["localization"])
    assert time.process_time() - start < 3


def test_a_ratio_of_sums_is_not_a_mean_of_ratios() -> None:
    statistic = ratio_of(np.array([1.0, 0.0]), np.array([1.0, 9.0]))
    assert at(statistic, [1, 1]) == pytest.approx(0.1) and at(statistic, [9, 1]) == pytest.approx(0.5)

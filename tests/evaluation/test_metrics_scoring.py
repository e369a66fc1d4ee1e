"""Which metric a model has, on which images: masks, empty answers and truths, parts by fault and by generator."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from artiagent.evaluation.benchmarks import BenchmarkItem
from artiagent.evaluation.bootstrap import draw_weights, interval
from artiagent.evaluation.scoring import Score, scores_by_fault, scores_by_generator, scores_of
from artiagent.records import Box, Mask, Prediction

TASKS = ("detection", "localization", "explanation")
HEIGHT, WIDTH = 20, 30
BOX = Box(5, 5, 15, 15)


def item(item_id: str, faulty: bool, **values) -> BenchmarkItem:
    boxes = {"boxes": (BOX,)} if faulty and "mask" not in values else {}
    return BenchmarkItem(item_id=item_id, faulty=faulty, height=HEIGHT, width=WIDTH, **boxes, **values)


def answer(item_id: str, **values) -> Prediction:
    given = {"verdict": True, "score": 0.5} | values
    return Prediction(benchmark="b", item_id=item_id, model="m", model_sha256="s", prompt_hash="p", **given)


def mask(*boxes: Box) -> Mask:
    array = np.zeros((HEIGHT, WIDTH), bool)
    for box in boxes:
        array[box.slices] = True
    return Mask.encode(array)


def values(scores: dict[str, Score], n: int) -> dict[str, float]:
    return {name: float(score.statistic(np.ones((1, n), np.float32))[0]) for name, score in scores.items()}


def test_a_mask_counts_as_its_pixels_and_has_no_boxes() -> None:
    items = [item("a", True), item("b", False)]
    boxed = [answer("a", boxes=(Box(5, 5, 15, 10),)), answer("b", boxes=(Box(0, 0, 6, 10),))]
    masked = [answer("a", mask=mask(Box(5, 5, 15, 10))), answer("b", mask=mask(Box(0, 0, 6, 10)))]
    by_box, by_mask = (values(scores_of(items, rows, ["localization"]), 2) for rows in (boxed, masked))
    assert by_mask == {name: value for name, value in by_box.items() if not name.startswith("box_")}
    assert by_mask["iou"] == 0.5 and by_mask["pixel_f1"] == pytest.approx(2 / 3)
    assert by_mask["false_alarm_area"] == pytest.approx(0.1) and by_mask["empty_on_clean"] == 0
    assert {name for name in by_box if name.startswith("box_")} == {"box_recall", "box_f1", "box_precision"}


def test_a_mask_counts_where_boxes_stand_beside_it() -> None:
    """The mask is the answer; boxes beside it are how it is shown."""
    rows = [answer("a", mask=mask(BOX), boxes=(Box(0, 0, 1, 1),))]
    assert values(scores_of([item("a", True)], rows, ["localization"]), 1)["iou"] == 1


def test_a_mask_of_another_size_is_refused() -> None:
    small = Mask.encode(np.ones((10, 10), bool))
    with pytest.raises(ValueError, match=r"prediction a of m: mask of \(10, 10\) .*; expected the image's \(20, 30\)"):
        scores_of([item("a", True)], [answer("a", mask=small)], ["localization"])


def test_empty_truth_empty_answer_and_both_are_told_apart() -> None:
    nowhere = item("d", True, mask=mask())  # faulty, but nobody marked where
    items = [item("a", True), item("b", True), item("c", False), nowhere]
    rows = [answer("a", boxes=(BOX,)), answer("b"), answer("c"), answer("d", boxes=(Box(0, 0, 30, 10),))]
    scores = scores_of(items, rows, ["localization"])
    found = values(scores, 4)
    assert (found["iou"], scores["iou"].n) == (0.5, 2)  # the two empty truths are not in it, neither as 0 nor as 1
    assert (found["empty_on_faulty"], scores["empty_on_faulty"].n) == (0.5, 2)
    assert (found["empty_on_clean"], scores["empty_on_clean"].n) == (0.5, 2)
    assert found["false_alarm_area"] == 0.25


def test_a_model_of_files_has_scores_for_the_tasks_that_it_answers() -> None:
    items = [item("a", True, explanation="An extra ear."), item("b", False)]
    silent = [answer(i.item_id, verdict=None, score=None, mask=mask(), status={"localization": "empty"}) for i in items]
    of_files = [row.model_copy(update={"prompt_hash": "files"}) for row in silent]
    assert set(scores_of(items, of_files, TASKS)) == {
        "iou", "pixel_f1", "empty_on_faulty", "false_alarm_area", "empty_on_clean"
    }  # fmt: skip
    found = scores_of(items, silent, TASKS)  # a model that was asked: no answer is a wrong one
    assert values(found, 2)["accuracy"] == 0 and values(found, 2)["rouge_l"] == 0


def population(n: int = 120) -> tuple[list[BenchmarkItem], list[Prediction]]:
    """Two generators with clean and faulty images, a third with faulty ones only, some images of none."""
    rng = np.random.default_rng(0)
    items, rows = [], []
    for k in range(n):
        name = ("flux", "sdxl", "third", "")[k % 4]
        faulty = name == "third" or bool(rng.random() < 0.5)
        words = {"fault": ("omission", "fusion")[k % 3 == 0], "entity": "dog", "explanation": "The dog has no ear."}
        items.append(item(f"i{k}", faulty, generator=name, **(words if faulty else {})))
        # a detector that takes the style of sdxl for a fault
        score = float(np.clip(0.3 + 0.2 * faulty + 0.3 * (name == "sdxl") + rng.normal() / 8, 0, 1))
        right = faulty and k % 5 > 0
        rows.append(answer(f"i{k}", score=score, verdict=score >= 0.5, boxes=(BOX,) if right else (),
                           explanation="The dog has no ear." if right else ""))  # fmt: skip
    return items, rows


def test_parts_by_generator_compare_with_its_own_clean_images() -> None:
    items, rows = population()
    n = len(items)
    parts = scores_by_generator(items, rows, TASKS)
    assert list(parts) == ["generator:flux", "generator:sdxl", "generator:third"]
    names = np.array([i.generator for i in items])
    faulty = np.array([i.faulty for i in items])
    scores = np.array([row.score for row in rows])
    for name in ("flux", "sdxl"):
        found, own = parts[f"generator:{name}"], names == name
        assert values(found, n)["auroc"] == pytest.approx(roc_auc_score(faulty[own], scores[own]))
        assert values(found, n)["recall"] == pytest.approx((scores[own & faulty] >= 0.5).mean())
        assert found["iou"].n == (own & faulty).sum() == found["recall"].n and found["auroc"].n == own.sum()
        expected = np.mean([bool(rows[k].boxes) for k in np.flatnonzero(own & faulty)])
        for metric in ("iou", "rouge_l"):
            assert values(found, n)[metric] == pytest.approx(expected)
    against_all = ~faulty | (names == "third")
    area = roc_auc_score(faulty[against_all], scores[against_all])
    assert values(parts["generator:third"], n)["auroc"] == pytest.approx(area)
    whole = values(scores_of(items, rows, TASKS), n)["auroc"]
    assert all(values(parts[f"generator:{name}"], n)["auroc"] > whole for name in ("flux", "sdxl"))


def test_parts_by_fault_compare_with_all_clean_images() -> None:
    items, rows = population()
    n = len(items)
    faults = np.array([i.fault for i in items])
    faulty = np.array([i.faulty for i in items])
    scores = np.array([row.score for row in rows])
    parts = scores_by_fault(items, rows, TASKS)
    assert list(parts) == ["fusion", "omission"]
    for name, found in parts.items():
        told = ~faulty | (faults == name)
        assert values(found, n)["auroc"] == pytest.approx(roc_auc_score(faulty[told], scores[told]))
    assert set(parts["fusion"]) == set(scores_by_generator(items, rows, TASKS)["generator:flux"])


def test_parts_have_intervals_and_no_metric_without_images() -> None:
    rows = [answer(f"i{k}", boxes=(BOX,), explanation="An ear.") for k in range(4)]
    items = [
        item("i0", True, generator="a", explanation="An ear."),
        item("i1", True, generator="b", mask=mask()),  # neither a region nor a text
        item("i2", False, generator="a"),
        item("i3", False, generator="c"),
    ]
    parts = scores_by_generator(items, rows, TASKS)
    assert set(parts["generator:b"]) == {"recall", "auroc", "recall_at_10"} and "generator:c" not in parts
    weights = draw_weights(4, 200, 0)
    for found in parts.values():
        for score in found.values():
            assert interval(score.statistic, weights, score.n).n == score.n
    nameless = [i.model_copy(update={"generator": ""}) for i in items]
    assert scores_by_generator(nameless, rows, TASKS) == {} == scores_by_fault(nameless, rows, TASKS)

"""Metrics against independent implementations, and the conventions at their edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import f1_score, jaccard_score, roc_auc_score

from artiagent.evaluation.metrics import (
    FAULT_WORDS,
    auroc,
    grounded_recall,
    macro_f1,
    match_boxes,
    mean_of,
    pixel_overlap,
    ratio_of,
    recall_at,
    rouge_l,
)
from artiagent.records import FAULT_OF_TOOL, Box
from artiagent.vlm.template import LOCAL, OVERVIEW

binary = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 5)), min_size=4, max_size=60)


def plain(statistic, n: int) -> float:
    return float(statistic(np.ones((1, n), np.float32))[0])


@settings(max_examples=60, deadline=None)
@given(binary)
def test_macro_f1_and_auroc_agree_with_scikit_learn(rows: list[tuple[bool, bool, int]]) -> None:
    truth, answers = np.array([r[0] for r in rows]), np.array([int(r[1]) for r in rows])
    scores = np.array([r[2] / 5 for r in rows])
    if truth.all() or not truth.any():
        assert np.isnan(plain(macro_f1(truth, answers), len(rows)))
        assert np.isnan(plain(auroc(truth, scores), len(rows)))
        return
    assert plain(macro_f1(truth, answers), len(rows)) == pytest.approx(
        f1_score(truth, answers, average="macro", zero_division=0)
    )
    assert plain(auroc(truth, scores), len(rows)) == pytest.approx(roc_auc_score(truth, scores))


@settings(max_examples=30, deadline=None)
@given(binary, st.integers(0, 1000))
def test_weighted_statistics_equal_repeated_images(rows: list[tuple[bool, bool, int]], seed: int) -> None:
    truth, answers = np.array([r[0] for r in rows]), np.array([int(r[1]) for r in rows])
    scores = np.array([r[2] / 5 for r in rows])
    drawn = np.random.default_rng(seed).integers(0, len(rows), len(rows))
    weights = np.bincount(drawn, minlength=len(rows))[None].astype(np.float32)
    if truth[drawn].all() or not truth[drawn].any():
        return
    f1 = f1_score(truth[drawn], answers[drawn], average="macro", zero_division=0)
    assert macro_f1(truth, answers)(weights)[0] == pytest.approx(f1)
    assert auroc(truth, scores)(weights)[0] == pytest.approx(roc_auc_score(truth[drawn], scores[drawn]))
    assert mean_of(scores, truth)(weights)[0] == pytest.approx(scores[drawn][truth[drawn]].mean())


def test_macro_f1_of_one_sided_answers_is_a_third_and_unparsable_is_wrong() -> None:
    truth = np.array([True] * 5 + [False] * 5)
    assert plain(macro_f1(truth, np.ones(10, int)), 10) == pytest.approx(1 / 3)
    perfect = truth.astype(int)
    assert plain(macro_f1(truth, perfect), 10) == 1
    unparsable = perfect.copy()
    unparsable[[0, 5]] = -1
    expected = f1_score(truth, np.where(unparsable < 0, 2, unparsable), labels=[0, 1], average="macro")
    assert plain(macro_f1(truth, unparsable), 10) == pytest.approx(expected)
    assert expected < 1


def test_auroc_refuses_missing_scores() -> None:
    with pytest.raises(ValueError, match="score for every image"):
        auroc(np.array([True, False]), np.array([0.5, np.nan]))


@given(st.integers(0, 2**16 - 1), st.integers(1, 2**16 - 1))
def test_pixel_overlap_agrees_with_scikit_learn(answer_bits: int, truth_bits: int) -> None:
    answer, truth = (np.array([bits >> k & 1 for k in range(16)], bool) for bits in (answer_bits, truth_bits))
    iou, f1 = pixel_overlap(truth.reshape(4, 4), answer.reshape(4, 4))
    assert iou == pytest.approx(jaccard_score(truth, answer, zero_division=0))
    assert f1 == pytest.approx(f1_score(truth, answer, zero_division=0))


def test_empty_ground_truth_is_no_foreground() -> None:
    with pytest.raises(ValueError, match="foreground IoU"):
        pixel_overlap(np.zeros((4, 4), bool), np.zeros((4, 4), bool))


def test_boxes_match_one_to_one() -> None:
    a, b = Box(0, 0, 10, 10), Box(20, 20, 30, 30)
    assert match_boxes((a, b), (a, a)) == 1
    assert match_boxes((a,), (Box(0, 0, 10, 9), b)) == 1
    assert match_boxes((a,), (Box(0, 0, 4, 10),)) == 0
    assert match_boxes((), (a,)) == match_boxes((a,), ()) == 0
    # greedy in the given order would take the second truth for the first answer and miss one
    wide, left = Box(0, 0, 12, 10), Box(0, 0, 8, 10)
    assert match_boxes((left, wide), (a, Box(0, 0, 7, 10))) == 2


def test_ratio_is_of_sums_and_undefined_without_a_denominator() -> None:
    assert plain(ratio_of(np.array([1.0, 1.0]), np.array([1.0, 3.0])), 2) == 0.5
    assert np.isnan(plain(ratio_of(np.zeros(2), np.zeros(2)), 2))


def test_rouge_is_stemmed_and_empty_answers_count_zero() -> None:
    reference, answer = "The dog has two extra ears.", "An extra ear grows on the dogs"
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    assert rouge_l(reference, answer) == pytest.approx(scorer.score(reference, answer)["rougeL"].fmeasure) != 0
    assert rouge_l("extra ears", "extra ear") == 1
    assert rouge_l(reference, "  ") == 0


def test_grounded_recall_counts_entity_part_and_fault() -> None:
    assert grounded_recall("dog", "ear", "duplication", "The dog has an additional ear.") == 1
    assert grounded_recall("dog", "ear", "duplication", "The cat has two extra tails.") == pytest.approx(1 / 3)
    assert grounded_recall("dog", "ear", "omission", "Its feet are in the heart of a doghouse") == 0
    assert grounded_recall("person", "foot", "", "Those people have odd feet") == 1
    assert grounded_recall("dog", "", "fusion", "The dog and the car merge") == 1
    assert grounded_recall("", "", "", "anything") is None
    assert grounded_recall("", "", "extra_shadow", "an extra shadow falls") == 1


@pytest.mark.parametrize("tool", FAULT_OF_TOOL)
def test_the_template_names_its_own_fault(tool: str) -> None:
    """Otherwise a model that repeats its training data word by word would not be counted as grounded."""
    fault = FAULT_OF_TOOL[tool]
    fields = {"part": "ear", "entity": "dog", "a_part": "an ear", "both": "the dog and the car"}
    fields |= {"Both": "The dog and the car", "parts": "ears"}
    texts = [text.format(**fields) for text in (*LOCAL[tool], *OVERVIEW[tool])]
    hits = [grounded_recall("", "", fault, text) == 1 for text in texts]
    assert sum(hits) >= len(texts) - 1, [text for text, hit in zip(texts, hits, strict=True) if not hit]
    assert set(FAULT_OF_TOOL.values()) <= set(FAULT_WORDS)


def test_recall_at_ten_percent_false_alarms() -> None:
    truth = np.array([False] * 10 + [True] * 4)
    scores = np.array([0.1 * k for k in range(10)] + [0.95, 0.85, 0.81, 0.05])
    statistic = recall_at(truth, scores, 0.1)
    # One clean image (.9) may pass; three faulty ones score above the second highest (.8).
    assert statistic(np.ones((1, 14), np.float32))[0] == pytest.approx(0.75)
    tied = recall_at(truth, np.zeros(14), 0.1)
    assert tied(np.ones((1, 14), np.float32))[0] == 0.0
    only_faulty = np.zeros((1, 14), np.float32)
    only_faulty[0, 10:] = 1
    assert np.isnan(statistic(only_faulty)[0])
    doubled = np.ones((1, 14), np.float32)
    doubled[0, 9] = 3  # the one clean image that may pass weighs too much now
    assert statistic(doubled)[0] == pytest.approx(0.25)

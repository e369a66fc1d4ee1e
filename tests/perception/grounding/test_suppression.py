"""Which of several overlapping boxes stay."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from artiagent.perception.grounding import Detection
from artiagent.perception.grounding.suppression import SAME_THING, clip, iou, suppress

BOXES = st.tuples(*[st.integers(0, 20)] * 2, *[st.integers(1, 12)] * 2).map(
    lambda b: tuple(map(float, (b[0], b[1], b[0] + b[2], b[1] + b[3])))
)
DETECTIONS = st.lists(
    st.builds(Detection, st.sampled_from(["dog", "cat"]), BOXES, st.sampled_from([0.3, 0.5, 0.9])), max_size=12
)


def test_overlap_of_boxes() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [0, 0, 10, 20], [20, 20, 30, 30]], dtype=float)
    assert iou(boxes)[0].tolist() == pytest.approx([1, 1 / 3, 1 / 2, 0])
    assert np.array_equal(iou(boxes), iou(boxes).T)


def test_the_better_of_one_class_stays() -> None:
    best, worse = Detection("dog", (0, 0, 10, 10), 0.9), Detection("dog", (0, 0, 10, 9), 0.5)  # IoU .9
    other = Detection("dog", (0, 0, 10, 4), 0.4)  # IoU .4 with the best
    assert suppress([worse, best, other], 0.7) == ([best, other], {"suppressed": 1})
    assert suppress([worse, best, other], 0.35) == ([best], {"suppressed": 2})


def test_another_class_that_nearly_fills_the_box_stays() -> None:
    person, portrait = Detection("person", (0, 0, 100, 100), 0.6), Detection("face", (4, 2, 98, 98), 0.9)
    assert iou(np.array([person.box, portrait.box]))[0, 1] == pytest.approx(0.9024)
    assert suppress([person, portrait], 0.7) == ([person, portrait], {})


def test_synonyms_are_merged() -> None:
    dog, puppy = Detection("dog", (0, 0, 100, 100), 0.6), Detection("puppy", (0, 0, 100, 96), 0.7)
    assert suppress([dog, puppy], 0.7) == ([puppy], {"synonym": 1})
    assert suppress([dog, puppy], 1.0) == ([puppy], {"synonym": 1})


def test_the_earlier_of_equal_scores_stays() -> None:
    first, second = Detection("dog", (0, 0, 10, 10), 0.5), Detection("dog", (0, 0, 10, 9), 0.5)
    assert suppress([first, second], 0.7)[0] == [first]
    assert suppress([second, first], 0.7)[0] == [second]


def test_what_was_suppressed_suppresses_nothing() -> None:
    chain = [Detection("dog", (x, 0, x + 10, 10), 0.9 - x / 100) for x in (0, 4, 8)]  # neighbours overlap by .43
    assert suppress(chain, 0.4) == ([chain[0], chain[2]], {"suppressed": 1})


@given(DETECTIONS, st.floats(0.1, 1))
def test_what_stays_does_not_overlap_and_what_goes_has_a_better(
    detections: list[Detection], overlap_max: float
) -> None:
    kept, dropped = suppress(detections, overlap_max)
    assert len(kept) + dropped.total() == len(detections)
    assert [d for d in detections if any(d is k for k in kept)] == kept

    def clash(a: Detection, b: Detection) -> bool:
        return iou(np.array([a.box, b.box]))[0, 1] > (overlap_max if a.phrase == b.phrase else SAME_THING)

    assert not any(clash(a, b) for n, a in enumerate(kept) for b in kept[n + 1 :])
    for gone in (d for d in detections if not any(d is k for k in kept)):
        assert any(clash(gone, k) and k.score >= gone.score for k in kept)


def test_boxes_are_cut_to_the_image() -> None:
    assert clip(Detection("dog", (-5, -5, 50, 20), 0.5), 40, 30) == Detection("dog", (0, 0, 40, 20), 0.5)
    outside = [(40, 0, 50, 30), (-9, 0, 0.5, 30), (0, 29.5, 40, 40), (5, 5, 5, 20), (9, 0, 3, 30), (math.nan, 0, 9, 9)]
    assert [clip(Detection("dog", box, 0.5), 40, 30) for box in outside] == [None] * len(outside)

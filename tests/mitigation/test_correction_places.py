"""Places to repaint: sound, bounded, from every source, whatever comes in."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from artiagent.config import CorrectionSection
from artiagent.mitigation.correction.places import hull, peak_boxes, propose
from artiagent.records import Box

NOTHING = np.zeros((0, 0))
numbers = st.integers(-50, 200)


def peak(*cells: tuple[int, int], shape: tuple[int, int] = (8, 8)) -> np.ndarray:
    found = np.zeros(shape)
    for strength, cell in zip((3.0, 2.0, 1.0), cells, strict=False):
        found[cell] = strength
    return found


@given(
    boxes=st.lists(st.tuples(numbers, numbers, numbers, numbers).map(lambda v: Box(*v)), max_size=4),
    badness=arrays(np.float32, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)),
    size=st.tuples(st.integers(8, 120), st.integers(8, 120)),
    largest=st.floats(0.05, 1),
    proposals=st.integers(1, 9),
)
@example(boxes=[Box(0, 0, 6, 1)], badness=np.zeros((1, 1), np.float32), size=(8, 8), largest=0.0625, proposals=1)
def test_every_place_lies_inside_and_is_no_larger_than_asked(boxes, badness, size, largest, proposals):
    width, height = size
    section = CorrectionSection(largest=largest, proposals=proposals)
    places, _ = propose(section, boxes, badness, width, height)
    assert len(places) <= proposals
    for place in places:
        for box in place.boxes:
            assert box.area > 0 and box == box.clip(width, height)
            assert box.area <= max(largest * width * height, 1)


def test_sources_take_turns_and_only_the_configured_ones_speak():
    map_ = peak((6, 6), (1, 6))
    places, _ = propose(CorrectionSection(proposals=3), [Box(10, 10, 30, 30)], map_, 128, 128)
    assert [place.source for place in places] == ["vlm", "badness", "grown"]
    alone, _ = propose(CorrectionSection(sources=("badness",)), [Box(10, 10, 30, 30)], map_, 128, 128)
    assert {place.source for place in alone} == {"badness"}


def test_several_boxes_are_offered_one_by_one_and_together():
    boxes = [Box(0, 0, 20, 20), Box(80, 80, 120, 120)]
    places, _ = propose(CorrectionSection(sources=("vlm",), dilate=0.0), boxes, NOTHING, 128, 128)
    assert [place.boxes for place in places] == [(boxes[0],), (boxes[1],), tuple(boxes)]


def test_grown_boxes_surround_what_was_located():
    section = CorrectionSection(sources=("grown",), grow=(1.5, 2.0), largest=1.0)
    box = Box(50, 50, 70, 70)
    places, _ = propose(section, [box], NOTHING, 128, 128)
    areas = [place.boxes[0].area for place in places]
    assert areas == sorted(areas) and areas[0] > box.area
    assert all(hull([box, place.boxes[0]]) == place.boxes[0] for place in places)


def test_peaks_are_the_worst_regions_in_pixels():
    first, second = peak_boxes(peak((1, 2), (6, 5)), 128, 64)
    assert first == Box(32, 8, 48, 16) and second == Box(80, 48, 96, 56)
    assert peak_boxes(np.ones((4, 4)), 64, 64) == () and peak_boxes(NOTHING, 64, 64) == ()
    assert peak_boxes(np.full((4, 4), np.nan), 64, 64) == ()


def test_small_boxes_are_widened_to_something_that_can_be_painted():
    places, _ = propose(CorrectionSection(sources=("vlm",), dilate=0.0), [Box(60, 60, 61, 61)], NOTHING, 128, 128)
    (box,) = places[0].boxes
    assert min(box.x1 - box.x0, box.y1 - box.y0) >= 12

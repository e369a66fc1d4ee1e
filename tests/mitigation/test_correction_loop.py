"""The loop of correction: what is applied, what never changes, and what goes wrong without harm."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artiagent.config import CorrectionSection
from artiagent.inspection.findings import Picture
from artiagent.mitigation.correction.loop import Interrupted, correct_images, log_odds
from artiagent.mitigation.correction.records import BETTER
from artiagent.records import Box
from tests.mitigation.correction_cast import (
    GREEN,
    RED,
    SECTION,
    ColourVerdict,
    Painter,
    ScriptedWitness,
    cast,
    faulty_picture,
    red,
)

FAULT = Box(8, 8, 24, 24)


def run(picture, panel=None, **changes):
    (found,) = correct_images(SECTION.model_copy(update=changes), panel or cast(), [picture])
    return found


def test_a_fault_is_repainted_and_the_loop_ends():
    picture = faulty_picture(FAULT)
    record, image = run(picture)
    assert record.outcome == "corrected" and not red(image).any()
    assert len(record.rounds) == 1 and record.verdict > 0.5 > record.verdict_after
    assert record.verifier_after > record.verifier
    assert record.applied[0].source in ("vlm", "badness", "grown")
    assert record.calls == len(record.rounds[0].candidates)
    assert not (image != picture.pixels).any(axis=2)[~record.region.decode()].any()


def test_a_clean_image_is_not_looked_at_again():
    panel = cast()
    picture = faulty_picture()
    record, image = run(picture, panel)
    assert record.outcome == "clean" and not record.rounds and record.region is None
    assert panel.inpainter.calls == 0
    np.testing.assert_array_equal(image, picture.pixels)


@pytest.mark.parametrize(
    ("painter", "verdict", "why"),
    [
        (Painter(lambda seed: RED), ColourVerdict(), "verifier prefers it by"),
        (Painter(), ColourVerdict(lambda image: (image == GREEN).all(axis=2).any()), "VLM prefers it by"),
    ],
)
def test_nothing_is_applied_unless_both_judges_prefer_it(painter, verdict, why):
    picture = faulty_picture(FAULT)
    record, image = run(picture, cast(painter, verdict=verdict))
    assert record.outcome == "kept" and len(record.rounds) == SECTION.rounds
    np.testing.assert_array_equal(image, picture.pixels)
    assert all(why in one.why for turn in record.rounds for one in turn.candidates)


def test_margins_are_asked_for():
    picture = faulty_picture(Box(8, 8, 10, 10))
    assert run(picture, reward_margin=3.0).record.outcome == "corrected"
    assert run(picture, reward_margin=4.0).record.outcome == "kept"


def test_the_next_round_looks_at_what_is_left():
    other = Box(40, 40, 56, 56)
    picture = faulty_picture(FAULT, other)
    section = SECTION.model_copy(update={"sources": ("badness",), "proposals": 1})
    (found,) = correct_images(section, cast(), [picture])
    assert not red(found.image).any()
    assert [turn.chosen is not None for turn in found.record.rounds] == [True, True]
    first, second = found.record.applied
    assert first.boxes[0].iou(second.boxes[0]) == 0


def test_the_best_by_both_judges_together_is_taken():
    shades = iter([(0, 200, 0), (0, 200, 0)] * 50)
    painter = Painter(lambda seed: RED if seed % 2 else next(shades))
    record, image = run(faulty_picture(FAULT), cast(painter), candidates=8)
    chosen = record.rounds[0].candidates[record.rounds[0].chosen]
    assert chosen.why == BETTER
    liked = [one for one in record.rounds[0].candidates if one.why == BETTER]
    assert log_odds(chosen.vlm) + chosen.verifier == max(log_odds(one.vlm) + one.verifier for one in liked)


def test_further_repaintings_go_to_the_place_of_the_best():
    record, _ = run(faulty_picture(FAULT), candidates=1, refine=3)
    turn = record.rounds[0]
    *first, one, two, three = turn.candidates
    assert one.place == two.place == three.place
    liked = [tried for tried in first if tried.why == BETTER]
    assert one.place == max(liked, key=lambda tried: log_odds(tried.vlm) + tried.verifier).place
    assert len({tried.seed for tried in turn.candidates}) == len(turn.candidates)


def test_an_answer_without_a_box_falls_back_and_is_logged():
    record, image = run(faulty_picture(FAULT), cast(witness=ScriptedWitness(status="prose", caption="")))
    turn = record.rounds[0]
    assert turn.location_status == "prose" and not turn.located
    assert any("names no box" in note for note in turn.notes) and any("no caption" in note for note in turn.notes)
    assert record.outcome == "corrected" and not red(image).any()


def test_boxes_without_area_or_as_large_as_the_image_do_no_harm():
    boxes = (Box(5, 5, 5, 30), Box(70, 70, 90, 90), Box(0, 0, 64, 64))
    record, _ = run(faulty_picture(FAULT), cast(witness=ScriptedWitness(*boxes)), sources=("vlm",), largest=0.5)
    turn = record.rounds[0]
    assert sum("no area" in note for note in turn.notes) == 2
    assert any("limited to 50%" in note for note in turn.notes)
    assert all(box.area <= 0.5 * 64 * 64 for one in turn.candidates for box in one.place.boxes)


def test_one_failing_repainting_is_one_candidate_less():
    def paint(seed):
        if seed % 3 == 0:
            raise RuntimeError("out of paint")
        return (0, 0, 0) if seed % 3 == 1 else GREEN

    record, image = run(faulty_picture(FAULT), cast(Painter(paint)), candidates=8)
    reasons = [one.why for one in record.rounds[0].candidates]
    assert any("out of paint" in why for why in reasons) and any("black" in why for why in reasons)
    assert record.outcome == "corrected" and not red(image).any()


def test_an_inpainter_that_always_fails_leaves_the_image():
    def paint(seed):
        raise ValueError("no weights")

    picture = faulty_picture(FAULT)
    record, image = run(picture, cast(Painter(paint)))
    assert record.outcome == "kept"
    np.testing.assert_array_equal(image, picture.pixels)


def test_ctrl_c_keeps_the_best_so_far():
    calls = []

    def paint(seed):
        calls.append(seed)
        if len(calls) > 4:  # in the second round
            raise KeyboardInterrupt
        return GREEN

    pictures = [faulty_picture(FAULT, Box(40, 40, 56, 56)), Picture("bad.png", "0", None, "not an image")]
    section = SECTION.model_copy(update={"sources": ("badness",), "proposals": 1})
    with pytest.raises(Interrupted) as stop:
        correct_images(section, cast(Painter(paint)), pictures)
    best, unread = stop.value.found
    assert best.record.outcome == "corrected" and 0 < red(best.image).sum() < red(pictures[0].pixels).sum()
    assert unread.record.outcome == "unread" and unread.image is None


def test_a_result_does_not_depend_on_the_company():
    shades = lambda seed: (0, 100 + seed % 100, 0)  # noqa: E731
    pictures = [faulty_picture(FAULT, name="a"), faulty_picture(Box(30, 30, 50, 40), name="b")]
    alone = [run(picture, cast(Painter(shades))) for picture in pictures]
    together = correct_images(SECTION, cast(Painter(shades)), pictures)
    for one, other in zip(alone, together, strict=True):
        assert one.record == other.record
        np.testing.assert_array_equal(one.image, other.image)


@settings(max_examples=40)
@given(
    size=st.tuples(st.integers(16, 90), st.integers(16, 90)),
    corner=st.tuples(st.integers(0, 60), st.integers(0, 60)),
    sides=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    feather=st.integers(0, 6),
    dilate=st.floats(0, 0.8),
    seen=st.integers(16, 64),
)
def test_pixels_outside_the_recorded_boxes_are_the_inputs(size, corner, sides, feather, dilate, seen):
    """Whatever the box, the size, the feather: the alpha is exactly zero outside, also of scaled windows."""
    height, width = (side // 8 * 8 for side in size)
    pixels = np.random.default_rng(height * width).integers(100, 200, (height, width, 3), dtype=np.uint8)
    box = Box(*corner, corner[0] + sides[0], corner[1] + sides[1]).clip(width, height)
    pixels[box.slices] = RED
    picture = Picture("x", "x", pixels.copy())
    section = CorrectionSection(
        feather=feather,
        dilate=dilate,
        size=seen,
        candidates=1,
        refine=1,
        rounds=2,
        reward_margin=0.0,
        verdict_margin=0.0,
    )
    (found,) = correct_images(section, cast(witness=ScriptedWitness(box)), [picture])
    np.testing.assert_array_equal(picture.pixels, pixels)
    changed = (found.image != pixels).any(axis=2)
    inside = np.zeros((height, width), dtype=bool)
    for place in found.record.applied:
        for one in place.boxes:
            inside[one.slices] = True
    assert not changed[~inside].any()
    if found.record.region is None:
        assert not changed.any()
    else:
        np.testing.assert_array_equal(found.record.region.decode(), inside)


def test_large_images_reach_the_inpainter_as_windows():
    painter = Painter()
    picture = faulty_picture(Box(300, 200, 330, 240), size=(400, 640))
    witness = ScriptedWitness(Box(296, 196, 336, 248))
    record, image = run(picture, cast(painter, witness), sources=("vlm",), size=64)
    assert record.outcome == "corrected" and not red(image).any()
    assert all(max(shape[1:3]) <= 64 for shape, _ in painter.seen)

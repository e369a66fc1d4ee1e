"""Round trips between source pixels and the units that each model family speaks."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen2VLImageProcessor

from artiagent.evaluation.parsing import parse_boxes
from artiagent.instruction.conversations import fill_boxes
from artiagent.instruction.coordinates import CONVENTIONS, CoordinateSpace
from artiagent.records import Box

sides = st.integers(32, 1600)
budgets = st.integers(56 * 56, 2_000_000)


class Qwen2_5_VLProcessor(SimpleNamespace):
    """Only the name and the image processor of a processor matter."""


class Qwen2VLProcessor(SimpleNamespace):
    pass


class Qwen3VLProcessor(SimpleNamespace):
    pass


class InternVLProcessor(SimpleNamespace):
    pass


def qwen(longest_edge: int, patch: int = 14, **settings: object) -> Qwen2_5_VLProcessor:
    size = {"shortest_edge": min(56 * 56, longest_edge), "longest_edge": longest_edge}
    return Qwen2_5_VLProcessor(image_processor=Qwen2VLImageProcessor(size=size, patch_size=patch, **settings))


def processor_of(family: str, budget: int) -> SimpleNamespace:
    return qwen(budget) if family == "Qwen2_5_VLProcessor" else globals()[family]()


PAPER, NANO, INTERN = qwen(262_144), qwen(16_384, patch=8), InternVLProcessor()


@st.composite
def images_with_boxes(draw: st.DrawFn) -> tuple[int, int, Box]:
    width, height = draw(sides), draw(sides)
    x0, y0 = draw(st.integers(0, width - 2)), draw(st.integers(0, height - 2))
    return width, height, Box(x0, y0, draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height)))


def test_the_budget_of_the_paper_shrinks_640x480_to_multiples_of_28() -> None:
    space = CoordinateSpace.from_processor(PAPER, 640, 480)
    assert (space.model_width, space.model_height) == (588, 420)
    assert space.to_model(Box(0, 0, 640, 480)) == [0, 0, 588, 420]
    assert space.to_model(Box(320, 240, 640, 480)) == [294, 210, 588, 420]
    box = Box(101, 57, 333, 400)
    assert all(abs(a - b) <= 1 for a, b in zip(space.to_source(space.to_model(box)), box, strict=True))


def test_the_space_is_the_size_that_the_processor_really_makes() -> None:
    for height, width in ((480, 640), (100, 900), (64, 64)):
        grid = PAPER.image_processor([np.zeros((height, width, 3), np.uint8)], return_tensors="pt").image_grid_thw[0]
        space = CoordinateSpace.from_processor(PAPER, width, height)
        assert (space.model_height, space.model_width) == (int(grid[1]) * 14, int(grid[2]) * 14)


@pytest.mark.parametrize("family", CONVENTIONS)
@settings(max_examples=200)
@given(images_with_boxes(), budgets)
def test_pixels_survive_model_text_and_parser(family: str, case: tuple[int, int, Box], budget: int) -> None:
    """Source -> model space -> text -> parser -> source: within a pixel wherever a unit is no more than a pixel."""
    width, height, box = case
    space = CoordinateSpace.from_processor(processor_of(family, budget), width, height)
    written = fill_boxes("[{box:0}]", (box,), space)
    (back,), status = parse_boxes(written, space)
    assert status == "ok"
    units = (width / space.model_width, height / space.model_height)
    for k, (found, true) in enumerate(zip(back, box, strict=True)):
        unit = units[k % 2]
        thin = box[k % 2 + 2] - box[k % 2] < unit  # cannot be said: it becomes a unit
        assert abs(found - true) <= (max(1, math.ceil(unit)) if thin else space.bound)
        assert unit > 1 or abs(found - true) <= 1
    assert back == back.clip(width, height) and back.area


@pytest.mark.parametrize(
    ("size", "family", "budget", "bound"),
    [
        ((1000, 700), "InternVLProcessor", 0, 1),
        ((3500, 2000), "InternVLProcessor", 0, 2),  # a unit is 3.5 px: half of it, and rounding
        ((4000, 3000), "Qwen3VLProcessor", 0, 2),
        ((640, 480), "Qwen2_5_VLProcessor", 262_144, 1),
        ((4000, 3000), "Qwen2_5_VLProcessor", 262_144, 4),  # shrunk to 588 x 420: a unit is 7 px
    ],
)
def test_the_bound_says_what_a_coarse_unit_costs(size: tuple, family: str, budget: int, bound: int) -> None:
    space = CoordinateSpace.from_processor(processor_of(family, budget), *size)
    assert space.bound == bound
    worst = max(abs(space.to_source(space.to_model(Box(x, 0, size[0], 9))).x0 - x) for x in range(size[0] - 50))
    assert worst <= bound and (bound == 1 or worst > 1)


@given(images_with_boxes())
def test_model_boxes_stay_inside_and_are_never_empty(case: tuple[int, int, Box]) -> None:
    width, height, box = case
    space = CoordinateSpace.from_processor(NANO, width, height)
    x0, y0, x1, y1 = space.to_model(box)
    assert 0 <= x0 < x1 <= space.model_width
    assert 0 <= y0 < y1 <= space.model_height


def test_intern_speaks_per_mille() -> None:
    space = CoordinateSpace.from_processor(INTERN, 640, 480)
    assert space.to_model(Box(160, 120, 320, 480)) == [250, 250, 500, 1000]


def test_an_image_that_is_not_resized_keeps_its_pixels() -> None:
    space = CoordinateSpace.from_processor(qwen(16_384, do_resize=False), 640, 480)
    assert space.to_model(Box(3, 4, 50, 60)) == [3, 4, 50, 60]


def test_answers_beyond_the_image_are_clipped() -> None:
    space = CoordinateSpace(100, 100, 50, 50)
    assert space.to_source([-5, 10, 80, 20.4]) == Box(0, 20, 100, 41)


@pytest.mark.parametrize("answer", [[1, 2, 3], [5, 5, 5, 9], [9, 1, 3, 4], [0, 0, float("nan"), 4], ["a", 0, 1, 2]])
def test_answers_that_are_no_box_are_refused(answer: list) -> None:
    with pytest.raises(ValueError, match="expected"):
        CoordinateSpace(100, 100, 50, 50).to_source(answer)


def test_an_unknown_family_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="SimpleNamespace.*Qwen2_5_VLProcessor"):
        CoordinateSpace.from_processor(SimpleNamespace(), 10, 10)

"""Geometry between pixels and patches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from artiagent import grid
from artiagent.records import Box, Mask

MASKS = hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@given(MASKS)
def test_patches_cover_their_pixels_and_nothing_smaller_does(cells: np.ndarray) -> None:
    pixels = grid.pixel_mask(cells, 8)
    assert (grid.patch_grid(pixels, 8) == cells).all()
    assert (grid.grid_of(grid.indices_of(cells), cells.shape) == cells).all()


def test_core_patches_are_mostly_object() -> None:
    pixels = np.zeros((8, 16), dtype=bool)
    pixels[:, :4] = pixels[:, 13:] = True
    assert grid.core_grid(pixels, 8).tolist() == [[True, False]]


def test_one_pixel_sets_its_patch() -> None:
    pixels = np.zeros((16, 16), dtype=bool)
    pixels[8, 15] = True
    assert grid.patch_grid(pixels, 8).tolist() == [[False, False], [False, True]]


@given(MASKS, st.integers(0, 4))
def test_dilate_is_the_l1_ball(cells: np.ndarray, radius: int) -> None:
    points = np.argwhere(cells)
    everywhere = np.argwhere(np.ones_like(cells))
    distance = np.abs(everywhere[:, None] - points[None]).sum(axis=2).min(axis=1, initial=10**6)
    assert (grid.dilate(cells, radius).ravel() == (distance <= radius)).all()


@given(MASKS)
def test_grow_contains_dilate(cells: np.ndarray) -> None:
    assert not (grid.dilate(cells, 1) & ~grid.grow(cells, 1)).any()


@given(MASKS)
def test_mask_box_is_tight(cells: np.ndarray) -> None:
    box = grid.mask_box(cells)
    if box is None:
        assert not cells.any()
        return
    inside = cells[box.slices]
    assert inside.sum() == cells.sum()
    assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()


@given(MASKS)
def test_rle_round_trip(cells: np.ndarray) -> None:
    assert (Mask.encode(cells).decode() == cells).all()


def test_containment_counts_the_part_not_its_box() -> None:
    part, whole = np.zeros((40, 40), dtype=bool), np.zeros((40, 40), dtype=bool)
    part[0, :4] = part[39, 38:] = True  # 6 of 1,600 pixels of its box
    whole[:20] = True
    assert grid.containment(part, whole) == pytest.approx(4 / 6)
    assert grid.containment(Mask.encode(part & False), Mask.encode(whole)) == 0


@given(*[st.integers(-20, 40)] * 4)
def test_clipped_boxes_lie_in_the_image(x0: int, y0: int, x1: int, y1: int) -> None:
    box = Box(x0, y0, x1, y1).clip(24, 16)
    assert 0 <= box.x0 <= 24 and 0 <= box.y1 <= 16
    assert grid.box_mask(Box(x0, y0, x1, y1), 16, 24).sum() == box.area


def test_iou() -> None:
    assert Box(0, 0, 4, 4).iou(Box(2, 2, 6, 6)) == pytest.approx(4 / 28)
    assert Box(0, 0, 2, 2).iou(Box(3, 3, 4, 4)) == 0
    assert Box(1, 1, 1, 5).iou(Box(1, 1, 1, 5)) == 0


def test_union_is_counted_once() -> None:
    assert grid.union_mask([Box(0, 0, 4, 4), Box(2, 0, 6, 4)], 8, 8).sum() == 24


def test_odd_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="not a multiple"):
        grid.patch_grid(np.zeros((10, 16), dtype=bool), 8)
    with pytest.raises(ValueError, match="outside the grid"):
        grid.grid_of((64,), (8, 8))

"""What the tools share: the record with its errors, counts of hits, the list of shifts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artiagent.synthesis.toolbox import hits, mapping, shifts
from tests.synthesis.toolbox.grids import cells_of, grid_sets


@settings(max_examples=100)
@given(grid_sets(3, largest=8))
def test_hits_count_the_moved_cells_in_frame(grids: tuple[np.ndarray, ...]) -> None:
    form, first, second = grids
    maps = np.stack([first + 2 * second, second])
    counted, (height, width) = hits(form, maps), form.shape
    for d_row in range(1 - height, height):
        for d_col in range(1 - width, width):
            moved = [(r + d_row, c + d_col) for r, c in cells_of(form)]
            inside = [(r, c) for r, c in moved if 0 <= r < height and 0 <= c < width]
            assert counted[:, d_row, d_col].tolist() == [sum(int(grid[cell]) for cell in inside) for grid in maps]


@given(st.integers(1, 6))
def test_shifts_are_the_l1_ball_without_its_centre(radius: int) -> None:
    found = [tuple(d) for d in shifts(radius).tolist()]
    assert len(set(found)) == len(found) == 2 * radius * (radius + 1)
    assert {abs(r) + abs(c) for r, c in found} == set(range(1, radius + 1))


def test_mapping_is_sorted_by_target() -> None:
    made = mapping((4, 4), np.array([9, 2, 5]), np.array([1, 1, 15]))
    assert (made.targets, made.references) == ((2, 5, 9), (1, 15, 1))


@pytest.mark.parametrize(
    ("targets", "references", "message"),
    [
        ([4, 1, 1, 4], [2, 3, 0, 0], "target patch 1, 4 occurs twice: expected exactly one reference"),
        ([1], [2, 3], r"targets \(1,\) and references \(2,\): expected two arrays \[n\], equal n"),
        ([[1]], [[2]], r"targets \(1, 1\) and references \(1, 1\): expected two arrays \[n\]"),
        ([99, 3], [1, 2], r"target patch 99 outside the grid 4x4: expected 0\.\.15"),
        ([1, 2], [-1, 16], r"reference patch -1, 16 outside the grid 4x4: expected 0\.\.15"),
    ],
)
def test_bad_mappings_are_named(targets: list, references: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mapping((4, 4), np.array(targets), np.array(references))

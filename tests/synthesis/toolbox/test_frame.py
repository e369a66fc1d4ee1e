"""Sets of patches as numbers agree with grids of flags."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from artiagent.grid import dilate, indices_of
from artiagent.synthesis.toolbox.frame import Frame, frame, shifts
from tests.synthesis.toolbox.grids import cells_of, grid_sets, nearest_cell


@settings(max_examples=150)
@given(grid_sets(2), st.integers(0, 6))
def test_sets_are_grids(grids: tuple[np.ndarray, ...], radius: int) -> None:
    one, two = grids
    bits = frame(one.shape)
    first, second = bits.pack(one), bits.pack(two)
    assert bits.pack_all(np.stack(grids)) == [first, second]
    assert (bits.grid(first) == one).all() and (bits.grid(first & ~second) == one & ~two).all()
    assert bits.indices(first).tolist() == indices_of(one).tolist()
    assert first.bit_count() == one.sum()
    assert (bits.grid(bits.grow(first, radius)) == dilate(one, radius)).all()
    assert (bits.counts([first, second]).reshape(one.shape) == one.astype(int) + two).all()


@settings(max_examples=200)
@given(grid_sets(2))
def test_nearest_is_the_first_of_the_nearest(grids: tuple[np.ndarray, ...]) -> None:
    one, pool = grids
    if not pool.any():
        return
    bits = frame(one.shape)
    found = bits.nearest(bits.indices(bits.pack(one)).tolist(), bits.pack(pool))
    expected = [nearest_cell(cell, cells_of(pool)) for cell in cells_of(one)]
    assert [divmod(cell, one.shape[1]) for cell in found] == expected


@settings(max_examples=100)
@given(grid_sets(1, largest=8), st.integers(1, 4))
def test_moves_keep_what_stays_in_frame(grids: tuple[np.ndarray, ...], radius: int) -> None:
    (form,) = grids
    bits = frame(form.shape)
    for (d_row, d_col), (stays, by) in zip(shifts(radius).tolist(), bits.moves(radius), strict=True):
        kept = bits.pack(form) & stays
        moved = {(r + d_row, c + d_col) for r, c in cells_of(form)}
        inside = {(r, c) for r, c in moved if 0 <= r < form.shape[0] and 0 <= c < form.shape[1]}
        assert set(cells_of(bits.grid(kept << by if by >= 0 else kept >> -by))) == inside


def test_distances_do_not_depend_on_how_they_are_held() -> None:
    small, cells = Frame(5, 7), np.arange(35)
    large = Frame(5, 7)
    large.__dict__["table"] = None
    for cell in range(35):
        assert (small.distances(cell, cells) == large.distances(cell, cells)).all()
        assert small.ball(cell, 2) == sum(1 << k for k in np.flatnonzero(small.distances(cell, cells) <= 2).tolist())
    assert Frame(65, 64).table is None

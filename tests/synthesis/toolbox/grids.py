"""Random boolean grids for the toolbox, and the little that the naive reference implementations share."""

from itertools import product

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from artiagent.records import PatchMapping

Cell = tuple[int, int]


@st.composite
def grid_sets(draw: st.DrawFn, count: int, largest: int = 12) -> tuple[np.ndarray, ...]:
    """``count`` bool grids [h, w] of one random shape: rectangles that often touch the frame, noise, empty, full."""
    shape = draw(st.integers(1, largest)), draw(st.integers(1, largest))

    def rectangles() -> np.ndarray:
        grid = np.zeros(shape, dtype=bool)
        for _ in range(draw(st.integers(1, 3))):
            top, left = draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[1] - 1))
            grid[top : top + draw(st.integers(1, 6)), left : left + draw(st.integers(1, 6))] = True
        return grid

    def one() -> np.ndarray:
        kind = draw(st.sampled_from(["rectangles"] * 7 + ["noise", "empty", "full"]))
        if kind == "rectangles":
            return rectangles()
        return draw(hnp.arrays(bool, shape)) if kind == "noise" else np.full(shape, kind == "full")

    return tuple(one() for _ in range(count))


def cells_of(grid: np.ndarray) -> list[Cell]:
    """The set cells in row-major order."""
    return [(r, c) for r, c in product(range(grid.shape[0]), range(grid.shape[1])) if grid[r, c]]


def apart(p: Cell, q: Cell) -> int:
    """L1 distance."""
    return abs(p[0] - q[0]) + abs(p[1] - q[1])


def nearest_cell(cell: Cell, pool: list[Cell]) -> Cell:
    """The L1-nearest cell of a row-major pool, the first of several."""
    return min(pool, key=lambda q: apart(cell, q))


def pairs_of(mapping: PatchMapping) -> dict[Cell, Cell]:
    """Targets and references as (row, col)."""
    width = mapping.grid[1]
    return {divmod(t, width): divmod(r, width) for t, r in zip(mapping.targets, mapping.references, strict=True)}

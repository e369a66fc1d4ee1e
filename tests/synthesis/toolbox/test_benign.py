"""Benign injections against a search over all places."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from artiagent.grid import dilate
from artiagent.synthesis.toolbox import Mapped, NoMapping, benign
from tests.synthesis.toolbox.grids import cells_of, grid_sets, pairs_of


@settings(max_examples=200)
@given(grid_sets(2), st.integers(0, 2), st.integers(0, 99))
def test_a_free_place_of_the_form_takes_its_neighbours(grids: tuple[np.ndarray, ...], margin: int, seed: int) -> None:
    form, foreground = grids
    result = benign.background(form, foreground, np.random.default_rng(seed), margin)
    cells, free = cells_of(form), set(cells_of(~dilate(foreground, margin)))
    if not cells:
        assert result.reason == "too_small"
        return
    top, left = (min(values) for values in zip(*cells, strict=True))
    height, width = form.shape
    moves = [(r - top, c - left) for r in range(height) for c in range(width)]
    places = [[(r + d_row, c + d_col) for r, c in cells] for d_row, d_col in moves]
    places = [place for place in places if free.issuperset(place)]
    if not places:
        assert isinstance(result, NoMapping)
        return
    # the only draw before the order of the sides
    drawn = places[int(np.random.default_rng(seed).integers(len(places)))]
    sides = [[(r + d_row, c + d_col) for r, c in drawn] for d_row, d_col in [(-1, 0), (0, -1), (0, 1), (1, 0)]]
    sides = [side for side in sides if free.issuperset(side)]
    assert isinstance(result, Mapped) == bool(sides)
    if isinstance(result, Mapped):
        assert result.params["spots"] == len(places)
        assert pairs_of(result.mapping) in [dict(zip(drawn, side, strict=True)) for side in sides]


def test_every_free_place_can_be_drawn() -> None:
    foreground = np.zeros((6, 6), dtype=bool)
    foreground[:3] = True
    form = np.zeros_like(foreground)
    form[2:4, 2:4] = True
    made = [benign.background(form, foreground, np.random.default_rng(seed), margin=0).mapping for seed in range(200)]
    assert {m.targets[0] for m in made} == {r * 6 + c for r in (3, 4) for c in range(5)}

"""Algorithm 2 against a search over all patches."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from artiagent.grid import grid_of
from artiagent.synthesis.toolbox import NoMapping
from artiagent.synthesis.toolbox.remove import remove
from tests.synthesis.toolbox.grids import apart, cells_of, grid_sets, nearest_cell, pairs_of


@settings(max_examples=150)
@given(grid_sets(3), st.integers(1, 4))
def test_every_target_takes_its_nearest_patch_of_the_pool(grids: tuple[np.ndarray, ...], radius: int) -> None:
    part, owner, others = grids
    targets = cells_of(part)
    result = remove(part, owner, others | part, radius)
    if not targets:
        assert result.reason == "too_small"
        return
    around = [n for n in cells_of(~part) if min(apart(n, t) for t in targets) <= radius]
    other = [n for n in around if not others[n]]
    background = [n for n in around if not owner[n]]
    pool = background if len(background) > len(other) / 2 else other
    if not pool:
        assert isinstance(result, NoMapping)
        return
    assert pairs_of(result.mapping) == {t: nearest_cell(t, pool) for t in targets}


def test_true_background_is_taken_when_it_prevails() -> None:
    owner = np.zeros((8, 8), dtype=bool)
    owner[4:7, 1:7] = True
    part = np.zeros_like(owner)
    part[1:4, 3] = True
    result = remove(part, owner | part, part, radius=2)
    assert result.params["pool"] == "background"
    assert not (grid_of(result.mapping.references, part.shape) & owner).any()


def test_inside_the_owner_the_owner_is_taken() -> None:
    owner = np.ones((9, 9), dtype=bool)
    part = np.zeros_like(owner)
    part[4, 4] = True
    assert remove(part, owner, part, radius=1).params["pool"] == "other"


def test_without_surroundings_it_is_refused() -> None:
    whole = np.ones((4, 4), dtype=bool)
    assert remove(whole, whole, whole, radius=2).reason == "no_candidate"

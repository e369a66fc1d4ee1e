"""Algorithm 3: the three kernels against their plain description."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from artiagent.synthesis.toolbox import NoMapping, distort
from tests.synthesis.toolbox.grids import Cell, cells_of, grid_sets, nearest_cell, pairs_of


@settings(max_examples=100)
@given(grid_sets(1), st.integers(0, 99))
def test_shuffle_is_a_bijection_on_the_part(grids: tuple[np.ndarray], seed: int) -> None:
    (part,) = grids
    cells = cells_of(part)
    result = distort.shuffle(part, np.random.default_rng(seed))
    if len(cells) < 4:
        assert result.reason == "too_small"
        return
    pairs = pairs_of(result.mapping)
    assert list(pairs) == cells == sorted(pairs.values())


def test_shuffle_depends_on_the_seed() -> None:
    part = np.ones((4, 4), dtype=bool)
    assert len({distort.shuffle(part, np.random.default_rng(seed)).mapping for seed in range(20)}) == 20


def naive_jitter(part: np.ndarray, owner: np.ndarray, seed: int, sigma: float, attempts: int) -> dict[Cell, Cell]:
    """Cell by cell over the same draws: the first that lies in the owner, else what is nearest to the last."""
    rng, cells, foreground = np.random.default_rng(seed), cells_of(part), cells_of(owner)
    draws = [np.round(rng.normal(0, sigma, size=(2, len(cells)))).astype(int) for _ in range(attempts)]
    pairs = {}
    for i, target in enumerate(cells):
        wanted = [(target[0] + int(noise[0, i]), target[1] + int(noise[1, i])) for noise in draws]
        inside = [cell for cell in wanted if cell in set(foreground)]
        last = tuple(np.clip(wanted[-1], 0, np.array(part.shape) - 1).tolist())
        fallback = nearest_cell(last, foreground) if foreground else target
        pairs[target] = inside[0] if inside else fallback
    return pairs


@settings(max_examples=100)
@given(grid_sets(2), st.integers(0, 99), st.sampled_from([0.5, 1.5, 6.0]), st.integers(1, 4))
def test_jitter_takes_the_first_draw_in_the_owner(
    grids: tuple[np.ndarray, ...], seed: int, sigma: float, attempts: int
) -> None:
    part, owner = grids
    result = distort.jitter(part, owner, np.random.default_rng(seed), sigma, attempts)
    if part.sum() < 4:
        assert result.reason == "too_small"
        return
    pairs = pairs_of(result.mapping)
    assert pairs == naive_jitter(part, owner, seed, sigma, attempts)
    assert not owner.any() or all(owner[reference] for reference in pairs.values())


def test_jitter_spreads_by_sigma() -> None:
    part = np.zeros((40, 40), dtype=bool)
    part[10:30, 10:30] = True
    pairs = pairs_of(distort.jitter(part, part | True, np.random.default_rng(0), 1.5, 10).mapping)
    moved = np.array([[r[0] - t[0], r[1] - t[1]] for t, r in pairs.items()])
    assert np.abs(moved.mean(axis=0)).max() < 0.3
    assert np.allclose(moved.std(axis=0), np.sqrt(1.5**2 + 1 / 12), atol=0.15)  # 1/12: rounding to patches


def naive_strips(part: np.ndarray, strips: int) -> list[list[Cell]]:
    """Bands along the longer side of the bounding box (rows if equal), each ordered across that side."""
    cells = cells_of(part)
    extent = [max(values) - min(values) + 1 for values in zip(*cells, strict=True)]
    along = 0 if extent[0] >= extent[1] else 1
    first, length = min(cell[along] for cell in cells), extent[along]
    bands: list[list[Cell]] = [[] for _ in range(min(strips, length))]
    for cell in cells:
        bands[(cell[along] - first) * len(bands) // length].append(cell)
    return [sorted(band, key=lambda cell: (cell[1 - along], cell[along])) for band in bands]


@settings(max_examples=150)
@given(grid_sets(1), st.integers(2, 8))
def test_strips_are_cyclic_across_the_dominant_axis(grids: tuple[np.ndarray], strips: int) -> None:
    (part,) = grids
    result = distort.strip(part, strips)
    if part.sum() < 4:
        assert result.reason == "too_small"
        return
    expected, amounts = {}, [1, -1, 2, -2, 3, -3, 4, -4]
    for band, amount in zip(naive_strips(part, strips), amounts, strict=False):
        expected |= {cell: band[(i - amount) % len(band)] for i, cell in enumerate(band)}
    unmoved = sum(target == reference for target, reference in expected.items())
    if unmoved > len(expected) / 2:
        assert isinstance(result, NoMapping)
    else:
        assert pairs_of(result.mapping) == expected


def test_strips_of_a_limb_slide_sideways() -> None:
    part = np.zeros((10, 8), dtype=bool)
    part[1:9, 2:6] = True  # tall: strips are bands of two rows, content slides within them
    pairs = pairs_of(distort.strip(part, 4).mapping)
    assert all((t[0] - 1) // 2 == (r[0] - 1) // 2 for t, r in pairs.items())
    assert any(t[1] != r[1] for t, r in pairs.items())

"""Algorithms 4-5 against a plain retelling, and what makes the fusions of one pair differ."""

from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from artiagent.config import PlanningSection
from artiagent.grid import dilate
from artiagent.synthesis.toolbox import Mapped
from artiagent.synthesis.toolbox.fuse import fuse
from tests.synthesis.toolbox.grids import Cell, apart, cells_of, grid_sets, nearest_cell, pairs_of

PAPER = PlanningSection(fuse_reverse=False, fuse_spread=0, fuse_one_sided=0.0)


def naive_regions(band: list[Cell], seeds: int) -> dict[Cell, list[Cell]]:
    """Farthest-point seeds of the band with their L1 Voronoi regions; earlier seeds win ties."""
    centre = [sum(values) / len(band) for values in zip(*band, strict=True)]
    chosen = [min(band, key=lambda p: abs(p[0] - centre[0]) + abs(p[1] - centre[1]))]
    while len(chosen) < min(seeds, len(band)):
        chosen.append(max(band, key=lambda p: min(apart(p, seed) for seed in chosen)))
    regions: dict[Cell, list[Cell]] = {seed: [] for seed in chosen}
    for p in band:
        regions[min(chosen, key=lambda seed: apart(p, seed))].append(p)
    return regions


def naive_side(seed: Cell, a: np.ndarray, b: np.ndarray, band: np.ndarray) -> np.ndarray:
    """Where the region of ``seed`` borrows."""
    far = 10**6
    to_a, to_b = (min((apart(seed, p) for p in cells_of(side)), default=far) for side in (a & ~b, b & ~a))
    side = (b & ~a if to_a < to_b else a & ~b) & ~band
    return side if to_a != to_b and side.any() else (a | b) & ~band


def naive_fusion(a: np.ndarray, b: np.ndarray, core: np.ndarray, section: PlanningSection) -> dict[Cell, Cell]:
    band = dilate(a & b, section.fuse_radius) & (a | b)
    reach = range(-section.fuse_offset, section.fuse_offset + 1)
    offsets = [d for d in product(reach, reach) if 1 <= abs(d[0]) + abs(d[1]) <= section.fuse_offset]
    pairs = {}
    for seed, region in naive_regions(cells_of(band), section.fuse_seeds).items():
        side = cells_of(naive_side(seed, a, b, band) & core)
        if not side:
            continue
        valid = set(side)
        d = max(offsets, key=lambda d: sum((r + d[0], c + d[1]) in valid for r, c in region))
        for r, c in region:
            shifted = r + d[0], c + d[1]
            pairs[r, c] = shifted if shifted in valid else nearest_cell((r, c), side)
    return pairs


@st.composite
def entity_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two rectangles that overlap, frayed by noise, and a core."""
    height, width = draw(st.integers(6, 14)), draw(st.integers(6, 14))
    a, b = np.zeros((height, width), dtype=bool), np.zeros((height, width), dtype=bool)
    row, col = draw(st.integers(2, height - 3)), draw(st.integers(2, width - 3))
    a[max(0, row - draw(st.integers(1, 7))) : row + 2, max(0, col - draw(st.integers(1, 7))) : col + 2] = True
    b[row - 1 : row + draw(st.integers(1, 7)), col - 1 : col + draw(st.integers(1, 7))] = True
    missing, rng = draw(st.sampled_from([0.0, 0.2])), np.random.default_rng(draw(st.integers(0, 999)))
    noise = rng.random((3, height, width)) >= missing
    return a & noise[0], b & noise[1], (a | b) & noise[2]


@settings(max_examples=200)
@given(entity_pairs(), st.integers(1, 3), st.integers(1, 7), st.integers(1, 4))
def test_the_band_borrows_from_the_opposite_sides(
    entities: tuple[np.ndarray, ...], radius: int, seeds: int, offset: int
) -> None:
    a, b, core = entities
    sizes = {"fuse_radius": radius, "fuse_seeds": seeds, "fuse_offset": offset, "fuse_max_containment": 1.0}
    section = PAPER.model_copy(update={**sizes, "fuse_min_overlap": 1})
    assume((a & b).any())
    result = fuse(a, b, core, np.random.default_rng(0), section)
    expected = naive_fusion(a, b, core, section)
    assert isinstance(result, Mapped) == (len(expected) >= 4)
    if isinstance(result, Mapped):
        pairs = pairs_of(result.mapping)
        assert pairs == expected
        band = dilate(a & b, radius) & (a | b)
        assert all(band[target] for target in pairs)
        assert all(core[r] and (a | b)[r] and not band[r] for r in pairs.values())


@settings(max_examples=100)
@given(entity_pairs(), st.integers(0, 99))
def test_reversed_pairs_give_back_what_was_borrowed(entities: tuple[np.ndarray, ...], seed: int) -> None:
    forward = fuse(*entities, np.random.default_rng(seed), PAPER)
    both = fuse(*entities, np.random.default_rng(seed), PAPER.model_copy(update={"fuse_reverse": True}))
    assert isinstance(forward, Mapped) == isinstance(both, Mapped)
    if isinstance(forward, Mapped):
        there, all_pairs = pairs_of(forward.mapping), pairs_of(both.mapping)
        assert there.items() <= all_pairs.items()
        assert all(there[r] == t for t, r in all_pairs.items() if t not in there)


@settings(max_examples=60)
@given(grid_sets(2))
def test_pairs_that_share_too_little_or_too_much_are_refused(grids: tuple[np.ndarray, ...]) -> None:
    a, b = grids
    shared = int((a & b).sum())
    result = fuse(a, b, a | b, np.random.default_rng(0), PAPER)
    if shared < 5 or shared > 0.7 * min(a.sum(), b.sum()):
        assert result.reason == "no_candidate"


def overlapping() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two rectangles and their foreground without its outermost ring, as if boundary cells were mostly background."""
    a, b = np.zeros((14, 14), dtype=bool), np.zeros((14, 14), dtype=bool)
    a[3:11, 1:8] = True
    b[4:12, 6:13] = True
    return a, b, ~dilate(~(a | b), 1)


def test_some_pairs_are_reversed() -> None:
    section = PAPER.model_copy(update={"fuse_reverse": True})
    sizes = {len(fuse(*overlapping(), np.random.default_rng(seed), section).mapping.targets) for seed in range(10)}
    assert min(sizes) > len(fuse(*overlapping(), np.random.default_rng(0), PAPER).mapping.targets)
    assert len(sizes) > 2


def test_fusions_of_one_pair_differ_and_may_flow_one_way() -> None:
    a, b, core = overlapping()
    section = PAPER.model_copy(update={"fuse_spread": 1, "fuse_one_sided": 1.0})
    made = [fuse(a, b, core, np.random.default_rng(seed), section) for seed in range(20)]
    assert len({result.mapping.targets for result in made}) > 2
    assert {result.params["radius"] for result in made} == {1, 2, 3}
    givers = [{"a" if a[r] else "b" for r in pairs_of(result.mapping).values()} for result in made]
    assert {"a"} in givers and {"b"} in givers


@pytest.mark.parametrize(("beyond", "mapped"), [(0, True), (1, False)])
def test_the_least_overlap_is_inclusive(beyond: int, mapped: bool) -> None:
    a, b, core = overlapping()
    section = PAPER.model_copy(update={"fuse_min_overlap": int((a & b).sum()) + beyond})
    assert isinstance(fuse(a, b, core, np.random.default_rng(0), section), Mapped) == mapped

"""Properties that every tool keeps on random grids, and the cases where each is known to go wrong."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artiagent.config import PlanningSection
from artiagent.grid import dilate, grid_of, indices_of
from artiagent.synthesis.toolbox import Mapped, NoMapping, benign, distort, mapping, nearest
from artiagent.synthesis.toolbox.add import add
from artiagent.synthesis.toolbox.fuse import fuse
from artiagent.synthesis.toolbox.remove import remove

SECTION = PlanningSection()


@st.composite
def scenes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Part, owner (part included) and other instances as rectangles on a grid of random size."""
    height, width = draw(st.integers(6, 20)), draw(st.integers(6, 20))

    def rectangle() -> np.ndarray:
        grid = np.zeros((height, width), dtype=bool)
        top, left = draw(st.integers(0, height - 2)), draw(st.integers(0, width - 2))
        grid[top : top + draw(st.integers(2, 5)), left : left + draw(st.integers(2, 5))] = True
        return grid

    part = rectangle()
    return part, part | rectangle() | dilate(part, 1), rectangle()


def check(result: Mapped | NoMapping, shape: tuple[int, int]) -> Mapped | None:
    if isinstance(result, NoMapping):
        return None
    m = result.mapping
    assert m.grid == shape
    assert len(m.targets) == len(m.references) > 0
    assert len(set(m.targets)) == len(m.targets)
    assert min(*m.targets, *m.references) >= 0 and max(*m.targets, *m.references) < shape[0] * shape[1]
    return result


@settings(max_examples=60, deadline=None)
@given(scenes(), st.integers(0, 99), st.sampled_from(["contour_ring", "centroid_ring"]))
def test_add_copies_the_part_by_one_shift_and_never_wraps(scene: tuple, seed: int, placement: str) -> None:
    part, owner, others = scene
    section = PlanningSection(placement=placement)
    result = check(add(part, owner, others, np.random.default_rng(seed), section), part.shape)
    if result is None:
        return
    m, width = result.mapping, part.shape[1]
    offsets = {(t // width - r // width, t % width - r % width) for t, r in zip(m.targets, m.references, strict=True)}
    assert offsets == {(result.params["d_row"], result.params["d_col"])}
    assert set(m.references) <= set(indices_of(part).tolist())
    assert len(m.targets) >= 0.5 * part.sum()
    body = owner & ~part
    assert (grid_of(m.targets, part.shape) & dilate(body if body.any() else owner, 1)).any()


def test_add_argmax_prefers_free_ground() -> None:
    owner = np.zeros((12, 12), dtype=bool)
    owner[4:9, 2:8] = True
    part = np.zeros_like(owner)
    part[9:11, 3:5] = True
    result = add(part, owner | part, np.zeros_like(part), np.random.default_rng(0), PlanningSection(add_temperature=0))
    copy = grid_of(result.mapping.targets, part.shape)
    assert not (copy & part).any() and not (copy & owner).all()


def test_add_same_seed_same_mapping() -> None:
    part = np.zeros((10, 10), dtype=bool)
    part[5:7, 5:7] = True
    owner = dilate(part, 2)
    runs = [add(part, owner, part & False, np.random.default_rng(7), SECTION).mapping for _ in range(2)]
    assert runs[0] == runs[1]


@settings(max_examples=60, deadline=None)
@given(scenes(), st.integers(1, 3))
def test_remove_borrows_from_outside_the_part_at_least_distance(scene: tuple, radius: int) -> None:
    part, owner, others = scene
    result = check(remove(part, owner, others | part, radius), part.shape)
    if result is None:
        return
    m = result.mapping
    assert set(m.targets) == set(indices_of(part).tolist())
    assert not (grid_of(m.references, part.shape) & part).any()


def test_remove_takes_true_background_when_it_prevails() -> None:
    owner = np.zeros((8, 8), dtype=bool)
    owner[4:7, 1:7] = True
    part = np.zeros_like(owner)
    part[1:4, 3] = True
    result = remove(part, owner | part, part, radius=2)
    assert result.params["pool"] == "background"
    assert not (grid_of(result.mapping.references, part.shape) & owner).any()


def test_remove_inside_the_owner_uses_the_owner() -> None:
    owner = np.ones((9, 9), dtype=bool)
    part = np.zeros_like(owner)
    part[4, 4] = True
    assert remove(part, owner, part, radius=1).params["pool"] == "other"


def test_remove_without_surroundings_is_refused() -> None:
    whole = np.ones((4, 4), dtype=bool)
    assert remove(whole, whole, whole, radius=2).reason == "no_candidate"


@settings(max_examples=60, deadline=None)
@given(scenes(), st.integers(0, 99))
def test_shuffle_is_a_bijection_on_the_part(scene: tuple, seed: int) -> None:
    part, _, _ = scene
    result = check(distort.shuffle(part, np.random.default_rng(seed)), part.shape)
    assert sorted(result.mapping.references) == sorted(result.mapping.targets) == indices_of(part).tolist()


@settings(max_examples=60, deadline=None)
@given(scenes(), st.integers(0, 99))
def test_jitter_stays_in_the_owner(scene: tuple, seed: int) -> None:
    part, owner, _ = scene
    result = check(distort.jitter(part, owner, np.random.default_rng(seed), 1.5, 10), part.shape)
    assert set(result.mapping.targets) == set(indices_of(part).tolist())
    assert set(result.mapping.references) <= set(indices_of(owner).tolist())


@settings(max_examples=60, deadline=None)
@given(scenes(), st.integers(2, 6))
def test_strips_are_cyclic_inside_themselves(scene: tuple, strips: int) -> None:
    part, _, _ = scene
    result = check(distort.strip(part, strips), part.shape)
    if result is not None:
        assert sorted(result.mapping.references) == sorted(result.mapping.targets)


def test_strips_slide_across_the_dominant_axis() -> None:
    part = np.zeros((10, 8), dtype=bool)
    part[1:9, 2:6] = True  # tall: strips are bands of rows, content slides within them
    m = distort.strip(part, 4).mapping
    rows = {(t // 8 - 1) // 2: set() for t in m.targets}
    for t, r in zip(m.targets, m.references, strict=True):
        rows[(t // 8 - 1) // 2].add((r // 8 - 1) // 2)
    assert all(sources == {band} for band, sources in rows.items())


def overlapping(gap: int = 0) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.zeros((14, 14), dtype=bool), np.zeros((14, 14), dtype=bool)
    a[3:11, 1:8] = True
    b[4:12, 6 + gap : 13] = True
    return a, b


def core(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Foreground without its outermost ring, as if boundary cells were mostly background."""
    return ~dilate(~(a | b), 1)


EXACT = PlanningSection(fuse_reverse=False, fuse_spread=0, fuse_one_sided=0.0)


def test_fusions_of_one_pair_differ_and_may_flow_one_way() -> None:
    a, b = overlapping()
    section = EXACT.model_copy(update={"fuse_spread": 1, "fuse_one_sided": 1.0})
    made = [check(fuse(a, b, core(a, b), np.random.default_rng(seed), section), a.shape) for seed in range(20)]
    assert len({result.mapping.targets for result in made}) > 2
    assert {result.params["radius"] for result in made} == {1, 2, 3}
    only_a, only_b = (np.flatnonzero(side) for side in (a & ~b, b & ~a))
    one_way = [len({*result.mapping.references} & {*only_a}) == 0 for result in made]
    other_way = [len({*result.mapping.references} & {*only_b}) == 0 for result in made]
    assert any(one_way) or any(other_way)


def test_fuse_maps_the_band_within_the_foreground() -> None:
    a, b = overlapping()
    result = check(fuse(a, b, core(a, b), np.random.default_rng(0), EXACT), a.shape)
    band = dilate(a & b, SECTION.fuse_radius) & (a | b)
    targets, references = (grid_of(v, a.shape) for v in (result.mapping.targets, result.mapping.references))
    assert not (targets & ~band).any()
    assert not (references & ~core(a, b)).any() and not (references & band).any()


def test_fuse_reversed_pairs_keep_targets_unique() -> None:
    a, b = overlapping()
    assert check(fuse(a, b, a | b, np.random.default_rng(1), SECTION), a.shape) is not None


@pytest.mark.parametrize("case", ["apart", "contained"])
def test_fuse_refuses(case: str) -> None:
    a, b = overlapping(gap=4)
    if case == "contained":
        b = np.zeros_like(a)
        b[4:8, 2:6] = True
    assert fuse(a, b, a | b, np.random.default_rng(0), SECTION).reason == "no_candidate"


@settings(max_examples=30, deadline=None)
@given(scenes(), st.integers(0, 99))
def test_benign_touches_background_only(scene: tuple, seed: int) -> None:
    part, owner, _ = scene
    result = check(benign.background(part, owner, np.random.default_rng(seed), margin=1), part.shape)
    if result is not None:
        touched = grid_of((*result.mapping.targets, *result.mapping.references), part.shape)
        assert not (touched & dilate(owner, 1)).any()
        assert all(t != r for t, r in zip(result.mapping.targets, result.mapping.references, strict=True))


def test_nearest_is_the_l1_nearest() -> None:
    assert nearest(np.array([0, 24]), np.array([3, 20]), (5, 5)).tolist() == [3, 20]


@pytest.mark.parametrize(
    ("targets", "references", "message"),
    [([1, 1], [2, 3], "twice"), ([1], [2, 3], "expected two arrays"), ([99], [1], "outside"), ([1], [-1], "outside")],
)
def test_bad_mappings_are_named(targets: list[int], references: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mapping((4, 4), np.array(targets), np.array(references))

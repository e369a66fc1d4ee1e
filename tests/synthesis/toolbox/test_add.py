"""Algorithm 1 against the formula, shift by shift."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artiagent.config import PlanningSection
from artiagent.grid import dilate, grid_of
from artiagent.synthesis.toolbox import Mapped
from artiagent.synthesis.toolbox.add import add
from tests.synthesis.toolbox.grids import Cell, apart, cells_of, grid_sets, nearest_cell, pairs_of

SECTIONS = st.builds(
    PlanningSection,
    placement=st.sampled_from(["contour_ring", "centroid_ring"]),
    add_radius=st.integers(1, 4),
    add_temperature=st.sampled_from([0.0, 0.05]),
    add_min_visible=st.sampled_from([0.0, 0.5, 0.85]),
)


def naive_distance(part: np.ndarray, d: Cell, placement: str) -> int:
    """L1 length of the shift, or how far it brings the centroid from the part."""
    if placement == "centroid_ring":
        return abs(d[0]) + abs(d[1])
    cells = cells_of(part)
    centre = tuple(round(sum(values) / len(cells)) for values in zip(*cells, strict=True))
    moved = centre[0] + d[0], centre[1] + d[1]
    return apart(moved, nearest_cell(moved, cells))


def naive_scores(
    part: np.ndarray, owner: np.ndarray, others: np.ndarray, section: PlanningSection, form: np.ndarray
) -> dict[Cell, float]:
    """Score of every shift that may be chosen: ring, frame, contact and overlap checked one by one."""
    (height, width), cells = part.shape, cells_of(form)
    body = owner & ~part
    reach = dilate(body if body.any() else owner, 1)
    own_contact = sum(bool(reach[cell]) for cell in cells)
    scores = {}
    for d in product(range(-height - 4, height + 5), range(-width - 4, width + 5)):
        distance = naive_distance(part, d, section.placement)
        if d == (0, 0) or not 1 <= distance <= section.add_radius:
            continue
        moved = [(r + d[0], c + d[1]) for r, c in cells]
        inside = [(r, c) for r, c in moved if 0 <= r < height and 0 <= c < width]
        contact = sum(bool(reach[cell]) for cell in inside)
        overlap = sum(int(part[cell]) + int(body[cell]) + int(others[cell] & ~part[cell]) for cell in inside)
        touches = contact > 0 and contact >= section.add_contact * own_contact
        if touches and len(inside) / len(cells) >= section.add_min_visible and overlap / len(cells) < 1.5:
            scores[d] = (3 - overlap / len(cells)) / (1 + section.add_distance_weight * distance)
    return scores


@settings(max_examples=150)
@given(grid_sets(4, largest=8), SECTIONS, st.booleans(), st.integers(0, 99))
def test_the_chosen_shift_has_the_score_of_the_formula(
    grids: tuple[np.ndarray, ...], section: PlanningSection, some: bool, seed: int
) -> None:
    part, owner, others, subset = grids
    owner = owner | part
    copied = part & subset if some else None
    form = part if copied is None else copied
    result = add(part, owner, others, np.random.default_rng(seed), section, copied)
    if not form.any():
        assert result.reason == "too_small"
        return
    scores = naive_scores(part, owner, others, section, form)
    assert isinstance(result, Mapped) == bool(scores)
    if not scores:
        return
    d_row, d_col = chosen = result.params["d_row"], result.params["d_col"]
    assert result.score == pytest.approx(scores[chosen], abs=1e-12)
    if section.add_temperature == 0:
        assert result.score == pytest.approx(max(scores.values()), abs=1e-12)
    height, width = part.shape
    copy = {(r + d_row, c + d_col): (r, c) for r, c in cells_of(form)}
    assert pairs_of(result.mapping) == {t: r for t, r in copy.items() if 0 <= t[0] < height and 0 <= t[1] < width}


def limb() -> tuple[np.ndarray, np.ndarray]:
    """A part below its body, and the owner of both."""
    owner = np.zeros((12, 12), dtype=bool)
    owner[4:9, 2:8] = True
    part = np.zeros_like(owner)
    part[9:11, 3:5] = True
    return part, owner | part


def test_shifts_are_drawn_from_the_softmax_of_the_scores() -> None:
    part, owner = limb()
    section, draws = PlanningSection(add_temperature=0.3), 800
    scores = naive_scores(part, owner, part & False, section, part)
    weights = {d: np.exp(score / 0.3) for d, score in scores.items()}
    drawn = [add(part, owner, part & False, np.random.default_rng(seed), section).params for seed in range(draws)]
    upper = {d for d, score in scores.items() if score >= np.median(list(scores.values()))}
    expected = sum(weights[d] for d in upper) / sum(weights.values())
    assert 0.55 < expected < 0.95
    share = np.mean([(params["d_row"], params["d_col"]) in upper for params in drawn])
    assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / draws)


def test_argmax_prefers_free_ground() -> None:
    part, owner = limb()
    result = add(part, owner, part & False, np.random.default_rng(0), PlanningSection(add_temperature=0))
    copy = grid_of(result.mapping.targets, part.shape)
    assert not (copy & part).any() and not (copy & owner).all()


def test_other_instances_are_avoided() -> None:
    part, owner = limb()
    section = PlanningSection(add_temperature=0)
    free = add(part, owner, part & False, np.random.default_rng(0), section)
    occupied = grid_of(free.mapping.targets, part.shape)
    moved = add(part, owner, occupied, np.random.default_rng(0), section)
    assert moved.mapping != free.mapping and moved.score < free.score


def test_a_ring_wider_than_the_grid_changes_nothing() -> None:
    part, owner = limb()
    for placement in ("contour_ring", "centroid_ring"):
        near, far = (
            add(part, owner, part & False, np.random.default_rng(5), PlanningSection(placement=placement, add_radius=n))
            for n in (24, 500)
        )
        assert near == far


def test_a_copy_at_the_frame_loses_patches_instead_of_wrapping() -> None:
    owner = np.zeros((8, 8), dtype=bool)
    owner[2:6, 3:6] = True
    part = np.zeros_like(owner)
    part[2:6, 6:8] = True
    section = PlanningSection(add_min_visible=0.5, add_temperature=1.0)
    made = [add(part, owner | part, part & False, np.random.default_rng(seed), section).mapping for seed in range(60)]
    assert any(len(m.targets) < part.sum() for m in made)
    for m in made:
        moves = {(t[0] - r[0], t[1] - r[1]) for t, r in pairs_of(m).items()}
        assert len(moves) == 1 and len(m.targets) >= part.sum() / 2

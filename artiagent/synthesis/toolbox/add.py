"""Add (duplication, Algorithm 1): a part is drawn a second time beside itself."""

from __future__ import annotations

import numpy as np

from artiagent.config import PlanningSection
from artiagent.grid import dilate, indices_of, l1_distance
from artiagent.synthesis.toolbox import Mapped, NoMapping, mapping, shifts


def add(
    part: np.ndarray,
    owner: np.ndarray,
    others: np.ndarray,
    rng: np.random.Generator,
    section: PlanningSection,
    copied: np.ndarray | None = None,
) -> Mapped | NoMapping:
    """Place a copy of ``part`` where it overlaps little and still hangs on its owner, nearly as the part does itself.

    Args:
        part: patches of the part, bool [h, w].
        copied: those of them that are mostly part: the rest would bring slabs of background along. None: all.
        owner: patches of the whole owner entity, part included.
        others: patches of other instances of the same part class.

    Returns:
        ``M = {(r + d, r)}`` for the chosen shift d, pairs that leave the frame dropped; or NoMapping.
    """
    cells = indices_of(part if copied is None else copied)
    if not cells.size:
        return NoMapping("too_small", "the part covers no patch")
    candidates = _candidates(part, section)
    overlap, inside = _overlaps(cells, part, owner, others, candidates)
    body = owner & ~part
    reach = dilate(body if body.any() else owner, 1)
    contact, (own_contact,) = (_shares(cells, reach, at)[0] for at in (candidates, np.zeros((1, 2), dtype=int)))
    touches = (contact > 0) & (contact >= section.add_contact * own_contact)
    usable = (inside >= section.add_min_visible) & touches & (overlap < 1.5)
    if not usable.any():
        return NoMapping("no_candidate", "no shift keeps the copy in frame and in touch with its owner")
    distances = _distances(part, candidates, section)
    scores = np.where(usable, (3 - overlap) / (1 + section.add_distance_weight * distances), -np.inf)
    chosen = _choose(scores, section.add_temperature, rng)
    d_row, d_col = candidates[chosen]
    rows, cols = np.divmod(cells, part.shape[1])
    keep = _in_frame(rows + d_row, cols + d_col, part.shape)
    targets = (rows + d_row)[keep] * part.shape[1] + (cols + d_col)[keep]
    params = {"d_row": int(d_row), "d_col": int(d_col), "placement": section.placement}
    return Mapped(mapping(part.shape, targets, cells[keep]), float(scores[chosen]), params)


def _candidates(part: np.ndarray, section: PlanningSection) -> np.ndarray:
    """Shifts [s, 2] allowed by the placement: ring around the centroid (paper) or around the contour (default)."""
    if section.placement == "centroid_ring":
        return shifts(section.add_radius)
    rows, cols = np.nonzero(part)
    reach = section.add_radius + int(np.ptp(rows)) + int(np.ptp(cols))
    options = shifts(reach)
    clearance = _distances(part, options, section)
    return options[(clearance >= 1) & (clearance <= section.add_radius)]


def _distances(part: np.ndarray, options: np.ndarray, section: PlanningSection) -> np.ndarray:
    """L1 length of each shift, or distance of the shifted centroid from the part's contour; float [s]."""
    if section.placement == "centroid_ring":
        return np.abs(options).sum(axis=1).astype(float)
    centre = np.round(np.argwhere(part).mean(axis=0)).astype(int)
    margin = int(np.abs(options).max()) + max(part.shape)
    field = l1_distance(np.pad(part, margin))
    at = options + centre + margin
    return field[at[:, 0], at[:, 1]].astype(float)


def _overlaps(
    cells: np.ndarray, part: np.ndarray, owner: np.ndarray, others: np.ndarray, options: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """``r_self + r_ent + r_other`` [s] and the share of the copy that stays in frame [s]."""
    r_self, inside = _shares(cells, part, options)
    r_ent, _ = _shares(cells, owner & ~part, options)
    r_other, _ = _shares(cells, others & ~part, options)
    return r_self + r_ent + r_other, inside


def _shares(cells: np.ndarray, grid: np.ndarray, options: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of the shifted cells that fall on ``grid`` [s], and that stay in frame [s]. Nothing wraps around."""
    rows, cols = np.divmod(cells, grid.shape[1])
    rows, cols = rows[None] + options[:, :1], cols[None] + options[:, 1:]
    inside = _in_frame(rows, cols, grid.shape)
    hit = grid[rows.clip(0, grid.shape[0] - 1), cols.clip(0, grid.shape[1] - 1)] & inside
    return hit.mean(axis=1), inside.mean(axis=1)


def _in_frame(rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return (rows >= 0) & (rows < shape[0]) & (cols >= 0) & (cols < shape[1])


def _choose(scores: np.ndarray, temperature: float, rng: np.random.Generator) -> int:
    """Argmax, or a draw from softmax(score / temperature)."""
    if temperature == 0:
        return int(scores.argmax())
    weights = np.exp((scores - scores.max()) / temperature)
    return int(rng.choice(len(scores), p=weights / weights.sum()))

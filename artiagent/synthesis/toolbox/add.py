"""Add (duplication, Algorithm 1): a part is drawn a second time beside itself."""

from __future__ import annotations

import numpy as np

from artiagent.config import PlanningSection
from artiagent.synthesis.toolbox import Mapped, NoMapping, hits_at, mapping, shifts
from artiagent.synthesis.toolbox.frame import frame


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
    bits = frame(part.shape)
    whole, all_of_it = bits.pack(part), bits.pack(owner)
    shape = whole if copied is None else whole & bits.pack(copied)
    if not shape:
        return NoMapping("too_small", "the part covers no patch")
    form, size = bits.grid(shape), shape.bit_count()
    options, distances = _candidates(part, section)
    body = all_of_it & ~whole
    reach = bits.grow(body or all_of_it, 1)
    # r_self + r_ent + r_other: no patch is part and body, so that one map of counts stands for the three shares.
    clash = bits.grid(whole | body) + bits.grid(bits.pack(others) & ~whole).astype(int)
    overlap, contact, inside = (counts / size for counts in hits_at(form, (clash, bits.grid(reach)), options))
    own_contact = (shape & reach).bit_count() / size
    touches = (contact > 0) & (contact >= section.add_contact * own_contact)
    usable = (inside >= section.add_min_visible) & touches & (overlap < 1.5)
    if not usable.any():
        return NoMapping("no_candidate", "no shift keeps the copy in frame and in touch with its owner")
    scores = np.where(usable, (3 - overlap) / (1 + section.add_distance_weight * distances), -np.inf)
    chosen = _choose(scores, section.add_temperature, rng)
    d_row, d_col = options[chosen]
    targets, references = _moved(form, d_row, d_col)
    params = {"d_row": int(d_row), "d_col": int(d_col), "placement": section.placement}
    return Mapped(mapping(part.shape, targets, references), float(scores[chosen]), params)


def _candidates(part: np.ndarray, section: PlanningSection) -> tuple[np.ndarray, np.ndarray]:
    """Shifts [s, 2] that keep the copy at least partly in frame, and the distance of each, int64 [s].

    centroid_ring (paper): shifts up to the radius; the distance is their L1 length. contour_ring (default): shifts that
    bring the centroid into the ring around the part; the distance is the centroid's from the contour.
    """
    radius = min(section.add_radius, sum(part.shape))  # farther off, no copy is in frame
    if section.placement == "centroid_ring":
        options = shifts(radius)
        distances = np.abs(options).sum(axis=1)
    else:
        wide = np.zeros([length + 2 * radius for length in part.shape], dtype=bool)
        wide[radius:-radius, radius:-radius] = part
        bits = frame(wide.shape)
        reached = [bits.pack(wide)]
        for _ in range(radius):
            reached.append(bits.grow(reached[-1], 1))
        ring = bits.indices(reached[-1] & ~reached[0])
        d_rows, d_cols = bits.rows[ring], bits.cols[ring]
        d_rows, d_cols = (
            cells - (int(np.round(own.sum() / len(own))) + radius)
            for cells, own in zip((d_rows, d_cols), part.nonzero(), strict=True)
        )
        options = np.column_stack([d_rows, d_cols])
        distances = radius + 1 - bits.counts(reached)[ring]
    able = options.any(axis=1) & (np.abs(options) < part.shape).all(axis=1)
    return options[able], distances[able]


def _moved(form: np.ndarray, d_row: int, d_col: int) -> tuple[np.ndarray, np.ndarray]:
    """Targets and references [n] of the form moved by one shift, without the patches that leave the frame."""
    rows, cols = np.nonzero(form)
    keep = _in_frame(rows + d_row, cols + d_col, form.shape)
    references = (rows * form.shape[1] + cols)[keep]
    return references + d_row * form.shape[1] + d_col, references


def _in_frame(rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return (rows >= 0) & (rows < shape[0]) & (cols >= 0) & (cols < shape[1])


def _choose(scores: np.ndarray, temperature: float, rng: np.random.Generator) -> int:
    """Argmax, or a draw from softmax(score / temperature)."""
    if temperature == 0:
        return int(scores.argmax())
    weights = np.exp((scores - scores.max()) / temperature)
    chances = (weights / weights.sum()).cumsum()  # as ``rng.choice`` draws, without its checks
    return int((chances / chances[-1]).searchsorted(rng.random(), side="right"))

"""Add (duplication, Algorithm 1): a part is drawn a second time beside itself."""

from __future__ import annotations

import numpy as np

from artiagent.config import PlanningSection
from artiagent.synthesis.toolbox import Mapped, NoMapping, hits_at, mapping_of, shifts
from artiagent.synthesis.toolbox.frame import Frame, frame


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
    copied = part if copied is None else copied
    return add_set(bits, bits.pack(part), bits.pack(owner), bits.pack(others), rng, section, bits.pack(copied))


def add_set(
    bits: Frame, part: int, owner: int, others: int, rng: np.random.Generator, section: PlanningSection, copied: int
) -> Mapped | NoMapping:
    """``add`` for sets of patches."""
    form = part & copied
    if not form:
        return NoMapping("too_small", "the part covers no patch")
    size = form.bit_count()
    d_rows, d_cols, distances = _candidates(bits.grid(part), section)
    body = owner & ~part
    reach = bits.grow(body or owner, 1)
    # r_self + r_ent + r_other: no patch is part and body, so that one map of counts stands for the three shares.
    clash = bits.counts([part | body, others & ~part]).reshape(bits.shape)
    overlap, contact, inside = (
        counts / size for counts in hits_at(bits.grid(form), (clash, bits.grid(reach)), d_rows, d_cols)
    )
    own_contact = (form & reach).bit_count() / size
    touches = (contact > 0) & (contact >= section.add_contact * own_contact)
    usable = (inside >= section.add_min_visible) & touches & (overlap < 1.5)
    if not usable.any():
        return NoMapping("no_candidate", "no shift keeps the copy in frame and in touch with its owner")
    scores = np.where(usable, (3 - overlap) / (1 + section.add_distance_weight * distances), -np.inf)
    chosen = _choose(scores, section.add_temperature, rng)
    d_row, d_col = int(d_rows[chosen]), int(d_cols[chosen])
    stays, by = bits.move(d_row, d_col)
    references = bits.indices(form & stays).tolist()
    params = {"d_row": d_row, "d_col": d_col, "placement": section.placement}
    return Mapped(mapping_of(bits.shape, [cell + by for cell in references], references), float(scores[chosen]), params)


def _candidates(part: np.ndarray, section: PlanningSection) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows and columns of the shifts that may keep the copy in frame, and the distance of each, three int64 [s].

    centroid_ring (paper): shifts up to the radius; the distance is their L1 length. contour_ring (default): shifts that
    bring the centroid into the ring around the part; the distance is the centroid's from the contour.
    """
    radius = min(section.add_radius, sum(part.shape))  # farther off, no copy is in frame
    if section.placement == "centroid_ring":
        d_rows, d_cols = shifts(radius).T
        distances = np.abs(d_rows) + np.abs(d_cols)
    else:
        wide = np.zeros([length + 2 * radius for length in part.shape], dtype=bool)
        wide[radius:-radius, radius:-radius] = part
        bits = frame(wide.shape)
        reached = [bits.pack(wide)]
        for _ in range(radius):
            reached.append(bits.grow(reached[-1], 1))
        ring = bits.indices(reached[-1] & ~reached[0])
        rows, cols = part.nonzero()
        d_rows = bits.rows[ring] - (round(int(rows.sum()) / len(rows)) + radius)
        d_cols = bits.cols[ring] - (round(int(cols.sum()) / len(cols)) + radius)
        distances = radius + 1 - bits.counts(reached)[ring].astype(np.int64)
    height, width = part.shape
    able = (np.abs(d_rows) < height) & (np.abs(d_cols) < width) & ((d_rows != 0) | (d_cols != 0))
    return d_rows[able], d_cols[able], distances[able]


def _choose(scores: np.ndarray, temperature: float, rng: np.random.Generator) -> int:
    """Argmax, or a draw from softmax(score / temperature)."""
    if temperature == 0:
        return int(scores.argmax())
    weights = np.exp((scores - scores.max()) / temperature)
    chances = (weights / weights.sum()).cumsum()  # as ``rng.choice`` draws, without its checks
    return int((chances / chances[-1]).searchsorted(rng.random(), side="right"))

"""Fuse (Algorithms 4-5): the band where two entities meet takes patches from the opposite side."""

from __future__ import annotations

import numpy as np

from artiagent.config import PlanningSection
from artiagent.synthesis.toolbox import Mapped, NoMapping, mapping, nearest, shifts
from artiagent.synthesis.toolbox.frame import Frame, frame

_LEAST = 4  # patches of a fusion


def fuse(
    a: np.ndarray, b: np.ndarray, core: np.ndarray, rng: np.random.Generator, section: PlanningSection
) -> Mapped | NoMapping:
    """Map the band around the overlap of entities ``a`` and ``b`` (bool [h, w]) onto the opposite sides.

    `fuse_spread` varies the width of the band; `fuse_one_sided` is the chance that one entity flows into the other and
    takes nothing back. Both make the fusions of one pair of entities differ. ``core`` marks the patches that are mostly
    object: only they are borrowed, or slabs of background would come along.
    """
    bits = frame(a.shape)
    one, two = bits.pack(a), bits.pack(b)
    overlap = one & two
    if overlap.bit_count() < section.fuse_min_overlap:
        return NoMapping("no_candidate", f"the entities share {overlap.bit_count()} patches")
    if overlap.bit_count() / min(one.bit_count(), two.bit_count()) > section.fuse_max_containment:
        return NoMapping("no_candidate", "one entity nearly contains the other")
    radius = section.fuse_radius + int(rng.integers(-section.fuse_spread, section.fuse_spread + 1))
    band = bits.grow(overlap, max(1, radius)) & (one | two)
    sides = _Sides(bits, one, two, band, bits.pack(core))
    borrowed: list[tuple[bool, dict[int, int], int]] = []  # from a?, pairs, how many the offset served
    for region in _voronoi(bits, bits.indices(band), section.fuse_seeds):
        side, from_a = sides.opposite(int(region[0]))
        if side:
            references, shared = _offset_references(bits, region, side, section.fuse_offset)
            borrowed.append((from_a, dict(zip(region.tolist(), references.tolist(), strict=True)), shared))
    if rng.random() < section.fuse_one_sided:
        giver = bool(rng.random() < 0.5)
        chosen = [entry for entry in borrowed if entry[0] is giver]
        borrowed = chosen if sum(len(taken) for _, taken, _ in chosen) >= _LEAST else borrowed
    pairs = {target: reference for _, taken, _ in borrowed for target, reference in taken.items()}
    moved = sum(shared for *_, shared in borrowed)
    if len(pairs) < _LEAST:
        return NoMapping("no_candidate", "no opposite side to borrow patches from")
    if section.fuse_reverse:
        _add_reversed(pairs, rng)
    targets = np.fromiter(pairs.keys(), dtype=np.int64)
    references = np.fromiter(pairs.values(), dtype=np.int64)
    params = {"regions": len(borrowed), "radius": max(1, radius)}
    return Mapped(mapping(a.shape, targets, references), moved / len(pairs), params)


def _voronoi(bits: Frame, cells: np.ndarray, seeds: int) -> list[np.ndarray]:
    """Split ``cells`` [n] into L1 Voronoi regions of farthest-point seeds; first seed: nearest to the centroid.

    Returns the cells of every region, its seed first.
    """
    rows, cols = bits.rows[cells], bits.cols[cells]
    seed = int((np.abs(rows - rows.mean()) + np.abs(cols - cols.mean())).argmin())
    chosen, least = [seed], bits.distances(int(cells[seed]), cells)
    region_of = np.zeros(len(cells), dtype=np.int64)
    while len(chosen) < min(seeds, len(cells)):
        seed = int(least.argmax())
        distances = bits.distances(int(cells[seed]), cells)
        region_of[distances < least] = len(chosen)
        least = np.minimum(least, distances)
        chosen.append(seed)
    region_of[chosen] = -1
    return [np.concatenate([cells[[seed]], cells[region_of == k]]) for k, seed in enumerate(chosen)]


class _Sides:
    """What the regions of a band borrow from: sets of patches outside the band, see ``Frame``."""

    def __init__(self, bits: Frame, a: int, b: int, band: int, core: int) -> None:
        self.only_a, self.only_b = (bits.indices(side) for side in (a & ~b, b & ~a))
        self.outside = {1: b & ~a & ~band, -1: a & ~b & ~band, 0: (a | b) & ~band}
        self.bits, self.core = bits, core

    def opposite(self, seed: int) -> tuple[int, bool]:
        """Patches that are mostly object, and whether they are A's, for the region of a seed.

        B\\A if the seed is nearer to A\\B, A\\B if to B\\A; the whole foreground at a tie or if that side is empty.
        """
        to_a, to_b = (self._distance(seed, cells) for cells in (self.only_a, self.only_b))
        nearer = (to_b > to_a) - (to_b < to_a)
        return (self.outside[nearer] or self.outside[0]) & self.core, nearer <= 0

    def _distance(self, seed: int, cells: np.ndarray) -> int:
        return int(self.bits.distances(seed, cells).min()) if cells.size else self.bits.cells + sum(self.bits.shape)


def _offset_references(bits: Frame, region: np.ndarray, side: int, radius: int) -> tuple[np.ndarray, int]:
    """References [n] by the best shared offset, else the nearest patch of ``side``; and how many the offset served."""
    height, width = bits.shape
    wide = np.zeros((height + 2 * radius, width + 2 * radius), dtype=bool)  # no offset leads out of it
    wide[radius : radius + height, radius : radius + width] = bits.grid(side)
    options = shifts(radius)
    stride = width + 2 * radius
    places = (bits.rows[region] + radius) * stride + bits.cols[region] + radius
    valid = wide.ravel()[(options @ (stride, 1))[:, None] + places]
    best = int(valid.sum(axis=1).argmax())
    served = valid[best]
    references = region + options[best] @ (width, 1)
    if not served.all():
        references[~served] = nearest(region[~served], bits.indices(side), bits.shape)
    return references, int(served.sum())


def _add_reversed(pairs: dict[int, int], rng: np.random.Generator) -> None:
    """Let a random third of the references borrow back from the band, targets staying unique."""
    for target, reference in list(pairs.items()):
        if reference not in pairs and rng.random() < 1 / 3:
            pairs[reference] = target

"""Fuse (Algorithms 4-5): the band where two entities meet takes patches from the opposite side."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from artiagent.config import PlanningSection
from artiagent.synthesis.toolbox import Mapped, NoMapping, mapping_of
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
    return fuse_sets(bits, bits.pack(a), bits.pack(b), bits.pack(core), lambda: rng, section)


def fuse_sets(
    bits: Frame, a: int, b: int, core: int, draw: Callable[[], np.random.Generator], section: PlanningSection
) -> Mapped | NoMapping:
    """``fuse`` for sets of patches; ``draw`` makes the generator, if one is needed."""
    overlap = a & b
    if overlap.bit_count() < section.fuse_min_overlap:
        return NoMapping("no_candidate", f"the entities share {overlap.bit_count()} patches")
    if overlap.bit_count() / min(a.bit_count(), b.bit_count()) > section.fuse_max_containment:
        return NoMapping("no_candidate", "one entity nearly contains the other")
    rng = draw()
    radius = section.fuse_radius + int(rng.integers(-section.fuse_spread, section.fuse_spread + 1))
    band = bits.grow(overlap, max(1, radius)) & (a | b)
    sides = _Sides(bits, a, b, band, core)
    borrowed: list[tuple[bool, dict[int, int], int]] = []  # from a?, pairs, how many the offset served
    for region in _voronoi(bits, bits.indices(band), section.fuse_seeds):
        side, from_a = sides.opposite(region[0])
        if side:
            taken, shared = _offset_references(bits, region, side, section.fuse_offset)
            borrowed.append((from_a, taken, shared))
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
    params = {"regions": len(borrowed), "radius": max(1, radius)}
    return Mapped(mapping_of(bits.shape, [*pairs], [*pairs.values()]), moved / len(pairs), params)


def _voronoi(bits: Frame, cells: np.ndarray, seeds: int) -> list[list[int]]:
    """Split ``cells`` [n] into L1 Voronoi regions of farthest-point seeds; first seed: nearest to the centroid.

    Returns the cells of every region, its seed first.
    """
    rows, cols = bits.rows[cells], bits.cols[cells]
    size = len(cells)
    seed = int((np.abs(rows - rows.sum() / size) + np.abs(cols - cols.sum() / size)).argmin())
    chosen, least = [seed], bits.distances(cells[seed], cells)
    region_of = np.zeros(size, dtype=np.int64)
    while len(chosen) < min(seeds, size):
        seed = int(least.argmax())
        distances = bits.distances(cells[seed], cells)
        region_of[distances < least] = len(chosen)
        least = np.minimum(least, distances)
        chosen.append(seed)
    regions = [[int(cells[seed])] for seed in chosen]
    region_of[chosen] = -1  # they are there already
    for cell, region in zip(cells.tolist(), region_of.tolist(), strict=True):
        if region >= 0:
            regions[region].append(cell)
    return regions


class _Sides:
    """What the regions of a band borrow from: sets of patches outside the band, see ``Frame``."""

    def __init__(self, bits: Frame, a: int, b: int, band: int, core: int) -> None:
        self.only_a, self.only_b = a & ~b, b & ~a
        self.outside = {1: self.only_b & ~band, -1: self.only_a & ~band, 0: (a | b) & ~band}
        self.bits, self.core = bits, core

    def opposite(self, seed: int) -> tuple[int, bool]:
        """Patches that are mostly object, and whether they are A's, for the region of a seed.

        B\\A if the seed is nearer to A\\B, A\\B if to B\\A; the whole foreground at a tie or if that side is empty.
        """
        either, radius = self.only_a | self.only_b, 0
        while not (reach := self.bits.ball(seed, radius)) & either and reach != self.bits.full:
            radius += 1
        nearer = bool(reach & self.only_a) - bool(reach & self.only_b)
        return (self.outside[nearer] or self.outside[0]) & self.core, nearer <= 0


def _offset_references(bits: Frame, region: list[int], side: int, radius: int) -> tuple[dict[int, int], int]:
    """References by target: by the best shared offset, else the nearest patch of ``side``; how many the offset served.

    Of several best offsets the first of ``shifts`` is taken.
    """
    targets = bits.union(region)
    most, best = -1, (0, 0)
    for stays, by in bits.moves(radius):
        moved = (targets & stays) << by if by >= 0 else (targets & stays) >> -by
        if (count := (moved & side).bit_count()) > most:
            most, best = count, (stays, by)
            if most == len(region):
                break
    stays, by = best
    pairs = {cell: cell + by for cell in region}
    if left := [cell for cell in region if not (stays >> cell & 1 and side >> cell + by & 1)]:
        pairs.update(zip(left, bits.nearest(left, side), strict=True))
    return pairs, most


def _add_reversed(pairs: dict[int, int], rng: np.random.Generator) -> None:
    """Let a random third of the references borrow back from the band, targets staying unique."""
    for target, reference in list(pairs.items()):
        if reference not in pairs and rng.random() < 1 / 3:
            pairs[reference] = target

"""Fuse (Algorithms 4-5): the band where two entities meet takes patches from the opposite side."""

from __future__ import annotations

import numpy as np

from artiagent.config import PlanningSection
from artiagent.grid import dilate, indices_of, l1_distance
from artiagent.synthesis.toolbox import Mapped, NoMapping, mapping, nearest, shifts

_LEAST = 4  # patches of a fusion


def fuse(
    a: np.ndarray, b: np.ndarray, core: np.ndarray, rng: np.random.Generator, section: PlanningSection
) -> Mapped | NoMapping:
    """Map the band around the overlap of entities ``a`` and ``b`` (bool [h, w]) onto the opposite sides.

    `fuse_spread` varies the width of the band; `fuse_one_sided` is the chance that one entity flows into the other and
    takes nothing back. Both make the fusions of one pair of entities differ. ``core`` marks the patches that are mostly
    object: only they are borrowed, or slabs of background would come along.
    """
    overlap = a & b
    if overlap.sum() < section.fuse_min_overlap:
        return NoMapping("no_candidate", f"the entities share {int(overlap.sum())} patches")
    if overlap.sum() / min(a.sum(), b.sum()) > section.fuse_max_containment:
        return NoMapping("no_candidate", "one entity nearly contains the other")
    foreground = a | b
    radius = section.fuse_radius + int(rng.integers(-section.fuse_spread, section.fuse_spread + 1))
    band = dilate(overlap, max(1, radius)) & foreground
    regions = _voronoi(band, section.fuse_seeds)
    borrowed: list[tuple[bool, dict[int, int], int]] = []  # from a?, pairs, how many the offset served
    for region in regions:
        side, from_a = _opposite_side(region, a, b, foreground, band)
        if (side & core).any():
            references, shared = _offset_references(region, side & core, section.fuse_offset, band.shape)
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


def _voronoi(band: np.ndarray, seeds: int) -> list[np.ndarray]:
    """Split the band into L1 Voronoi regions of farthest-point seeds; first seed: nearest to the centroid."""
    cells = indices_of(band)
    points = np.argwhere(band)
    first = int(np.abs(points - points.mean(axis=0)).sum(axis=1).argmin())
    distance = np.abs(points - points[first]).sum(axis=1)
    table = [distance]
    for _ in range(min(seeds, len(points)) - 1):
        farthest = int(np.min(table, axis=0).argmax())
        table.append(np.abs(points - points[farthest]).sum(axis=1))
    owner = np.argmin(table, axis=0)
    seeds_first = [np.argmin(t) for t in table]
    regions = []
    for k, seed in enumerate(seeds_first):
        member = cells[owner == k]
        if member.size:
            regions.append(np.concatenate([cells[[seed]], member[member != cells[seed]]]))
    return regions


def _opposite_side(
    region: np.ndarray, a: np.ndarray, b: np.ndarray, foreground: np.ndarray, band: np.ndarray
) -> tuple[np.ndarray, bool]:
    """Patches the region borrows from, and whether they are A's: B\\A if its seed (first cell) is closer to A\\B, and
    vice versa."""
    only_a, only_b = a & ~b, b & ~a
    near_a, near_b = l1_distance(only_a).ravel()[region[0]], l1_distance(only_b).ravel()[region[0]]
    side = only_b if near_a < near_b else only_a
    if near_a == near_b or not (side & ~band).any():
        return foreground & ~band, side is only_a
    return side & ~band, side is only_a


def _offset_references(
    region: np.ndarray, side: np.ndarray, radius: int, shape: tuple[int, int]
) -> tuple[np.ndarray, int]:
    """References [n] by the best shared offset, else the nearest patch of ``side``; and how many the offset served."""
    options = shifts(radius)
    rows, cols = np.divmod(region, shape[1])
    r, c = rows[None] + options[:, :1], cols[None] + options[:, 1:]
    inside = (r >= 0) & (r < shape[0]) & (c >= 0) & (c < shape[1])
    valid = inside & side[r.clip(0, shape[0] - 1), c.clip(0, shape[1] - 1)]
    best = int(valid.sum(axis=1).argmax())
    shifted = r[best] * shape[1] + c[best]
    references = np.where(valid[best], shifted, nearest(region, indices_of(side), shape))
    return references, int(valid[best].sum())


def _add_reversed(pairs: dict[int, int], rng: np.random.Generator) -> None:
    """Let a random third of the references borrow back from the band, targets staying unique."""
    for target, reference in list(pairs.items()):
        if reference not in pairs and rng.random() < 1 / 3:
            pairs[reference] = target

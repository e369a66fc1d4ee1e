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
    nearer = np.sign(l1_distance(b & ~a) - l1_distance(a & ~b)).ravel()  # 1: to A\B, -1: to B\A, 0: tie
    borrowed: list[tuple[bool, dict[int, int], int]] = []  # from a?, pairs, how many the offset served
    for region in _voronoi(band, section.fuse_seeds):
        side, from_a = _opposite_side(int(nearer[region[0]]), a, b, band)
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
    """Split the band into L1 Voronoi regions of farthest-point seeds; first seed: nearest to the centroid.

    Returns the cells [n] of every region, its seed first.
    """
    cells = indices_of(band)
    points = np.argwhere(band)
    seed = int(np.abs(points - points.mean(axis=0)).sum(axis=1).argmin())
    distances = np.abs(points - points[seed]).sum(axis=1)[None]
    chosen = [seed]
    while len(chosen) < min(seeds, len(points)):
        chosen.append(int(distances.min(axis=0).argmax()))
        distances = np.vstack([distances, np.abs(points - points[chosen[-1]]).sum(axis=1)])
    region_of = distances.argmin(axis=0)
    region_of[chosen] = -1
    return [np.concatenate([cells[[seed]], cells[region_of == k]]) for k, seed in enumerate(chosen)]


def _opposite_side(nearer: int, a: np.ndarray, b: np.ndarray, band: np.ndarray) -> tuple[np.ndarray, bool]:
    """Patches a region borrows from, and whether they are A's.

    Outside the band: B\\A if its seed is nearer to A\\B (1), A\\B if to B\\A (-1); the whole foreground at a tie (0) or
    if that side is empty.
    """
    side = (b & ~a if nearer > 0 else a & ~b) & ~band
    if nearer == 0 or not side.any():
        side = (a | b) & ~band
    return side, nearer <= 0


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
    references, served = r[best] * shape[1] + c[best], valid[best]
    references[~served] = nearest(region[~served], indices_of(side), shape)
    return references, int(served.sum())


def _add_reversed(pairs: dict[int, int], rng: np.random.Generator) -> None:
    """Let a random third of the references borrow back from the band, targets staying unique."""
    for target, reference in list(pairs.items()):
        if reference not in pairs and rng.random() < 1 / 3:
            pairs[reference] = target

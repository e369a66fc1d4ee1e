"""Distort (Algorithm 3): a part's own patches are rearranged by one of three kernels."""

from __future__ import annotations

import numpy as np

from artiagent.grid import indices_of
from artiagent.synthesis.toolbox import Mapped, NoMapping, mapping, nearest


def shuffle(part: np.ndarray, rng: np.random.Generator) -> Mapped | NoMapping:
    """A random permutation of the part's patches without fixed points beyond chance."""
    cells = indices_of(part)
    if cells.size < 4:
        return NoMapping("too_small", f"{cells.size} patches cannot be shuffled visibly")
    return Mapped(mapping(part.shape, cells, rng.permutation(cells)))


def jitter(
    part: np.ndarray, owner: np.ndarray, rng: np.random.Generator, sigma: float, attempts: int
) -> Mapped | NoMapping:
    """Reference = round(target + N(0, sigma^2)), redrawn until it lies in the owner, else the nearest owner patch."""
    cells = indices_of(part)
    if cells.size < 4:
        return NoMapping("too_small", f"{cells.size} patches cannot be jittered visibly")
    height, width = part.shape
    rows, cols = np.divmod(cells, width)
    flat = owner.ravel()
    references, open_ = cells.copy(), np.ones(cells.size, dtype=bool)
    for _ in range(attempts):
        noise = np.round(rng.normal(0, sigma, size=(2, cells.size))).astype(int)
        r, c = rows + noise[0], cols + noise[1]
        nearby_r, nearby_c = np.minimum(np.maximum(r, 0), height - 1), np.minimum(np.maximum(c, 0), width - 1)
        last = nearby_r * width + nearby_c
        hit = open_ & (nearby_r == r) & (nearby_c == c) & flat[last]
        references[hit] = last[hit]
        open_ &= ~hit
        if not open_.any():
            break
    if open_.any() and owner.any():
        references[open_] = nearest(last[open_], indices_of(owner), part.shape)
    return Mapped(mapping(part.shape, cells, references), params={"sigma": sigma})


def strip(part: np.ndarray, strips: int) -> Mapped | NoMapping:
    """Cut the part along its dominant axis into strips; shift each circularly by alternating, growing amounts.

    Patches inside a strip are ordered along that strip, so that a shift slides the content.
    """
    cells = indices_of(part)
    if cells.size < 4:
        return NoMapping("too_small", f"{cells.size} patches cannot be cut into strips")
    rows, cols = np.divmod(cells, part.shape[1])
    tall = np.ptp(rows) >= np.ptp(cols)
    along, across = (rows, cols) if tall else (cols, rows)
    offset = along - along.min()
    labels = offset * min(strips, int(offset.max()) + 1) // (int(offset.max()) + 1)
    references = cells.copy()
    for k in range(int(labels.max()) + 1):
        member = np.flatnonzero(labels == k)
        ordered = member[np.lexsort((along[member], across[member]))]
        amount = (k // 2 + 1) * (1 if k % 2 == 0 else -1)
        turned = ordered.tolist()
        cut = -amount % max(1, len(turned))
        references[ordered] = cells[turned[cut:] + turned[:cut]]
    if (references == cells).mean() > 0.5:
        return NoMapping("no_candidate", "strips are one patch long: nothing would move")
    return Mapped(mapping(part.shape, cells, references), params={"strips": int(labels.max()) + 1})

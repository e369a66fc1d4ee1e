"""Distort (Algorithm 3): a part's own patches are rearranged by one of three kernels."""

from __future__ import annotations

import numpy as np

from artiagent.synthesis.toolbox import Mapped, NoMapping, mapping_of
from artiagent.synthesis.toolbox.frame import Frame, frame

_LEAST = 4  # patches


def shuffle(part: np.ndarray, rng: np.random.Generator) -> Mapped | NoMapping:
    """A random permutation of the patches of ``part`` (bool [h, w]) without fixed points beyond chance."""
    bits = frame(part.shape)
    return shuffle_set(bits, bits.pack(part), rng)


def shuffle_set(bits: Frame, part: int, rng: np.random.Generator) -> Mapped | NoMapping:
    """``shuffle`` for a set of patches."""
    cells = bits.indices(part)
    if cells.size < _LEAST:
        return NoMapping("too_small", f"{cells.size} patches cannot be shuffled visibly")
    return Mapped(mapping_of(bits.shape, cells.tolist(), rng.permutation(cells).tolist()))


def jitter(
    part: np.ndarray, owner: np.ndarray, rng: np.random.Generator, sigma: float, attempts: int
) -> Mapped | NoMapping:
    """Reference = round(target + N(0, sigma^2)), redrawn until it lies in the owner, else the nearest owner patch."""
    bits = frame(part.shape)
    return jitter_set(bits, bits.pack(part), bits.pack(owner), rng, sigma, attempts)


def jitter_set(
    bits: Frame, part: int, owner: int, rng: np.random.Generator, sigma: float, attempts: int
) -> Mapped | NoMapping:
    """``jitter`` for sets of patches."""
    cells = bits.indices(part).tolist()
    if len(cells) < _LEAST:
        return NoMapping("too_small", f"{len(cells)} patches cannot be jittered visibly")
    height, width = bits.shape
    references, open_ = cells.copy(), range(len(cells))
    last = cells.copy()
    for _ in range(attempts):
        rows, cols = np.round(rng.normal(0, sigma, size=(2, len(cells)))).astype(int).tolist()
        missed = []
        for index in open_:
            row, col = cells[index] // width + rows[index], cells[index] % width + cols[index]
            place = row * width + col
            if 0 <= row < height and 0 <= col < width and owner >> place & 1:
                references[index] = place
            else:
                last[index] = min(max(row, 0), height - 1) * width + min(max(col, 0), width - 1)
                missed.append(index)
        open_ = missed
        if not open_:
            break
    if owner:
        for index, nearest in zip(open_, bits.nearest([last[index] for index in open_], owner), strict=True):
            references[index] = nearest
    return Mapped(mapping_of(bits.shape, cells, references), params={"sigma": sigma})


def strip(part: np.ndarray, strips: int) -> Mapped | NoMapping:
    """Cut the part along its dominant axis into strips; shift each circularly by alternating, growing amounts.

    Patches inside a strip are ordered along that strip, so that a shift slides the content.
    """
    bits = frame(part.shape)
    return strip_set(bits, bits.pack(part), strips)


def strip_set(bits: Frame, part: int, strips: int) -> Mapped | NoMapping:
    """``strip`` for a set of patches."""
    cells = bits.indices(part).tolist()
    if len(cells) < _LEAST:
        return NoMapping("too_small", f"{len(cells)} patches cannot be cut into strips")
    places = [divmod(cell, bits.width) for cell in cells]  # (row, col)
    spans = [max(axis) - min(axis) + 1 for axis in zip(*places, strict=True)]
    axis = 0 if spans[0] >= spans[1] else 1
    start, count = min(place[axis] for place in places), min(strips, spans[axis])
    members: list[list[tuple[int, int, int]]] = [[] for _ in range(count)]
    for cell, place in zip(cells, places, strict=True):
        members[(place[axis] - start) * count // spans[axis]].append((place[1 - axis], place[axis], cell))
    moved = {}
    for k, member in enumerate(members):
        ordered = [cell for _, _, cell in sorted(member)]
        amount = (k // 2 + 1) * (1 if k % 2 == 0 else -1)
        cut = -amount % max(1, len(ordered))
        moved.update(zip(ordered, ordered[cut:] + ordered[:cut], strict=True))
    references = [moved[cell] for cell in cells]
    if 2 * sum(map(int.__eq__, cells, references)) > len(cells):
        return NoMapping("no_candidate", "strips are one patch long: nothing would move")
    return Mapped(mapping_of(bits.shape, cells, references), params={"strips": count})

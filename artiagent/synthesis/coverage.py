"""How many pixels of every patch a mask covers, counted from its runs: no mask is decoded.

A compressed COCO mask lists the lengths of its runs of unset and set pixels, column by column, as a text of numbers
with five bits a character, from the third run on as the difference from the run before the last. Knows no patch sizes
but the one it is given.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from artiagent.records import Mask


def patch_coverage(masks: Sequence[Mask], patch: int, united: int) -> np.ndarray:
    """Set pixels of every patch, int64 [n + 1, H/patch, W/patch], for n masks and the union of the first ``united``.

    Raises ValueError for masks that differ in size, whose sides are no multiples of the patch, or that are damaged.
    """
    height, width = masks[0].size
    if height % patch or width % patch:
        raise ValueError(f"mask of {height}x{width} px is not a multiple of the patch size {patch}; run intake first")
    if other := next((mask.size for mask in masks if mask.size != (height, width)), None):
        raise ValueError(f"masks of {height}x{width} and {other[0]}x{other[1]} px in one scene; expected one size")
    pixels = height * width
    starts, ends, owners = _runs([mask.counts for mask in masks], pixels)
    count = owners.searchsorted(united)
    base = pixels * owners[:count]
    first, last = _union(starts[:count] - base, ends[:count] - base)
    starts = np.concatenate([starts, first + len(masks) * pixels])
    ends = np.concatenate([ends, last + len(masks) * pixels])
    # A column is a whole number of patches high, so that segments of that height never cross a column.
    before, after = starts // patch, (ends - 1) // patch
    pieces = after - before + 1
    stop = np.cumsum(pieces)
    segments = np.arange(stop[-1] if len(stop) else 0) + np.repeat(before - (stop - pieces), pieces)
    covered = np.full(len(segments), patch)
    covered[stop - pieces] -= starts - before * patch
    covered[stop - 1] -= (after + 1) * patch - ends
    high = height // patch
    columns = segments // high
    cells = (columns // patch) * high + segments - columns * high
    shape = (len(masks) + 1, width // patch, height // patch)
    return np.bincount(cells, covered, np.prod(shape)).astype(np.int64).reshape(shape).transpose(0, 2, 1)


def _runs(texts: list[str], pixels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Start, end and mask of every run of set pixels; the pixels of mask k are numbered from ``k * pixels`` on."""
    symbols = np.frombuffer("".join(texts).encode("ascii"), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(symbols & 32 == 0)  # characters that end a number
    first = np.concatenate([[0], last[:-1] + 1]) if len(last) else last
    shift = 5 * (np.arange(last[-1] + 1 if len(last) else 0) - np.repeat(first, last - first + 1))
    lengths = np.add.reduceat((symbols[: len(shift)] & 31) << shift, first) if len(last) else last
    lengths -= (symbols[last] & 16) << (shift[last] + 1)  # the sign
    stops = np.searchsorted(last, np.cumsum([len(text) for text in texts]))
    begins = np.concatenate([[0], stops[:-1]])
    for begin, stop in zip(begins.tolist(), stops.tolist(), strict=True):
        for parity in (begin + 1, begin + 2):
            np.add.accumulate(lengths[parity:stop:2], out=lengths[parity:stop:2])
    ends = np.cumsum(lengths)
    owners = np.repeat(np.arange(len(texts)), stops - begins)
    whole = pixels * np.arange(1, len(texts) + 1)
    if (stops == begins).any() or (lengths < 0).any() or (ends[stops - 1] != whole).any():
        raise ValueError(f"a mask's runs do not add up to its {pixels} pixels: the run-length code is damaged")
    odd = ((np.arange(len(ends)) - begins[owners]) % 2 == 1) & (lengths > 0)
    return (ends - lengths)[odd], ends[odd], owners[odd]


def _union(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Runs that cover what any of the runs covers, none overlapping another."""
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order], np.maximum.accumulate(ends[order])
    apart = starts[1:] > reach[:-1]
    return starts[np.concatenate([[True], apart])[: len(starts)]], reach[np.concatenate([apart, [True]])[: len(reach)]]

"""How many pixels of every patch a mask covers, counted from its runs: no mask is decoded.

A compressed COCO mask lists the lengths of its runs of unset and set pixels, column by column, as a text of numbers
with five bits a character, from the third run on as the difference from the run before the last. Knows no patch sizes
but the one it is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, islice

import numpy as np

from artiagent.records import Mask, Scene

_AT_ONCE = 16  # scenes: more would save little, and cost memory where images are large


def scene_coverage(scenes: Sequence[Scene], patch: int) -> Iterator[np.ndarray]:
    """For every scene the set pixels of every patch, whole float64 [n + 1, H/patch, W/patch].

    The n masks are those of the entities and then of all their parts; the last is the union of the entities'. Raises
    ValueError for masks that differ in size, whose sides are no multiples of the patch, or that are damaged.
    """
    for _, alike in groupby(scenes, key=lambda scene: scene.entities[0].mask.size):
        few = iter(alike)
        while taken := list(islice(few, _AT_ONCE)):
            parts = ([part.mask for entity in scene.entities for part in entity.parts] for scene in taken)
            masks = [
                [*(entity.mask for entity in scene.entities), *more] for scene, more in zip(taken, parts, strict=True)
            ]
            yield from patch_coverage(masks, [len(scene.entities) for scene in taken], patch)


def patch_coverage(scenes: Sequence[Sequence[Mask]], united: Sequence[int], patch: int) -> list[np.ndarray]:
    """``scene_coverage`` of masks of one size; the union is that of the first ``united[k]`` masks of scene k."""
    masks = [mask for scene in scenes for mask in scene]
    height, width = masks[0].size
    if height % patch or width % patch:
        raise ValueError(f"mask of {height}x{width} px is not a multiple of the patch size {patch}; run intake first")
    if other := next((mask.size for mask in masks if mask.size != (height, width)), None):
        raise ValueError(f"masks of {height}x{width} and {other[0]}x{other[1]} px in one scene; expected one size")
    pixels, high = height * width, height // patch
    runs, ends = _runs([mask.counts for mask in masks], pixels)
    covering = runs > 0
    lengths = [len(scene) for scene in scenes]
    scene_of = np.arange(len(scenes)).repeat(lengths)
    unions = np.cumsum(lengths) + np.arange(len(scenes))  # places of the unions, each behind the scene's masks
    owner = np.arange(len(masks)).repeat(covering.sum(axis=1))
    ends = ends[covering]
    starts = ends - runs[covering]
    whole = np.concatenate([np.arange(length) < count for length, count in zip(lengths, united, strict=True)])[owner]
    apart = (pixels + 1) * scene_of[owner[whole]]  # runs of two scenes never touch
    first, last = _union(starts[whole] + apart, ends[whole] + apart)
    scene = first // (pixels + 1)
    shift = unions[scene] * pixels - scene * (pixels + 1)
    place = (np.arange(len(masks)) + scene_of)[owner] * pixels
    starts, ends = np.concatenate([starts + place, first + shift]), np.concatenate([ends + place, last + shift])
    shape = (int(unions[-1]) + 1, width // patch, high)
    counts = _counts(starts, ends, patch, high, shape)
    return np.split(counts.transpose(0, 2, 1), unions[:-1] + 1)


def _counts(starts: np.ndarray, ends: np.ndarray, patch: int, high: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Pixels of all runs by mask, column and row of patches.

    A column is a whole number of patches high, so that segments of the height of a patch never cross a column.
    """
    before, after = starts // patch, (ends - 1) // patch
    pieces = after - before + 1
    stop = pieces.cumsum()
    segments = np.arange(stop[-1] if len(stop) else 0) + (before + pieces - stop).repeat(pieces)
    covered = np.full(len(segments), float(patch))
    covered[stop - pieces] -= starts - before * patch
    covered[stop - 1] -= (after + 1) * patch - ends
    columns = segments // high
    cells = (columns // patch) * high + segments - columns * high
    return np.bincount(cells, covered, np.prod(shape)).reshape(shape)


def _runs(texts: list[str], pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Lengths and ends of the runs of set pixels, two int64 [n, r]; a mask with fewer runs has empty ones."""
    symbols = np.frombuffer("".join(texts).encode("ascii"), np.uint8) - np.uint8(48)
    last = (symbols < 32).nonzero()[0]  # characters that end a number
    stops = last.searchsorted(np.cumsum([len(text) for text in texts]))
    sizes = np.diff(stops, prepend=0)
    if not sizes.all():
        raise ValueError("a mask has no runs: the run-length code is damaged")
    length = np.diff(last, prepend=-1)
    ending = symbols[last].astype(np.int64)
    numbers = ((ending & 15) - (ending & 16)) << (5 * (length - 1))  # the last character has the sign
    for place in range(1, int(length.max())):
        longer = (length > place).nonzero()[0]
        numbers[longer] += (symbols[last[longer] - place].astype(np.int64) & 31) << (5 * (length[longer] - 1 - place))
    there = np.arange(sizes.max() + sizes.max() % 2) < sizes[:, None]
    lengths = np.zeros(there.shape, dtype=np.int64)
    lengths[there] = numbers
    for parity in (1, 2):
        np.add.accumulate(lengths[:, parity::2], axis=1, out=lengths[:, parity::2])
    lengths *= there
    ends = lengths.cumsum(axis=1)
    if lengths.min() < 0 or (ends[:, -1] != pixels).any():
        raise ValueError(f"a mask's runs do not add up to its {pixels} pixels: the run-length code is damaged")
    return lengths[:, 1::2], ends[:, 1::2]


def _union(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Runs that cover what any of the runs covers, none overlapping another."""
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order], np.maximum.accumulate(ends[order])
    apart = starts[1:] > reach[:-1]
    return starts[np.concatenate([[True], apart])[: len(starts)]], reach[np.concatenate([apart, [True]])[: len(reach)]]

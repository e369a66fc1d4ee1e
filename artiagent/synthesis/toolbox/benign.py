"""Benign injection: background onto like background, through the same blend and composite.

Nothing becomes wrong with the picture. Labelled clean, it probes shortcuts and serves as a hard negative (spec:
perception and curation, shortcut audit).
"""

from __future__ import annotations

import numpy as np

from artiagent.grid import dilate
from artiagent.synthesis.toolbox import Mapped, NoMapping, hits, mapping, shifts


def background(
    shape_like: np.ndarray, foreground: np.ndarray, rng: np.random.Generator, margin: int = 2
) -> Mapped | NoMapping:
    """Move a blob of the form of ``shape_like`` onto free background; content from one patch to the side.

    Args:
        shape_like: patches whose form the target takes (usually a part), bool [h, w].
        foreground: patches of all entities; kept ``margin`` patches away from target and reference.
    """
    height, width = foreground.shape
    free = ~dilate(foreground, margin)
    rows, cols = np.nonzero(shape_like)
    if not rows.size:
        return NoMapping("too_small", "no form to take")
    rows, cols = rows - rows.min(), cols - cols.min()
    form = np.zeros_like(free)
    form[rows, cols] = True
    spots = np.argwhere(hits(form, free[None])[0, :height, :width] == rows.size)
    if not len(spots):
        return NoMapping("no_candidate", "no free background of that form")
    top, left = spots[rng.integers(len(spots))]
    targets = (top + rows) * width + left + cols
    options = rng.permutation(shifts(1))
    for d_row, d_col in options:
        r, c = top + rows + d_row, left + cols + d_col
        if ((r >= 0) & (r < height) & (c >= 0) & (c < width)).all() and free[r, c].all():
            return Mapped(mapping(foreground.shape, targets, r * width + c), params={"spots": len(spots)})
    return NoMapping("no_candidate", "no free background beside the target")

"""The toolbox: boolean patch grids in, one patch mapping out (paper, Algorithms 1-5).

All grids are bool [h, w] on the token grid; distances are L1. A tool draws its randomness once, from the generator it
is given, and returns ``Mapped`` or a typed ``NoMapping``; it never raises for an image that offers no candidate.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.fft import irfft2, next_fast_len, rfft2

from artiagent.records import PatchMapping, Reason


@dataclass(frozen=True)
class Mapped:
    """A mapping with the score and the parameters it was drawn with."""

    mapping: PatchMapping
    score: float = 0.0
    params: dict[str, float | int | str] = field(default_factory=dict)


@dataclass(frozen=True)
class NoMapping:
    """Why a tool has no candidate here."""

    reason: Reason
    detail: str


def mapping(shape: tuple[int, int], targets: np.ndarray, references: np.ndarray) -> PatchMapping:
    """Build the record from row-major int arrays [n]; sorted by target.

    Raises ValueError for mismatched lengths, duplicate targets or indices outside the grid.
    """
    if targets.shape != references.shape or targets.ndim != 1:
        raise ValueError(f"targets {targets.shape} and references {references.shape}: expected two arrays [n], equal n")
    cells = shape[0] * shape[1]
    for name, values in (("target", targets), ("reference", references)):
        if (outside := values[(values < 0) | (values >= cells)]).size:
            got = ", ".join(map(str, outside[:3].tolist()))
            raise ValueError(f"{name} patch {got} outside the grid {shape[0]}x{shape[1]}: expected 0..{cells - 1}")
    order = np.argsort(targets, kind="stable")
    ordered = targets[order]
    if (repeated := ordered[1:][ordered[1:] == ordered[:-1]]).size:
        got = ", ".join(map(str, np.unique(repeated)[:3].tolist()))
        raise ValueError(f"target patch {got} occurs twice: expected exactly one reference for every target")
    return PatchMapping(grid=shape, targets=tuple(ordered.tolist()), references=tuple(references[order].tolist()))


def nearest(from_indices: np.ndarray, pool: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """For every index [n] the L1-nearest index of ``pool`` [m], m > 0 (ties: lowest index). Returns int64 [n].

    Of each column only the pool patch closest above or below can be the nearest: n x w comparisons instead of n x m.
    """
    height, width = shape
    cells = height * width
    taken = np.zeros(shape, dtype=bool)
    taken.flat[pool] = True
    columns = np.flatnonzero(taken.any(axis=0))
    row, nowhere = np.arange(height)[:, None], 2 * height
    above = np.maximum.accumulate(np.where(taken[:, columns], row, -nowhere), axis=0)
    below = np.minimum.accumulate(np.where(taken[:, columns], row, nowhere)[::-1], axis=0)[::-1]
    closest = np.where(row - above <= below - row, above, below)
    # distance * cells + index: the least key is the least distance, then the lowest index.
    upright = np.abs(row - closest) * cells + closest * width + columns
    sideways = np.abs(np.arange(width)[:, None] - columns) * cells
    rows, cols = np.divmod(from_indices, width)
    return (upright[rows] + sideways[cols]).min(axis=1) % cells


def hits(form: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """How many cells of ``form``, moved by a shift, fall on each of ``maps``.

    Args:
        form: bool [h, w].
        maps: how often a cell counts, bool or int [k, h, w]; what leaves the frame counts nowhere.

    Returns:
        int64 [k, H, W], indexed by the shift: ``[:, d_row, d_col]`` for |d_row| < h and |d_col| < w, negative ones from
        the end.
    """
    # A cross-correlation; with H >= 2h - 1 nothing wraps around, and whole numbers are exact after rounding.
    size = [next_fast_len(2 * n - 1, real=True) for n in form.shape]
    spectrum = rfft2(maps.astype(float), s=size) * rfft2(form.astype(float), s=size).conj()
    return np.rint(irfft2(spectrum, s=size)).astype(np.int64)


def shifts(radius: int) -> np.ndarray:
    """All (d_row, d_col) with 1 <= L1 <= radius, int64 [s, 2], in a fixed order."""
    span = np.arange(-radius, radius + 1)
    grid = np.stack(np.meshgrid(span, span, indexing="ij"), axis=-1).reshape(-1, 2)
    length = np.abs(grid).sum(axis=1)
    return grid[(length >= 1) & (length <= radius)]

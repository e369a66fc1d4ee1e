"""The toolbox: boolean patch grids in, one patch mapping out (paper, Algorithms 1-5).

All grids are bool [h, w] on the token grid; distances are L1. A tool draws its randomness once, from the generator it
is given, and returns ``Mapped`` or a typed ``NoMapping``; it never raises for an image that offers no candidate.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from scipy.fft import irfft2, next_fast_len, rfft2

from artiagent.records import PatchMapping, Reason
from artiagent.synthesis.toolbox.frame import shifts

__all__ = ["Mapped", "NoMapping", "hits", "hits_at", "mapping", "mapping_of", "shifts"]
_FEW = 2**15  # cells that are rather looked up than transformed


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
    return mapping_of(shape, targets.tolist(), references.tolist())


def mapping_of(shape: tuple[int, int], targets: list[int], references: list[int]) -> PatchMapping:
    """``mapping`` of two lists of one length."""
    cells = shape[0] * shape[1]
    for name, values in (("target", targets), ("reference", references)):
        if values and not 0 <= min(values) <= max(values) < cells:
            got = ", ".join(str(value) for value in [v for v in values if not 0 <= v < cells][:3])
            raise ValueError(f"{name} patch {got} outside the grid {shape[0]}x{shape[1]}: expected 0..{cells - 1}")
    if len(set(targets)) < len(targets):
        got = ", ".join(str(target) for target, count in sorted(Counter(targets).items()) if count > 1)
        raise ValueError(f"target patch {got} occurs twice: expected exactly one reference for every target")
    ordered = sorted(zip(targets, references, strict=True))
    first, second = zip(*ordered, strict=True) if ordered else ((), ())
    # All that the record itself would check is checked.
    return PatchMapping.model_construct(grid=shape, targets=first, references=second)


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


def hits_at(
    form: np.ndarray, maps: tuple[np.ndarray, np.ndarray], d_rows: np.ndarray, d_cols: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``hits`` on two maps, and how many cells stay in frame, for the shifts (d_rows[k], d_cols[k]): three int64 [s].

    The shifts are smaller than the grid; the maps' counts of any form stay below 2**20.
    """
    height, width = form.shape
    rows, cols = form.nonzero()
    if len(rows) * len(d_rows) > _FEW:
        counts = hits(form, np.stack([*maps, np.ones(form.shape)]))
        return tuple(counts[:, d_rows, d_cols])
    wide = np.zeros((3 * height, 3 * width), dtype=np.int64)  # no shift leads out of it
    wide[height : 2 * height, width : 2 * width] = maps[0] + maps[1] * (1 << 20) + (1 << 40)
    places = (rows + height) * (3 * width) + (cols + width)
    moves = d_rows * (3 * width) + d_cols
    counts = wide.ravel()[moves[:, None] + places].sum(axis=1)
    return counts & 0xFFFFF, counts >> 20 & 0xFFFFF, counts >> 40

"""The toolbox: boolean patch grids in, one patch mapping out (paper, Algorithms 1-5).

All grids are bool [h, w] on the token grid; distances are L1. A tool draws its randomness once, from the generator it
is given, and returns ``Mapped`` or a typed ``NoMapping``; it never raises for an image that offers no candidate.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

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
        raise ValueError(f"targets {targets.shape} and references {references.shape}: expected two arrays [n]")
    cells = shape[0] * shape[1]
    for name, values in (("target", targets), ("reference", references)):
        if values.size and not (values.min() >= 0 and values.max() < cells):
            raise ValueError(f"{name} patch {values.min()}..{values.max()} outside the grid {shape[0]}x{shape[1]}")
    order = np.argsort(targets, kind="stable")
    ordered = targets[order]
    if (ordered[1:] == ordered[:-1]).any():
        raise ValueError("a target patch occurs twice; every target maps to exactly one reference")
    return PatchMapping(grid=shape, targets=tuple(ordered.tolist()), references=tuple(references[order].tolist()))


def nearest(from_indices: np.ndarray, pool: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """For every index [n] the L1-nearest index of ``pool`` [m] (ties: lowest index). Returns int64 [n]."""
    rows_a, cols_a = np.divmod(from_indices, shape[1])
    rows_b, cols_b = np.divmod(pool, shape[1])
    distance = np.abs(rows_a[:, None] - rows_b[None]) + np.abs(cols_a[:, None] - cols_b[None])
    return pool[distance.argmin(axis=1)]


def shifts(radius: int) -> np.ndarray:
    """All (d_row, d_col) with 1 <= L1 <= radius, int64 [s, 2], in a fixed order."""
    span = np.arange(-radius, radius + 1)
    grid = np.stack(np.meshgrid(span, span, indexing="ij"), axis=-1).reshape(-1, 2)
    length = np.abs(grid).sum(axis=1)
    return grid[(length >= 1) & (length <= radius)]

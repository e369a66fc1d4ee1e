"""Sets of patches as whole numbers: bit ``row * width + col`` stands for a patch. Unions, overlaps and counts of grids
of any size then take one operation each; what such a grid needs besides is made once for every shape.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property, lru_cache

import numpy as np

_TABLE = 4096  # patches up to which all distances are held
_BALLS = 2**22  # bytes of balls of one radius that are held; most cells have a handful


class Frame:
    """A token grid of ``height`` x ``width`` patches."""

    def __init__(self, height: int, width: int) -> None:
        self.shape, self.width, self.cells = (height, width), width, height * width
        self.full = (1 << self.cells) - 1
        first = sum(1 << row * width for row in range(height))
        self._not_first, self._not_last = self.full & ~first, self.full & ~(first << width - 1)
        self._bytes = (self.cells + 7) // 8
        self._single = [1 << cell for cell in range(self.cells)]
        self._moves: dict[tuple[int, int], tuple[int, int]] = {}
        self._shifts: dict[int, list[tuple[int, int]]] = {}
        self._balls: dict[int, list[int]] = {}  # by cell and radius, as far as they were asked for
        self.rows, self.cols = np.divmod(np.arange(self.cells), width)

    def pack(self, grid: np.ndarray) -> int:
        """Bits of a bool grid [h, w]."""
        return int.from_bytes(np.packbits(grid, bitorder="little").tobytes(), "little")

    def pack_all(self, grids: np.ndarray) -> list[int]:
        """Bits of every grid of [n, h, w]."""
        packed = np.packbits(grids.reshape(len(grids), -1), axis=1, bitorder="little")
        return [int.from_bytes(row.tobytes(), "little") for row in packed]

    def union(self, cells: Collection[int]) -> int:
        """The set of these patches, none of which may occur twice."""
        return sum(map(self._single.__getitem__, cells))

    def flat(self, bits: int) -> np.ndarray:
        """Bool [h * w]."""
        raw = np.frombuffer(bits.to_bytes(self._bytes, "little"), np.uint8)
        return np.unpackbits(raw, count=self.cells, bitorder="little").view(bool)

    def counts(self, sets: list[int]) -> np.ndarray:
        """In how many of the sets each patch is, uint8 [h * w]."""
        raw = np.frombuffer(b"".join(bits.to_bytes(self._bytes, "little") for bits in sets), np.uint8)
        flags = np.unpackbits(raw.reshape(len(sets), -1), axis=1, count=self.cells, bitorder="little")
        return np.add.reduce(flags, axis=0, dtype=np.uint8)

    def grid(self, bits: int) -> np.ndarray:
        """Bool grid [h, w]."""
        return self.flat(bits).reshape(self.shape)

    def indices(self, bits: int) -> np.ndarray:
        """Row-major indices of the set patches, ascending, int64 [n]."""
        return self.flat(bits).nonzero()[0]

    def grow(self, bits: int, radius: int) -> int:
        """All patches within the L1 distance ``radius``."""
        for _ in range(radius):
            sideways = (bits & self._not_last) << 1 | (bits & self._not_first) >> 1
            bits = (bits | sideways | bits << self.width | bits >> self.width) & self.full
        return bits

    def ball(self, cell: int, radius: int) -> int:
        """All patches within the L1 distance ``radius`` of a cell."""
        known = self._known(cell)
        while len(known) <= radius:
            known.append(self.grow(known[-1], 1))
        return known[radius]

    def _known(self, cell: int) -> list[int]:
        if len(self._balls) * self._bytes > _BALLS:
            self._balls.clear()
        return self._balls.setdefault(cell, [1 << cell])

    def nearest(self, cells: list[int], pool: int) -> list[int]:
        """For every cell the L1-nearest patch of the set ``pool``, which is not empty; of several the first."""
        found = []
        radius = before = 0
        for cell in cells:
            # The next cell of a row is farther off by one at most, and nearer by one at most.
            radius = radius - 1 if cell == before + 1 and cell % self.width and radius else 0
            balls = self._known(cell)
            while not (hits := (balls[radius] if radius < len(balls) else self.ball(cell, radius)) & pool):
                radius += 1
            found.append((hits & -hits).bit_length() - 1)
            before = cell
        return found

    def move(self, d_row: int, d_col: int) -> tuple[int, int]:
        """The patches that stay in frame when all move by that much, and by how many bits they move."""
        if (d_row, d_col) not in self._moves:
            rows, cols = self.rows + d_row, self.cols + d_col
            stays = (rows >= 0) & (rows < self.shape[0]) & (cols >= 0) & (cols < self.width)
            self._moves[d_row, d_col] = self.pack(stays), d_row * self.width + d_col
        return self._moves[d_row, d_col]

    def moves(self, radius: int) -> list[tuple[int, int]]:
        """``move`` for every one of ``shifts(radius)``."""
        if radius not in self._shifts:
            self._shifts[radius] = [self.move(*shift) for shift in shifts(radius).tolist()]
        return self._shifts[radius]

    def distances(self, cell: int, cells: np.ndarray) -> np.ndarray:
        """L1 distances of ``cells`` [n] from a cell, whole numbers [n]."""
        if self.table is not None:
            return self.table[cell, cells]
        return np.abs(self.rows[cells] - self.rows[cell]) + np.abs(self.cols[cells] - self.cols[cell])

    @cached_property
    def table(self) -> np.ndarray | None:
        """L1 distances of all cells from all, [cells, cells] in the smallest type; None for a large grid."""
        if self.cells > _TABLE:
            return None
        steps = [np.arange(length) for length in self.shape]
        rows, cols = (np.abs(axis[:, None] - axis).astype(np.min_scalar_type(sum(self.shape))) for axis in steps)
        return (rows[:, None, :, None] + cols[:, None, :]).reshape(self.cells, self.cells)


@lru_cache(maxsize=64)
def shifts(radius: int) -> np.ndarray:
    """All (d_row, d_col) with 1 <= L1 <= radius, int64 [s, 2], in a fixed order; not to be written to."""
    span = np.arange(-radius, radius + 1)
    grid = np.stack(np.meshgrid(span, span, indexing="ij"), axis=-1).reshape(-1, 2)
    length = np.abs(grid).sum(axis=1)
    found = grid[(length >= 1) & (length <= radius)]
    found.flags.writeable = False
    return found


@lru_cache(maxsize=64)
def frame(shape: tuple[int, int]) -> Frame:
    """The frame of a grid's shape."""
    return Frame(*shape)

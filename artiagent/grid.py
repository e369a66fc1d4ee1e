"""Pixels <-> patches: cells of the token grid, boxes and masks between both.

Knows geometry only. A patch belongs to a mask if any pixel of its cell is set.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_dilation, distance_transform_cdt

from artiagent.records import Box, Mask


def patch_grid(mask: np.ndarray, patch: int) -> np.ndarray:
    """Reduce a bool pixel mask [H, W] to the bool grid [H/patch, W/patch] ("any pixel of the cell")."""
    height, width = mask.shape
    if height % patch or width % patch:
        raise ValueError(f"mask of {height}x{width} px is not a multiple of the patch size {patch}; run intake first")
    return mask.reshape(height // patch, patch, width // patch, patch).any(axis=(1, 3))


def core_grid(mask: np.ndarray, patch: int, share: float = 0.5) -> np.ndarray:
    """Bool grid of the patches that ``mask`` [H, W] covers by at least ``share``: their content is the object."""
    height, width = mask.shape
    return mask.reshape(height // patch, patch, width // patch, patch).mean(axis=(1, 3)) >= share


def pixel_mask(grid: np.ndarray, patch: int) -> np.ndarray:
    """Blow a bool grid [h, w] up to pixels [h*patch, w*patch]."""
    return np.kron(grid.astype(bool), np.ones((patch, patch), dtype=bool))


def grid_of(indices: tuple[int, ...] | np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Bool grid [h, w] with the row-major ``indices`` set. Raises ValueError outside the grid."""
    flat = np.zeros(shape[0] * shape[1], dtype=bool)
    idx = np.asarray(indices, dtype=np.int64)
    if idx.size and (idx.min() < 0 or idx.max() >= flat.size):
        raise ValueError(f"patch index {idx.min()}..{idx.max()} outside the grid {shape[0]}x{shape[1]}")
    flat[idx] = True
    return flat.reshape(shape)


def indices_of(grid: np.ndarray) -> np.ndarray:
    """Row-major indices (int64, ascending) of the set cells."""
    return np.flatnonzero(grid)


def dilate(grid: np.ndarray, radius: int) -> np.ndarray:
    """Grow a bool grid by ``radius`` in L1 (Manhattan) distance."""
    if radius <= 0 or not grid.any():
        return grid.copy()
    return l1_distance(grid) <= radius


def grow(grid: np.ndarray, cells: int) -> np.ndarray:
    """Grow a bool grid by ``cells`` in every direction, diagonals included (a region with room for a soft edge)."""
    if cells <= 0:
        return grid.copy()
    return binary_dilation(grid, np.ones((3, 3), dtype=bool), iterations=cells)


def l1_distance(grid: np.ndarray) -> np.ndarray:
    """L1 distance of every cell to the nearest set cell, int64 [h, w]; a large number where none is set."""
    if not grid.any():
        return np.full(grid.shape, grid.size + sum(grid.shape), dtype=np.int64)
    return distance_transform_cdt(~grid, metric="taxicab").astype(np.int64)


def mask_box(mask: np.ndarray) -> Box | None:
    """Tightest box around the set pixels, or None for an empty mask."""
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return Box(int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1)


def box_mask(box: Box, height: int, width: int) -> np.ndarray:
    """Bool mask [height, width] of a box."""
    mask = np.zeros((height, width), dtype=bool)
    mask[box.clip(width, height).slices] = True
    return mask


def union_mask(boxes: tuple[Box, ...] | list[Box], height: int, width: int) -> np.ndarray:
    """Bool mask [height, width] of the union of boxes."""
    mask = np.zeros((height, width), dtype=bool)
    for box in boxes:
        mask[box.clip(width, height).slices] = True
    return mask


def containment(part: np.ndarray | Mask, whole: np.ndarray | Mask) -> float:
    """``|part & whole| / |part|`` (0 for an empty part): the linking criterion of perception."""
    inner = part.decode() if isinstance(part, Mask) else part
    outer = whole.decode() if isinstance(whole, Mask) else whole
    area = int(inner.sum())
    return float((inner & outer).sum()) / area if area else 0.0

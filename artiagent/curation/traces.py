"""Traces of processing in a region of an image: what a detector could learn instead of the artifact.

Figures that react to codecs, decoders, blending and noise more than to what is depicted, taken on 8x8 px blocks aligned
with the image's origin, as JPEG's are. No figure of a block depends on a pixel outside it: else a probe beside the
target would see the target.
"""

from __future__ import annotations

import numpy as np
from scipy.fft import dctn
from scipy.ndimage import uniform_filter

BLOCK = 8
_INNER = np.arange(BLOCK * BLOCK).reshape(BLOCK, BLOCK)[2:-2, 2:-2].ravel()  # filters reach two pixels far
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_BANDS = np.add.outer(np.arange(BLOCK), np.arange(BLOCK))  # anti-diagonals: spatial frequency of a DCT coefficient


def block_traces(image: np.ndarray) -> np.ndarray:
    """Traces of every whole block.

    Args:
        image: uint8 [H, W, 3].

    Returns:
        float64 [H // 8, W // 8, F]: per frequency band the log-magnitude of DCT coefficients and the share that is next
        to zero; noise residual, curvature and gradient; mean and deviation of the colours.
    """
    height, width = (side - side % BLOCK for side in image.shape[:2])
    rgb = image[:height, :width].astype(np.float32)
    luma = rgb @ _LUMA
    residual = luma - uniform_filter(luma, 3)
    vertical, horizontal = np.gradient(luma)
    curvature = np.gradient(vertical, axis=0) + np.gradient(horizontal, axis=1)
    maps = np.stack([np.abs(residual), residual**2, np.abs(curvature), np.hypot(vertical, horizontal)], axis=-1)
    tiles = _tiles(np.concatenate([np.log1p(maps), rgb], axis=-1))
    filtered, colours = tiles[:, :, _INNER, :4], tiles[..., 4:]
    bands = _bands(_tiles(luma[..., None])[..., 0])
    return np.concatenate([bands, filtered.mean(axis=2), colours.mean(axis=2), colours.std(axis=2)], axis=-1)


def region_traces(traces: np.ndarray, region: np.ndarray) -> np.ndarray | None:
    """Mean and deviation over the blocks that lie wholly inside `region` (bool [H, W]), [2F]; None without any."""
    height, width = (side * BLOCK for side in traces.shape[:2])
    blocks = _tiles(region[:height, :width, None])[..., 0].all(axis=2)
    if not blocks.any():
        return None
    chosen = traces[blocks]
    return np.concatenate([chosen.mean(axis=0), chosen.std(axis=0)])


def _tiles(maps: np.ndarray) -> np.ndarray:
    """[H, W, C] -> [H/8, W/8, 64, C]."""
    height, width, channels = maps.shape
    split = maps.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK, channels).swapaxes(1, 2)
    return split.reshape(height // BLOCK, width // BLOCK, BLOCK * BLOCK, channels)


def _bands(luma: np.ndarray) -> np.ndarray:
    """[h, w, 64] -> [h, w, 28]: log-magnitude and share of near-zero coefficients of each band but the mean."""
    rows, cols, _ = luma.shape
    size = np.abs(dctn(luma.reshape(rows, cols, BLOCK, BLOCK), axes=(2, 3), norm="ortho"))
    members = [size[..., band == _BANDS] for band in range(1, 2 * BLOCK - 1)]
    figures = [np.log1p(m).mean(axis=-1) for m in members] + [(m < 0.5).mean(axis=-1) for m in members]
    return np.stack(figures, axis=-1)

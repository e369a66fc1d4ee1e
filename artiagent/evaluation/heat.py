"""Heat maps: files of several depths -> values in 0..1 -> masks.

Knows formats and scales. Does not know what a map is of. Integers are divided by the full scale of their depth, never
by the maximum of the map: that would give every image a region. Values are compared in float32, so that maps of
different depths with the same values have the same mask.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

SUFFIXES = (".png", ".npy", ".tif", ".tiff")
FORMATS = ("PNG", "TIFF", "JPEG")
_FULL_SCALE = {np.dtype(np.bool_): 1, np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}


def read_heat(data: bytes, name: str) -> np.ndarray:
    """float32 [H, W] in 0..1 of an encoded map: PNG of 8 or 16 bit, TIFF or .npy of 8, 16 or (float) 32 bit, JPEG.

    Raises ValueError naming ``name`` for a file that cannot be read, has colours, another depth or values outside 0..1.
    """
    try:
        values = _from_numpy(data) if data.startswith(b"\x93NUMPY") else _from_picture(data)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name}: not a readable heat map ({error})") from error
    if values.ndim != 2 or not values.size:
        raise ValueError(f"{name}: heat map of shape {list(values.shape)}; expected one channel [height, width]")
    return _scaled(values, name)


def heat_mask(heat: np.ndarray, threshold: float) -> np.ndarray:
    """Bool [H, W]: where a map in 0..1 reaches the threshold."""
    return heat >= np.float32(threshold)


def resize_nearest(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """Array [H, W] at another size, every pixel that of the nearest centre. Commutes with thresholding."""
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip((height, width), array.shape, strict=True)
    )
    return array[rows[:, None], columns]


def _from_numpy(data: bytes) -> np.ndarray:
    values = np.load(io.BytesIO(data), allow_pickle=False)
    while values.ndim > 2 and 1 in (values.shape[0], values.shape[-1]):  # [1, H, W] and [H, W, 1]
        values = values[0] if values.shape[0] == 1 else values[..., 0]
    return values


def _from_picture(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.mode == "RGB":
            channels = np.asarray(image)
            if (channels != channels[..., :1]).any():
                raise ValueError("a coloured picture; expected grey values, not a colour map's rendering")
            return channels[..., 0]
        if image.mode not in ("1", "L", "I", "F") and not image.mode.startswith("I;16"):
            raise ValueError(f"mode {image.mode}; expected grey values")
        values = np.asarray(image)
        sixteen_bit = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    return values.astype(np.uint16) if sixteen_bit else values


def _scaled(values: np.ndarray, name: str) -> np.ndarray:
    if values.dtype in _FULL_SCALE:
        return values.astype(np.float32) / np.float32(_FULL_SCALE[values.dtype])
    if values.dtype.kind != "f":
        raise ValueError(f"{name}: heat map of type {values.dtype}; expected 8 or 16 bit, or float values in 0..1")
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1 + 1e-6):  # also refuses NaN
        raise ValueError(
            f"{name}: heat map with values {low:g}..{high:g}; expected 0..1: divide all maps by one and the same scale"
        )
    return np.minimum(values.astype(np.float32), np.float32(1))

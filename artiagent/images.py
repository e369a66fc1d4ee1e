"""The one place that encodes and decodes images. Arrays are uint8 [H, W, 3], RGB.

Decoding untrusted files (formats, EXIF, odd modes, bombs) is intake's job: see ``artiagent.perception.intake``.
"""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image


def encode(array: np.ndarray, image_format: str = "png") -> bytes:
    """Encode uint8 [H, W, 3] without metadata; the same settings for both sides of a pair, always.

    ``png`` is lossless; ``jpeg`` is quality 95 without chroma subsampling.
    """
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"expected a uint8 array [H, W, 3], got {array.dtype} {array.shape}")
    buffer = io.BytesIO()
    image = Image.fromarray(array)
    if image_format == "png":
        image.save(buffer, "PNG", compress_level=6)
    elif image_format == "jpeg":
        image.save(buffer, "JPEG", quality=95, subsampling=0)
    else:
        raise ValueError(f"image format {image_format!r}: expected 'png' or 'jpeg'")
    return buffer.getvalue()


def decode(data: bytes) -> np.ndarray:
    """Decode bytes written by ``encode`` to uint8 [H, W, 3]."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def data_uri(data: bytes) -> str:
    """Encoded image as a ``data:`` URI for self-contained HTML."""
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def scaled_size(width: int, height: int, longest: int | None) -> tuple[int, int]:
    """(width, height) once the longest side is at most ``longest`` px; None leaves it alone."""
    if longest is None or max(width, height) <= longest:
        return width, height
    scale = longest / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def scaled(array: np.ndarray, longest: int | None) -> np.ndarray:
    """The image, uint8 [H, W, 3], scaled down (Lanczos) to ``scaled_size``."""
    height, width = array.shape[:2]
    size = scaled_size(width, height, longest)
    return array if size == (width, height) else resized(array, size)


def resized(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The image, uint8 [H, W, 3], at (width, height) px (Lanczos)."""
    return np.asarray(Image.fromarray(array).resize(size, Image.Resampling.LANCZOS))

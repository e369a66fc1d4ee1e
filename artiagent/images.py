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

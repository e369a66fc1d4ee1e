"""Images as they are sent: their digest and their data URI; each distinct image is encoded once.

Knows pixels. Does not know requests or servers.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict

import numpy as np

from artiagent.images import data_uri, encode, scaled


def digest(image: np.ndarray) -> bytes:
    """sha256 of a uint8 image [H, W, 3], its shape included."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected a uint8 array [H, W, 3], got {image.dtype} {image.shape}")
    hashed = hashlib.sha256(b"%d %d " % image.shape[:2])
    hashed.update(np.ascontiguousarray(image).data)
    return hashed.digest()


def as_uri(image: np.ndarray, side: int, image_format: str) -> str:
    """Scale down to ``side`` and encode."""
    return data_uri(encode(scaled(image, side), image_format))


class Encoder:
    """Data URIs of the last ``kept`` distinct images, made in threads; for one event loop.

    `encoded` counts images that were really encoded.
    """

    def __init__(self, side: int, image_format: str, kept: int) -> None:
        self.side, self.image_format, self.kept = side, image_format, kept
        self.encoded = 0
        self._under_way: OrderedDict[bytes, asyncio.Task[str]] = OrderedDict()

    async def uri(self, image: np.ndarray, key: bytes) -> str:
        """The data URI of an image whose `digest` is ``key``."""
        task = self._under_way.get(key)
        if task is None:
            self.encoded += 1
            task = asyncio.ensure_future(asyncio.to_thread(as_uri, image, self.side, self.image_format))
            self._under_way[key] = task
            if len(self._under_way) > self.kept:
                self._under_way.popitem(last=False)
        self._under_way.move_to_end(key)
        return await asyncio.shield(task)

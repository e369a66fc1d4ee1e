"""Images of any size before an inpainter: a window around the region, scaled to what the inpainter sees, and back.

Knows geometry only. What comes back is a whole image; who blends it in keeps the pixels outside the region.
"""

from __future__ import annotations

import numpy as np

from artiagent.grid import mask_box
from artiagent.images import resized, scaled_size
from artiagent.records import Box

CONTEXT = 2  # sides of the region that a window shows, where the image has them


def window_of(region: np.ndarray, size: int) -> Box:
    """The part of the image that is shown: all of it up to ``size`` px, else a square about the region.

    Args:
        region: bool [H, W], not empty.
        size: longest side in px that the inpainter sees at full detail.
    """
    height, width = region.shape
    if max(height, width) <= size:
        return Box(0, 0, width, height)
    box = mask_box(region)
    side = max(size, CONTEXT * max(box.x1 - box.x0, box.y1 - box.y0))
    across, down = min(side, width), min(side, height)
    x0 = min(max((box.x0 + box.x1 - across) // 2, 0), width - across)
    y0 = min(max((box.y0 + box.y1 - down) // 2, 0), height - down)
    return Box(x0, y0, x0 + across, y0 + down)


def shown(image: np.ndarray, region: np.ndarray, window: Box, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The window of image uint8 [H, W, 3] and region bool [H, W], both scaled down to ``size`` px at most."""
    view, mask = image[window.slices], region[window.slices]
    target = scaled_size(view.shape[1], view.shape[0], size)
    if target == view.shape[1::-1]:
        return view, mask
    small = resized(np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=2), target)[..., 0]
    return resized(view, target), small > 0


def put_back(image: np.ndarray, painted: np.ndarray, window: Box) -> np.ndarray:
    """A copy of the image with the painted view in its window, scaled to it."""
    whole = image.copy()
    target = (window.x1 - window.x0, window.y1 - window.y0)
    whole[window.slices] = painted if painted.shape[1::-1] == target else resized(painted, target)
    return whole

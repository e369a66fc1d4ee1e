"""From decoded rows to pairs: pixels outside the recorded region are the twin's, and what changed is measured.

A VAE decoder leaks far from an edit through its attention and norms, so equal latents do not make equal pixels: the
twin's pixels are put back outside the region, with a soft edge inside it (spec: synthesis, rule 4).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.ndimage import binary_opening, distance_transform_edt

from artiagent.grid import grid_of, grow, mask_box, pixel_mask
from artiagent.records import Artifact, Box, Injection, Mask

VISIBLE = 24 / 255  # smallest per-pixel change (mean of channels) that counts as seen


def region_mask(injection: Injection, patch: int, feather: int) -> np.ndarray:
    """Bool [H, W]: the targets, grown by ``feather`` patches."""
    targets = grid_of(injection.mapping.targets, injection.mapping.grid)
    return pixel_mask(grow(targets, feather), patch)


def blend(twin: np.ndarray, raw: np.ndarray, region: np.ndarray, ramp: int) -> np.ndarray:
    """``raw`` inside ``region``, the twin's very pixels outside, mixed over ``ramp`` pixels inside the border.

    Args:
        twin, raw: uint8 [H, W, 3].
        region: bool [H, W].
        ramp: width of the soft edge in pixels; 0 for a hard edge.
    """
    # The frame of the image is no border: a region that touches it stays opaque there.
    depth = distance_transform_edt(np.pad(region, ramp + 1, mode="edge"))[ramp + 1 :, ramp + 1 :]
    depth = depth[: region.shape[0], : region.shape[1]]
    alpha = np.clip(depth / (ramp + 1), 0, 1)[..., None] * region[..., None]
    mixed = np.round(alpha * raw.astype(np.float32) + (1 - alpha) * twin.astype(np.float32)).astype(np.uint8)
    return np.where(region[..., None], mixed, twin)


def measure(twin: np.ndarray, image: np.ndarray, injection: Injection, patch: int, feather: int) -> Artifact:
    """Record of one injection on the finished pixels (before curation)."""
    targets = pixel_mask(grid_of(injection.mapping.targets, injection.mapping.grid), patch)
    region = region_mask(injection, patch, feather)
    change = np.abs(image.astype(np.float32) - twin.astype(np.float32)).mean(axis=2) / 255
    tight = binary_opening((change > VISIBLE) & region)
    box = mask_box(targets)
    if box is None:
        raise ValueError("an injection without targets cannot be measured; the planner must not emit it")
    return Artifact(
        injection=injection,
        box=box,
        **tight_region(box, tight),
        region=Mask.encode(region),
        change_inside=round(float(change[targets].mean()), 6),
    )


def tight_region(box: Box, tight: np.ndarray) -> dict[str, Any]:
    """The fields of an Artifact that tell what really changed, from the bool mask [H, W] of it.

    ``overlap`` near 1 says that the picture changed where the plan says; a low one marks a change that healed away or
    spilled over.
    """
    found = mask_box(tight)
    return {"mask": Mask.encode(tight), "tight_box": found, "overlap": round(box.iou(found), 6) if found else 0.0}


def outside_change(twin: np.ndarray, image: np.ndarray, regions: list[np.ndarray]) -> float:
    """Mean absolute difference, 0..1, outside all regions of an image; 0 when the background guarantee held."""
    outside = ~np.logical_or.reduce(regions)
    if not outside.any():
        return 0.0
    change = np.abs(image.astype(np.float32) - twin.astype(np.float32)).mean(axis=2) / 255
    return round(float(change[outside].mean()), 6)

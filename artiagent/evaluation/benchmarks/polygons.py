"""Polygons -> one mask.

Each polygon is one ring, filled by the even-odd rule on COCO's raster (what SynthScars' authors train and score on);
the polygons of an image are united, so a ring inside another one adds nothing and cuts no hole: the published format
has no way to state holes. What lies outside the image is cut off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from artiagent.evaluation.benchmarks.item import SLACK
from artiagent.records import Mask


def polygons_mask(polygons: Sequence[Any], width: int, height: int, where: str) -> tuple[Mask | None, dict[str, int]]:
    """Union of polygons, and how many were ``degenerate_polygons`` (fewer than three points, or no pixel of the image)
    or ``clipped_polygons``; no mask where no polygon is left.

    Args:
        polygons: each a flat list [x0, y0, x1, y1, ...] or a list of points [[x0, y0], ...], in pixels.

    Raises ValueError naming ``where`` for what is no list of numbers, or lies more than an image's size outside.
    """
    from pycocotools import mask as coco_mask

    counts = {"degenerate_polygons": 0, "clipped_polygons": 0}
    kept = []
    for polygon in polygons:
        points = _points(polygon, width, height, where)
        rles = coco_mask.frPyObjects([points.ravel().tolist()], height, width) if len(points) >= 3 else []
        if not rles or not coco_mask.area(rles[0]):
            counts["degenerate_polygons"] += 1
            continue
        kept += rles
        counts["clipped_polygons"] += bool((points < -SLACK).any() or (points > (width + SLACK, height + SLACK)).any())
    remarks = {name: count for name, count in counts.items() if count}
    if not kept:
        return None, remarks
    return Mask(size=(height, width), counts=coco_mask.merge(kept)["counts"].decode("ascii")), remarks


def _points(polygon: Any, width: int, height: int, where: str) -> np.ndarray:
    """float64 [n, 2]."""
    try:
        values = np.asarray(polygon, dtype=np.float64)
        points = values.reshape(-1, 2) if values.ndim == 1 else values
    except (TypeError, ValueError):
        points = np.full((1, 2), math.nan)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError(f"{where}: polygon {str(polygon)[:80]} is no list of x, y in pixels")
    reach = np.array([width, height])
    if (points < -reach).any() or (points > 2 * reach).any():
        raise ValueError(
            f"{where}: polygon {str(polygon)[:80]} lies far outside the image of {width}x{height} px; "
            "expected pixels of this image"
        )
    return points

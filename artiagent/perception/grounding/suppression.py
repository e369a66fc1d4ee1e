"""Which of several overlapping boxes stay.

Knows boxes, scores and names. Does not know images or where boxes come from. Boxes are (x0, y0, x1, y1), pixels, x1 and
y1 exclusive.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from artiagent.perception.grounding import Detection

SAME_THING = 0.95  # IoU above which two names of one level mean the same thing, not two that overlap

D = TypeVar("D", bound=Detection)


def suppress(detections: Sequence[D], overlap_max: float) -> tuple[list[D], Counter[str]]:
    """Non-maximum suppression of one level (entities, or parts), the better score first.

    Per class: a joint one would delete the cat on a dog's back, and across levels the face that nearly fills its
    person. Boxes of different classes are merged only as synonyms ("puppy" and "dog"), when they are the same box:
    IoU above ``SAME_THING``. The earlier of equal scores wins.

    Returns:
        What stays, in the order of ``detections``; how many went, ``suppressed`` (by its own class) or ``synonym``.
    """
    overlap = iou(np.array([d.box for d in detections], dtype=float).reshape(-1, 4))
    ranked = sorted(range(len(detections)), key=lambda n: -detections[n].score)  # stable
    kept: list[int] = []
    dropped: Counter[str] = Counter()
    for n in ranked:
        alike = [k for k in kept if detections[k].phrase == detections[n].phrase]
        if any(overlap[n, k] > overlap_max for k in alike):
            dropped["suppressed"] += 1
        elif any(overlap[n, k] > SAME_THING for k in kept if k not in alike):
            dropped["synonym"] += 1
        else:
            kept.append(n)
    return [detections[n] for n in sorted(kept)], dropped


def clip(detection: D, width: int, height: int) -> D | None:
    """The detection with its box cut to the image; None when that leaves less than a pixel's width or height, or the
    box is no box."""
    if not all(map(math.isfinite, detection.box)):
        return None
    x0, y0, x1, y1 = detection.box
    inside = max(0.0, x0), max(0.0, y0), min(float(width), x1), min(float(height), y1)
    if inside[2] - inside[0] < 1 or inside[3] - inside[1] < 1:
        return None
    return replace(detection, box=inside)


def iou(boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of all pairs, float [n, n], of boxes float [n, 4] with an area."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return shared / (area[:, None] + area[None, :] - shared)

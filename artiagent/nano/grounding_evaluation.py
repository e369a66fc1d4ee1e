"""Measures detectors, segmenters and linking on held-out rendered scenes, where the truth is known to the pixel."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from artiagent.nano.scenes import KINDS, render_scene
from artiagent.nano.views import View, parts_of_kinds, view_of
from artiagent.nano.vl_tasks import everywhere
from artiagent.perception.grounding import Detector

HIT = 0.5  # IoU from which a box is found
ABSENT_TERMS = 2  # asked per scene


def terms_of(view: View, rng: random.Random) -> dict[str, list[tuple[int, ...]]]:
    """True boxes of every name that the scene shows without ambiguity, and of `ABSENT_TERMS` names that it does not."""
    names = sorted({*view.kinds, *(part.name for part in view.parts)})
    others = sorted({*KINDS, *(part for parts in parts_of_kinds().values() for part in parts)} - set(names))
    asked = (*names, *rng.sample(others, ABSENT_TERMS))
    return {name: boxes for name in asked if (boxes := everywhere(view, name)) is not None}


def pairwise_iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """float64 [n, m] IoU of boxes [n, 4] and [m, 4] (x0, y0, x1, y1)."""
    a, b = one[:, None, :], other[None, :, :]
    sides = (np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])).clip(0)
    both = sides.prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (a, b)]
    return both / np.maximum(areas[0] + areas[1] - both, 1e-9)


def match(overlap: np.ndarray, least: float) -> list[tuple[int, int]]:
    """Pairs (row, column) of the one-to-one assignment with the largest sum of `overlap` [n, m] above `least`."""
    rows, columns = linear_sum_assignment(-np.where(overlap >= least, overlap, 0.0))
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if overlap[i, j] >= least]


def box_figures(detector: Detector, *, first_seed: int, scenes: int) -> dict[str, object]:
    """Recall and precision at IoU .5 of all boxes, for entities and parts apart and per term.

    `iou`: mean over true boxes of the IoU with the detection that is assigned to it, 0 where there is none.
    """
    rng = random.Random(first_seed)
    views = [view_of(render_scene(seed)) for seed in range(first_seed, first_seed + scenes)]
    asked = [terms_of(view, rng) for view in views]
    found = detector.detect([view.image for view in views], [list(terms) for terms in asked])
    counts: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(4))  # true, found, hits, sum of IoU
    for terms, detections in zip(asked, found, strict=True):
        for name, truth in terms.items():
            boxes = [detection.box for detection in detections if detection.phrase == name]
            counts[name] += _tally(truth, boxes)
    kinds = {name: tally for name, tally in counts.items() if name in KINDS}
    parts = {name: tally for name, tally in counts.items() if name not in KINDS}
    return {
        "entities": _figures(sum(kinds.values())),
        "parts": _figures(sum(parts.values())),
        "per_term": {name: _figures(counts[name]) for name in sorted(counts)},
        "malformed": dict(getattr(detector, "malformed", {})),
        "scenes": scenes,
    }


def _tally(truth: Sequence[Sequence[float]], found: Sequence[Sequence[float]]) -> np.ndarray:
    overlap = pairwise_iou(*(np.array(boxes, float).reshape(-1, 4) for boxes in (truth, found)))
    pairs = match(overlap, 0.1)
    ious = [overlap[pair] for pair in pairs]
    return np.array([len(truth), len(found), sum(iou >= HIT for iou in ious), sum(ious)], float)


def _figures(tally: np.ndarray) -> dict[str, float]:
    true, found, hits, ious = tally
    shares = {"recall": hits / max(1, true), "precision": hits / max(1, found), "iou": ious / max(1, true)}
    return {name: round(float(value), 4) for name, value in shares.items()} | {"boxes": int(true)}

"""Where to repaint: places from what the VLM located, from the verifier's map, and from boxes around both that grow.

Knows geometry only. A box of the VLM lies beside the fault as often as on it, so several places are proposed and the
judges of the loop decide. Nothing that comes in makes it raise: boxes without area are skipped, too large ones limited,
and a note says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest

import numpy as np
from scipy.ndimage import label

from artiagent.config import CorrectionSection
from artiagent.grid import mask_box
from artiagent.mitigation.correction.records import Place, Source
from artiagent.records import Box

LEAST_SHARE = 1 / 10  # of the shorter side: smaller boxes are widened to it
PEAKS = 2  # of the map of badness
_SAME = 0.8  # IoU from which two places are one
_DEPTH = 0.5  # of the way from a map's median up to its peak: cells above it belong to the peak


def propose(
    section: CorrectionSection, located: Sequence[Box], badness: np.ndarray, width: int, height: int
) -> tuple[tuple[Place, ...], tuple[str, ...]]:
    """At most ``section.proposals`` places, the configured sources in turn, and notes about what was left out.

    Args:
        section: sources and sizes.
        located: the VLM's boxes in pixels; may be empty.
        badness: float [rows, cols] over the whole image, higher is worse; may be flat or hold NaN.
        width, height: of the image in pixels.
    """
    notes: list[str] = []
    said = _sound(located, width, height, notes)
    peaks = peak_boxes(badness, width, height)
    if "vlm" in section.sources and not said:
        notes.append("the VLM names no box: other sources alone")
    offered: dict[Source, list[tuple[Box, ...]]] = {
        "vlm": [*((box,) for box in said), *([said] if len(said) > 1 else [])],
        "badness": [(box,) for box in peaks],
        "grown": list(_grown(section.grow, said, peaks, width, height)),
    }
    places: list[Place] = []
    turns = zip_longest(*([(source, boxes) for boxes in offered[source]] for source in section.sources))
    for source, boxes in (one for turn in turns for one in turn if one is not None):
        dilated = tuple(_limited(_dilated(box, section, width, height), section, width, height, notes) for box in boxes)
        if not any(_alike(dilated, place.boxes) for place in places):
            places.append(Place(source=source, boxes=dilated))
    return tuple(places[: section.proposals]), tuple(dict.fromkeys(notes))


def peak_boxes(badness: np.ndarray, width: int, height: int) -> tuple[Box, ...]:
    """Boxes of the `PEAKS` worst regions of a map [rows, cols] in pixels; () of a map that is flat or empty."""
    if not badness.size or not np.isfinite(badness).any():
        return ()
    rest = np.where(np.isfinite(badness), badness, -np.inf).astype(np.float64)
    middle = float(np.median(rest[np.isfinite(rest)]))
    found: list[Box] = []
    while len(found) < PEAKS and rest.max() > middle:
        regions, _ = label(rest > middle + _DEPTH * (rest.max() - middle))
        region = regions == regions[np.unravel_index(rest.argmax(), rest.shape)]
        found.append(_in_pixels(mask_box(region), badness.shape, width, height))
        rest[region] = -np.inf
    return tuple(found)


def _sound(boxes: Iterable[Box], width: int, height: int, notes: list[str]) -> tuple[Box, ...]:
    clipped = [(box, box.clip(width, height)) for box in boxes]
    notes += [f"box {list(box)} skipped: no area inside {width}x{height} px" for box, cut in clipped if not cut.area]
    return tuple(dict.fromkeys(cut for _, cut in clipped if cut.area))


def _grown(
    factors: Sequence[float], said: Sequence[Box], peaks: Sequence[Box], width: int, height: int
) -> Iterable[tuple[Box, ...]]:
    """Boxes around everything that was located and around the worst place, scaled step by step."""
    around = [hull(said)] if said else []
    around += [hull([*said, *peaks[:1]])] if peaks else []
    for factor in factors:
        for box in around:
            yield (_scaled(box, factor, width, height),)


def hull(boxes: Iterable[Box]) -> Box:
    """The smallest box around some."""
    x0, y0, x1, y1 = zip(*boxes, strict=True)
    return Box(min(x0), min(y0), max(x1), max(y1))


def _scaled(box: Box, factor: float, width: int, height: int) -> Box:
    """About its middle, moved rather than cut where it would leave the image."""
    sides = [min(round(factor * side), most) for side, most in _sides(box, width, height)]
    starts = [
        min(max(round((low + high - side) / 2), 0), most - side)
        for low, high, side, most in zip(box[:2], box[2:], sides, (width, height), strict=True)
    ]
    return Box(*starts, starts[0] + sides[0], starts[1] + sides[1])


def _dilated(box: Box, section: CorrectionSection, width: int, height: int) -> Box:
    least = max(1, round(LEAST_SHARE * min(width, height)))
    across, down = (
        max(round(section.dilate * side), -(-(least - side) // 2)) for side, _ in _sides(box, width, height)
    )
    return Box(box.x0 - across, box.y0 - down, box.x1 + across, box.y1 + down).clip(width, height)


def _limited(box: Box, section: CorrectionSection, width: int, height: int, notes: list[str]) -> Box:
    share = box.area / (width * height)
    if share <= section.largest:
        return box
    notes.append(f"box {list(box)} covers {share:.0%} of the image: limited to {section.largest:.0%}")
    shrink = (section.largest / share) ** 0.5
    sides = [max(1, int(shrink * side)) for side in (box.x1 - box.x0, box.y1 - box.y0)]
    longer = int(sides[1] > sides[0])  # a side of 1 px shrinks no more, so the other one has to
    sides[longer] = max(1, min(sides[longer], int(section.largest * width * height / sides[1 - longer])))
    x0, y0 = ((low + high - side) // 2 for low, high, side in zip(box[:2], box[2:], sides, strict=True))
    return Box(x0, y0, x0 + sides[0], y0 + sides[1])


def _sides(box: Box, width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return (box.x1 - box.x0, width), (box.y1 - box.y0, height)


def _alike(boxes: Sequence[Box], others: Sequence[Box]) -> bool:
    return len(boxes) == len(others) and all(a.iou(b) > _SAME for a, b in zip(boxes, others, strict=True))


def _in_pixels(cells: Box, shape: tuple[int, ...], width: int, height: int) -> Box:
    rows, columns = shape
    across, down = width / columns, height / rows
    x0, y0, x1, y1 = cells.x0 * across, cells.y0 * down, cells.x1 * across, cells.y1 * down
    return Box(int(x0), int(y0), int(np.ceil(x1)), int(np.ceil(y1))).clip(width, height)

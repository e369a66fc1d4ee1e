"""A picture of what a correction did: the input with the boxes that were repainted, and beside it the result."""

from __future__ import annotations

import numpy as np

from artiagent.images import scaled
from artiagent.inspection.inspect import draw_boxes
from artiagent.mitigation.correction.records import Correction
from artiagent.records import Box

SIDE = 768  # px: longest side of a panel
_GAP = 6  # px between panels


def strip(before: np.ndarray, after: np.ndarray, record: Correction) -> np.ndarray:
    """uint8 [h, w, 3]: before, with boxes, and after, side by side. Both uint8 [H, W, 3]."""
    panels = [scaled(draw_boxes(before, marked(record)), SIDE), scaled(after, SIDE)]
    gap = np.full((len(panels[0]), _GAP, 3), 255, dtype=np.uint8)
    return np.concatenate([panels[0], gap, panels[1]], axis=1)


def marked(record: Correction) -> tuple[Box, ...]:
    """The boxes that were repainted; where nothing was applied those that the VLM named."""
    if record.applied:
        return tuple(box for place in record.applied for box in place.boxes)
    return tuple(dict.fromkeys(box for turn in record.rounds for box in turn.located))

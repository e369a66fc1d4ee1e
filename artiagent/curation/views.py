"""The three views in which the paper's agents look at an artifact: the place masked out, before, and after.

Knows pixels and boxes. Does not know questions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from artiagent.curation.change import target_mask
from artiagent.images import resized
from artiagent.records import Artifact

GREY = 127
_CONTEXT = 0.25  # of the box's longer side, around it


class View(NamedTuple):
    """One artifact before an agent; images are uint8 [H, W, 3]. ``key`` names its call."""

    clean: np.ndarray
    image: np.ndarray
    artifact: Artifact
    key: str = ""


def three_views(view: View) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Twin with the targets greyed out, twin's crop, artifact image's crop (paper: curation agent).

    The crops show the target's box with a margin, scaled so that their longer side is that of the image.
    """
    height, width = view.image.shape[:2]
    masked = view.clean.copy()
    masked[target_mask(view.artifact, height, width)] = GREY
    box = view.artifact.box
    margin = round(_CONTEXT * max(box.x1 - box.x0, box.y1 - box.y0))
    crop = box.pad(margin, width, height)
    scale = max(height, width) / max(crop.x1 - crop.x0, crop.y1 - crop.y0)
    size = (max(1, round((crop.x1 - crop.x0) * scale)), max(1, round((crop.y1 - crop.y0) * scale)))
    before, after = (resized(side[crop.slices], size) for side in (view.clean, view.image))
    return masked, before, after

"""Change audit of every artifact: did the target change visibly, did anything else, and does its border show?

Knows pixels only (spec: perception and curation, section 3). Does not know what the change depicts; the judge does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from artiagent.config import CurationSection
from artiagent.grid import grid_of, pixel_mask
from artiagent.records import Artifact, Reason
from artiagent.synthesis.compose import VISIBLE, outside_change

_FLAT = 4 / 255  # gradient of a plain surface; keeps the seam score finite where the twin has none


@dataclass(frozen=True)
class Change:
    """What separates an artifact image from its twin, in absolute differences of 0..1 averaged over the channels.

    `inside`: mean over the targets. `outside`: mean over everything beyond all recorded regions (the residual
    background). `share`: part of the target pixels that changed visibly. `seam`: mean step across the targets' border
    in the artifact image, as a multiple of the twin's there or of what is usual inside the patch, whichever is larger.
    """

    inside: float
    outside: float
    share: float
    seam: float

    def reason(self, section: CurationSection) -> Reason | None:
        """The first limit of the section that is broken."""
        if self.outside > section.change_outside_max:
            return "change_outside"
        if self.inside < section.change_inside_min or self.share < section.change_share_min:
            return "too_similar"
        return "too_damaged" if self.seam > section.seam_max else None

    def benign_reason(self, section: CurationSection) -> Reason | None:
        """A benign injection must leave nothing to see: what fails here can be no hard negative."""
        if self.outside > section.change_outside_max:
            return "change_outside"
        return "too_damaged" if self.inside > section.benign_inside_max or self.seam > section.seam_max else None


def audit_change(clean: np.ndarray, image: np.ndarray, artifact: Artifact, regions: Sequence[np.ndarray]) -> Change:
    """Measure one artifact.

    Args:
        clean, image: twin and artifact image, uint8 [H, W, 3].
        artifact: the artifact in question.
        regions: recorded regions, bool [H, W], of all artifacts of the image.
    """
    targets = target_mask(artifact, *image.shape[:2])
    change = np.abs(image.astype(np.float32) - clean.astype(np.float32)).mean(axis=2)[targets] / 255
    return Change(
        inside=float(change.mean()),
        outside=outside_change(clean, image, list(regions)),
        share=float((change > VISIBLE).mean()),
        seam=seam_score(clean, image, targets),
    )


def target_mask(artifact: Artifact, height: int, width: int) -> np.ndarray:
    """Bool [height, width] of the artifact's target patches. Raises ValueError when the grid does not fit the image."""
    rows, cols = artifact.injection.mapping.grid
    if height % rows or width % cols or height // rows != width // cols:
        raise ValueError(f"image of {height}x{width} px does not divide into the {rows}x{cols} patches of its artifact")
    return pixel_mask(grid_of(artifact.injection.mapping.targets, (rows, cols)), height // rows)


def seam_score(clean: np.ndarray, image: np.ndarray, targets: np.ndarray) -> float:
    """Step across the border of `targets` (bool [H, W]) relative to the twin's; 1 is unremarkable."""
    before, _ = _steps(clean, targets)
    after, usual = _steps(image, targets)
    return (after + _FLAT) / (max(before, usual) + _FLAT)


def _steps(image: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    """Mean difference of neighbouring pixels, 0..1: across the border of `targets`, and between two targets."""
    grey = image.astype(np.float32).mean(axis=2) / 255
    across: list[np.ndarray] = []
    within: list[np.ndarray] = []
    for axis in (0, 1):
        step = np.abs(np.diff(grey, axis=axis))
        low, high = np.delete(targets, -1, axis), np.delete(targets, 0, axis)
        across.append(step[low != high])
        within.append(step[low & high])
    border, inner = np.concatenate(across), np.concatenate(within)
    return float(border.mean()) if border.size else 0.0, float(inner.mean()) if inner.size else 0.0

"""Dense targets that vision encoders learn beside language: what a patch shows, what it showed before, whether that is
the same.

The second makes the encoder a denoising autoencoder over parts and colours: of an augmented view it has to say what
belongs where. The third is ELECTRA's replaced-token detection (arXiv 2003.10555) on patches. The heads are linear, so
that the answers lie open in the features, and are dropped at export.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from artiagent.nano.views import View, patch_classes, patch_colours, patch_labels, patch_shares

ALTERED_SHARE = 0.15  # of a patch's pixels


class PatchTargets(NamedTuple):
    """`labels` float32 [B, tokens, 2 * patches * classes]: 1 where a class covers a quarter of a patch; first of all
    patches as seen, then as they were. `colours` [B, tokens, 2 * patches * 3]: mean colours, likewise. `altered`
    [B, tokens, patches]: 1 where an augmentation left other content."""

    labels: Tensor
    colours: Tensor
    altered: Tensor

    def to(self, device: str) -> PatchTargets:
        return PatchTargets(*(target.to(device) for target in self))


class PatchHeads(nn.Module):
    """Reads labels and colours of `patches` patches off every token of `hidden` values."""

    weights = (20.0, 2.0, 1.0)  # of labels, colours, altered

    def __init__(self, hidden: int, patches: int = 1):
        super().__init__()
        self.labels = nn.Linear(hidden, 2 * patches * len(patch_classes()))
        self.colours = nn.Linear(hidden, 2 * patches * 3)
        self.altered = nn.Linear(hidden, patches)

    def forward(self, tokens: Tensor, targets: PatchTargets) -> Tensor:
        """Weighted sum of the losses, a scalar; `tokens` [..., hidden]."""
        labels, colours, altered = (
            head(tokens).float().view_as(wanted)
            for head, wanted in zip((self.labels, self.colours, self.altered), targets, strict=True)
        )
        losses = (
            F.binary_cross_entropy_with_logits(labels, targets.labels),
            F.mse_loss(colours, targets.colours),
            F.binary_cross_entropy_with_logits(altered, targets.altered),
        )
        return sum(weight * loss for weight, loss in zip(self.weights, losses, strict=True))


def patch_targets(views: list[View], originals: list[View], patch: int, merge: int = 1) -> PatchTargets:
    """Targets of `views`, which were `originals` before their augmentation.

    A token holds `merge` x `merge` patches of `patch` px, row by row.
    """

    def stacked(values: list[np.ndarray]) -> np.ndarray:
        return np.stack([_by_token(value, merge) for value in values])

    marked = [stacked([patch_labels(view, patch) for view in side]) for side in (views, originals)]
    colours = [stacked([patch_colours(view.image, patch) for view in side]) for side in (views, originals)]
    altered = stacked([patch_shares(view.altered, patch) >= ALTERED_SHARE for view in views])
    both = (np.concatenate(values, 2) for values in (marked, colours))
    return PatchTargets(*map(torch.from_numpy, (*both, altered)))


def _by_token(patches: np.ndarray, merge: int) -> np.ndarray:
    """[rows, columns, values] of patches -> float32 [tokens, merge**2 * values]."""
    rows, columns, values = patches.shape
    blocks = patches.reshape(rows // merge, merge, columns // merge, merge, values)
    return blocks.transpose(0, 2, 1, 3, 4).reshape(rows * columns // merge**2, -1).astype(np.float32)

"""Dense targets that vision encoders learn beside language: what a patch shows, and what it showed before.

The second half makes the encoder a denoising autoencoder over parts and colours: of an augmented view it has to say
what belongs where. The heads are linear, so that the answers lie open in the features, and are dropped at export.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from artiagent.nano.views import View, patch_classes, patch_colours, patch_labels


class PatchHeads(nn.Module):
    """Reads labels and colours of `patches` patches off every token of `hidden` values."""

    def __init__(self, hidden: int, patches: int = 1, label_weight: float = 20.0, colour_weight: float = 2.0):
        super().__init__()
        self.label_weight, self.colour_weight = label_weight, colour_weight
        self.labels = nn.Linear(hidden, 2 * patches * len(patch_classes()))
        self.colours = nn.Linear(hidden, 2 * patches * 3)

    def forward(self, tokens: Tensor, labels: Tensor, colours: Tensor) -> Tensor:
        """Weighted sum of both losses, a scalar; `tokens` [..., hidden], targets as `patch_targets` gives them."""
        said = self.labels(tokens).float().view_as(labels)
        seen = self.colours(tokens).float().view_as(colours)
        label_loss = F.binary_cross_entropy_with_logits(said, labels)
        return self.label_weight * label_loss + self.colour_weight * F.mse_loss(seen, colours)


def patch_targets(views: list[View], originals: list[View], patch: int, merge: int = 1) -> tuple[Tensor, Tensor]:
    """Labels float32 [B, tokens, 2 * merge**2 * classes] and mean colours [B, tokens, 2 * merge**2 * 3].

    A token holds `merge` x `merge` patches of `patch` px, row by row; first all as seen in `views`, then all as they
    were in `originals`. A label is 1 where the class covers a quarter of its patch.
    """

    def stacked(values: list[np.ndarray]) -> np.ndarray:
        return np.stack([_by_token(value, merge) for value in values])

    marked = [stacked([patch_labels(view, patch) for view in side]) for side in (views, originals)]
    colours = [stacked([patch_colours(view.image, patch) for view in side]) for side in (views, originals)]
    return torch.from_numpy(np.concatenate(marked, 2)), torch.from_numpy(np.concatenate(colours, 2))


def _by_token(patches: np.ndarray, merge: int) -> np.ndarray:
    """[rows, columns, values] of patches -> float32 [tokens, merge**2 * values]."""
    rows, columns, values = patches.shape
    blocks = patches.reshape(rows // merge, merge, columns // merge, merge, values)
    return blocks.transpose(0, 2, 1, 3, 4).reshape(rows * columns // merge**2, -1).astype(np.float32)

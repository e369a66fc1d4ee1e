"""From features to a reward: which features a head sees, and how the scores of places make one.

Knows poolings and heads. Does not know towers or training. Badness is what a head says of a place; the reward of a
picture is ``-logsumexp`` over its places: an artifact is local, and the worst places decide. A head may have several
voices, each trained by a loss of its own; the reward is the mean of theirs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from artiagent.learning.reward.towers import Features, Tower

CROPS = 3  # rows and columns of overlapping crops, each half as high and wide as the picture


class Head(nn.Module):
    """Features [B, T, F] of T places -> their badness [B, T]. Mean and scale are those of the training images."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.layers = nn.Sequential(nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, 1))

    def forward(self, features: Tensor) -> Tensor:
        return self.layers((features.float() - self.mean) / self.scale)[..., 0]

    def voices(self, features: Tensor) -> tuple[Tensor, ...]:
        """Badness by every voice, [B, T] each; the first is the one that knows places."""
        return (self(features),)

    def standardise(self, features: Tensor) -> None:
        """Take mean and scale from features [N, T, F]."""
        places = features.flatten(0, -2)
        self.mean.copy_(places.mean(0))
        self.scale.copy_(places.var(0).sqrt().clamp(min=1e-6))


class JointHead(nn.Module):
    """Two voices on features [B, T + 1, F]: one for the T cells, one for the picture as a whole, which comes last.

    What a fault looks like nearby and how a faulty picture looks at large err on different pictures: on a generator's
    own, far from those of the training, the whole is the better witness (docs/reward.md).
    """

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.local, self.whole = Head(features, hidden), Head(features, hidden)

    def voices(self, features: Tensor) -> tuple[Tensor, ...]:
        """As of `Head`: badness of the cells [B, T], of the whole [B, 1]."""
        return self.local(features[:, :-1]), self.whole(features[:, -1:])

    def standardise(self, features: Tensor) -> None:
        """Take mean and scale from features [N, T + 1, F]."""
        self.local.standardise(features[:, :-1])
        self.whole.standardise(features[:, -1:])


def new_head(tower: Tower, pooling: str, hidden: int) -> Head | JointHead:
    """An untrained head for what `extract` gives."""
    return JointHead(tower.width, hidden) if pooling == "tokens+whole" else Head(width_of(tower, pooling), hidden)


def reward_of(voices: Sequence[Tensor]) -> Tensor:
    """Badness [B, T] by every voice -> reward [B]."""
    return torch.stack([-torch.logsumexp(badness, dim=1) for badness in voices]).mean(0)


def extract(tower: Tower, pixels: Tensor, pooling: str) -> Tensor:
    """What a head sees, [B, T, F].

    Args:
        tower: of `towers`.
        pixels: float [B, 3, side, side] in 0..1.
        pooling: "pooled": the tower's own summary, T = 1. "patches": with mean and maximum of the cells, T = 1.
            "tokens": every cell. "tokens+whole": and the summary as the last
            place. "crops": the summary of each of 3x3 overlapping crops beside that of the whole.
    """
    if pooling == "crops":
        return _crops(tower, pixels)
    found: Features = tower(pixels)
    if pooling == "pooled":
        return found.whole[:, None]
    if pooling == "patches":
        return torch.cat([found.whole, found.cells.mean(1), found.cells.amax(1)], dim=1)[:, None]
    if pooling == "tokens+whole":
        return torch.cat([found.cells, found.whole[:, None]], dim=1)
    return found.cells


def grid_of(tower: Tower, pooling: str) -> tuple[int, int]:
    """(rows, cols) of the places that the first voice knows."""
    side = {"tokens": tower.rows, "tokens+whole": tower.rows, "crops": CROPS}.get(pooling, 1)
    return side, side


def width_of(tower: Tower, pooling: str) -> int:
    """F of what `extract` gives."""
    return tower.width * {"patches": 3, "crops": 2}.get(pooling, 1)


def _crops(tower: Tower, pixels: Tensor) -> Tensor:
    side = pixels.shape[-1]
    half = side // 2
    starts = [k * (side - half) // (CROPS - 1) for k in range(CROPS)]
    cut = torch.stack([pixels[..., y : y + half, x : x + half] for y in starts for x in starts], dim=1)
    grown = nn.functional.interpolate(cut.flatten(0, 1), size=(side, side), mode="bilinear", antialias=True)
    near = tower(grown).whole.unflatten(0, cut.shape[:2])
    return torch.cat([near, tower(pixels).whole[:, None].expand_as(near)], dim=2)

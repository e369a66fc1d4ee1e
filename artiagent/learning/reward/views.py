"""Views of pairs: mirrored, shifted, in other colours, blurred or noisy; both sides of a pair always alike.

So neither the codec, nor the edge of a blend, nor brightness can tell the sides apart. Knows pixels only.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SHIFT = 1 / 16  # of the side, at most
COLOUR, CONTRAST, BRIGHTNESS = 0.15, 0.2, 0.08
BLUR, NOISE = 0.8, 0.02  # largest share of the 3x3 blur, largest standard deviation of the noise


def mirrored(pixels: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
    """Left to right. Pixels [n, 2, 3, S, S], regions [n, 1, S, S]."""
    return pixels.flip(-1), regions.flip(-1)


def varied(pixels: Tensor, regions: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A random view of every pair; shapes as in `mirrored`."""
    views = [_view(p, r, generator) for p, r in zip(pixels, regions, strict=True)]
    return torch.stack([p for p, _ in views]), torch.stack([r for _, r in views])


def _view(pixels: Tensor, region: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    if draw(1) < 0.5:
        pixels, region = pixels.flip(-1), region.flip(-1)
    pixels, region = _shifted(pixels, region, draw(2))
    mean = pixels.mean((0, 2, 3), keepdim=True)
    contrast, tint = 1 + CONTRAST * (2 * draw(1, 1, 1, 1) - 1), 1 + COLOUR * (2 * draw(1, 3, 1, 1) - 1)
    pixels = ((pixels - mean) * contrast + mean) * tint + BRIGHTNESS * (2 * draw(1, 1, 1, 1) - 1)
    if (choice := float(draw(1))) < 0.25:
        pixels = _blurred(pixels, BLUR * float(draw(1)))
    elif choice < 0.5:
        pixels = pixels + NOISE * float(draw(1)) * torch.randn(pixels.shape, generator=generator)
    return pixels.clamp(0, 1), region


def _shifted(pixels: Tensor, region: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Moved by up to `SHIFT` of the side; the border is continued, no fault is in what is added."""
    side = pixels.shape[-1]
    most = max(1, int(side * SHIFT))
    y, x = (int(v) for v in (drawn * (2 * most + 1)).long())
    window = (..., slice(y, y + side), slice(x, x + side))
    padded = nn.functional.pad(pixels, (most,) * 4, mode="replicate")
    return padded[window], nn.functional.pad(region, (most,) * 4)[window]


def _blurred(pixels: Tensor, share: float) -> Tensor:
    line = (1 - share) * torch.tensor([0.0, 1.0, 0.0]) + share * torch.tensor([0.25, 0.5, 0.25])
    kernel = (line[:, None] * line).expand(3, 1, 3, 3)
    return nn.functional.conv2d(nn.functional.pad(pixels, (1,) * 4, mode="replicate"), kernel, groups=3)

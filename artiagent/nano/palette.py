"""Colours and textures of the nano world: a small closed vocabulary, so that every word of a caption is learnable.

Knows names and RGB values. Does not know what is drawn with them.
"""

from __future__ import annotations

import numpy as np

RGB = tuple[float, float, float]

COLOURS: dict[str, RGB] = {
    "red": (206, 56, 50),
    "orange": (232, 134, 50),
    "yellow": (240, 202, 70),
    "green": (84, 158, 78),
    "blue": (64, 114, 198),
    "purple": (134, 88, 172),
    "pink": (236, 138, 168),
    "brown": (140, 92, 58),
    "grey": (140, 144, 152),
    "black": (62, 60, 70),
    "white": (238, 234, 226),
}
TEXTURES: tuple[str, ...] = ("plain", "striped", "spotted")
SKINS: tuple[RGB, ...] = ((250, 212, 180), (226, 176, 136), (176, 122, 86), (122, 80, 56))
HAIRS: tuple[RGB, ...] = ((60, 42, 34), (120, 74, 40), (222, 176, 84), (170, 78, 40), (74, 72, 80))


def mix(first: RGB, second: RGB, share: float) -> RGB:
    """`share` of `second` in `first`, 0 to 1."""
    return tuple(a + (b - a) * share for a, b in zip(first, second, strict=True))  # type: ignore[return-value]


def lighten(rgb: RGB, share: float) -> RGB:
    """Towards white for a positive share, towards a cool dark for a negative one."""
    return mix(rgb, (255, 252, 244), share) if share >= 0 else mix(rgb, (30, 24, 44), -share)


def distance(first: RGB, second: RGB) -> float:
    """Euclidean RGB distance weighted by the eye's sensitivity; below about 60 two flat areas run into each other."""
    weights = np.array([0.9, 1.2, 0.7])
    return float(np.sqrt((weights * (np.subtract(first, second)) ** 2).sum()))


def tint(rgb: RGB, rng: np.random.Generator, amount: float = 9.0) -> RGB:
    """A slightly different shade of the same named colour."""
    return tuple(float(np.clip(c + rng.uniform(-amount, amount), 0, 255)) for c in rgb)  # type: ignore[return-value]

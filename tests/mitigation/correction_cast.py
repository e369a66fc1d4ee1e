"""A cast for the correction loop: a world of grey images in which a red pixel is a fault and green is clean.

The fakes are simple enough to know what the loop must do: the verifier counts red pixels, the VLM calls an image faulty
while there are any, the witness names a scripted box, and the inpainter paints green or what it is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from artiagent.config import CorrectionSection
from artiagent.inspection.findings import Picture
from artiagent.mitigation.correction.panel import Panel
from artiagent.mitigation.correction.witness import Testimony
from artiagent.records import Box

GREEN, RED = (0, 200, 0), (255, 0, 0)
SECTION = CorrectionSection(
    candidates=2,
    proposals=3,
    rounds=3,
    refine=2,
    reward_margin=0.0,
    verdict_margin=0.0,
    threshold=0.5,
    feather=0,
    dilate=0.0,
    size=64,
)


def red(image: np.ndarray) -> np.ndarray:
    """bool [H, W]: where the fault is."""
    return (image[..., 0] > 200) & (image[..., 1] < 50)


def faulty_picture(*boxes: Box, size: tuple[int, int] = (64, 64), name: str = "one.png") -> Picture:
    pixels = np.full((*size, 3), 120, dtype=np.uint8)
    for box in boxes:
        pixels[box.slices] = RED
    return Picture(name, f"sha-{name}-{boxes}", pixels)


class CountingVerifier:
    name, sha256 = "verifier", "v" * 64

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        self.asked += len(images)
        return np.array([-float(red(image).sum()) for image in images], dtype=np.float32)

    def badness(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [red(image).reshape(8, image.shape[0] // 8, 8, -1).mean(axis=(1, 3)) for image in images]


class ColourVerdict:
    """P(no artifacts) falls with the share of red; ``dislikes`` may veto an image."""

    name, sha256 = "vlm", "w" * 64

    def __init__(self, dislikes: Callable[[np.ndarray], bool] = lambda image: False) -> None:
        self.dislikes = dislikes

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        scores = [
            0.0 if self.dislikes(image) else 1 - min(1.0, 0.6 + red(image).mean()) * red(image).any()
            for image in images
        ]
        return np.array(scores, dtype=np.float32)


class ScriptedWitness:
    def __init__(self, *boxes: Box, status: str = "ok", caption: str = "a grey field") -> None:
        self.told = Testimony(boxes, status, caption)

    def __call__(self, images: Sequence[np.ndarray]) -> list[Testimony]:
        return [self.told] * len(images)


class Painter:
    """Paints what ``paint(seed)`` says, everywhere: who asked keeps what is outside. May raise or interrupt."""

    name, sha256 = "painter", "p" * 64

    def __init__(self, paint: Callable[[int], tuple[int, int, int]] = lambda seed: GREEN) -> None:
        self.paint, self.calls, self.seen = paint, 0, []

    def repaint(
        self, images: np.ndarray, masks: np.ndarray, captions: Sequence[str], seeds: Sequence[int]
    ) -> np.ndarray:
        assert images.shape[:3] == masks.shape
        self.seen.append((images.shape, tuple(captions)))
        painted = np.stack([np.full(images.shape[1:], self.paint(seed), dtype=np.uint8) for seed in seeds])
        self.calls += len(images)
        return painted

    def reencode(self, images: np.ndarray) -> np.ndarray:
        return images


def cast(
    painter: Painter | None = None, witness: ScriptedWitness | None = None, verdict: ColourVerdict | None = None
) -> Panel:
    return Panel(
        CountingVerifier(),
        verdict or ColourVerdict(),
        witness or ScriptedWitness(Box(8, 8, 24, 24)),
        painter or Painter(),
    )

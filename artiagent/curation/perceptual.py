"""Perceptual distance between twin and artifact on the target's crop (paper: keep 0.5 <= 1 - LPIPS <= 0.9).

Two metrics, chosen by the configuration and never swapped silently: `lpips` (AlexNet, the paper's) and `ssim`, the
fallback where AlexNet's weights cannot be had. Each has a window of its own; `curation.calibration` says what it is
worth. `auto` is settled to one of them when a run is submitted, and the reason travels with it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from skimage.metrics import structural_similarity

from artiagent.config import CurationSection
from artiagent.curation.alexnet import LpipsAbsent, located, lpips_model, verified
from artiagent.records import Box, Reason

if TYPE_CHECKING:
    import torch

_SSIM_WINDOW = 7  # px
_PIXELS = 2**21  # of one forward pass: 512 crops of 64 px, or two of 1024 px
Crop = tuple[np.ndarray, np.ndarray, Box]


class Metric(ABC):
    """`window`: lowest and highest accepted similarity, 1 - distance."""

    name: str
    window: tuple[float, float]

    @abstractmethod
    def distances(self, crops: Sequence[Crop]) -> list[float]:
        """Distance of (twin, artifact image, box) each, around the box; 0 for equal pixels.

        Images are uint8 [H, W, 3], of any sizes. What comes out does not depend on what else is asked at the same time.
        """

    def distance(self, clean: np.ndarray, image: np.ndarray, box: Box) -> float:
        """`distances` of a single crop."""
        return self.distances([(clean, image, box)])[0]


def settled_metric(section: CurationSection) -> tuple[CurationSection, str]:
    """The section with a metric that can be loaded, the sha256 of its weights filled in, and a line about a fallback.

    ``auto`` becomes ``lpips`` where the weights are there or can be downloaded, else ``ssim``; the line says why, and
    is "" where nothing was replaced. It stays in the section, ``metric_note``: settling again says it again. Raises
    ValueError where ``lpips`` itself is asked for and its weights are absent, and for weights that are there but are
    not the ones expected: those are never replaced.
    """
    if section.metric == "ssim":
        return section, section.metric_note
    try:
        path = located(section.lpips_weights)
    except LpipsAbsent as absent:
        if section.metric == "lpips":
            raise _advised(absent) from absent
        note = f"ssim: LPIPS weights absent ({absent})"
        return section.model_copy(update={"metric": "ssim", "metric_note": note}), note
    return section.model_copy(update={"metric": "lpips", "lpips_sha256": verified(path, section.lpips_sha256)}), ""


def load_metric(section: CurationSection) -> Metric:
    """The configured metric. Raises ValueError for `lpips` without weights; there is no silent fallback."""
    if section.metric == "ssim":
        return Ssim(section.ssim_window, section.min_crop)
    if section.metric == "auto":
        raise ValueError("curation.metric=auto was not settled; set it to lpips or ssim, or call settled_metric first")
    return Lpips(section)


def _advised(absent: LpipsAbsent) -> ValueError:
    return ValueError(
        f"curation.metric=lpips: {absent}. It takes the package lpips and curation.lpips_weights, a file with "
        "torchvision's AlexNet weights or hub; curation.metric=ssim is the documented fallback"
    )


def window_reason(distance: float, window: tuple[float, float]) -> Reason | None:
    """Place of the similarity ``1 - distance`` relative to the window."""
    if 1 - distance > window[1]:
        return "too_similar"
    return "too_damaged" if 1 - distance < window[0] else None


def padded_crop(image: np.ndarray, box: Box, least: int) -> tuple[np.ndarray, Box]:
    """Crop of at least ``least`` px per side around `box`, and the box within the crop.

    The crop grows into the image, stays inside it, and is mirrored beyond the edge only where the image is too small.
    """
    height, width = image.shape[:2]
    x0, x1 = _grow(box.x0, box.x1, least, width)
    y0, y1 = _grow(box.y0, box.y1, least, height)
    crop = image[y0:y1, x0:x1]
    missing = [(0, max(0, least - side)) for side in crop.shape[:2]]
    return np.pad(crop, [*missing, (0, 0)], mode="symmetric"), Box(box.x0 - x0, box.y0 - y0, box.x1 - x0, box.y1 - y0)


def _grow(low: int, high: int, least: int, limit: int) -> tuple[int, int]:
    missing = max(0, least - (high - low))
    low = max(0, min(low - missing // 2, limit - (high - low) - missing))
    return low, min(limit, max(high, low + least))


class Ssim(Metric):
    """1 - SSIM, its local map averaged over the target box, so that the size of the part does not matter."""

    name = "ssim"

    def __init__(self, window: tuple[float, float], min_crop: int) -> None:
        self.window, self._least = window, max(min_crop, _SSIM_WINDOW)

    def distances(self, crops: Sequence[Crop]) -> list[float]:
        return [self._one(*crop) for crop in crops]

    def _one(self, clean: np.ndarray, image: np.ndarray, box: Box) -> float:
        before, inner = padded_crop(clean, box, self._least)
        after, _ = padded_crop(image, box, self._least)
        _, similarity = structural_similarity(before, after, win_size=_SSIM_WINDOW, channel_axis=2, full=True)
        return 1 - float(similarity[inner.slices].mean())


class Lpips(Metric):
    """LPIPS on AlexNet, crops of one size in one pass.

    Computed in float64, whatever autocast and the default type are: in float32 the last digits depend on the size of
    the batch, and a distance is part of a data set's digest.
    """

    name = "lpips"

    def __init__(self, section: CurationSection) -> None:
        from artiagent.devices import torch_device

        try:
            path = located(section.lpips_weights)
        except LpipsAbsent as absent:
            raise _advised(absent) from absent
        verified(path, section.lpips_sha256)
        self.window, self._least = section.lpips_window, section.min_crop
        self._device = torch_device(section.device)
        self._model = lpips_model(path).double().to(self._device)

    def distances(self, crops: Sequence[Crop]) -> list[float]:
        sides = [
            tuple(padded_crop(side, box, self._least)[0] for side in (clean, image)) for clean, image, box in crops
        ]
        by_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, (before, _) in enumerate(sides):
            by_size[before.shape].append(index)
        found = [0.0] * len(sides)
        for (height, width, _), members in by_size.items():
            step = max(1, _PIXELS // (height * width))
            for start in range(0, len(members), step):
                chosen = members[start : start + step]
                for index, distance in zip(chosen, self._batch([sides[i] for i in chosen]), strict=True):
                    found[index] = distance
        return found

    def _batch(self, sides: list[tuple[np.ndarray, ...]]) -> list[float]:
        """Of crops of one size."""
        import torch

        before, after = (self._tensor([pair[side] for pair in sides]) for side in (0, 1))
        with torch.inference_mode():
            return self._model(before, after).flatten().tolist()

    def _tensor(self, crops: list[np.ndarray]) -> torch.Tensor:
        """float64 [B, 3, H, W] in -1..1."""
        import torch

        return torch.from_numpy(np.stack(crops)).to(self._device).permute(0, 3, 1, 2).double() / 127.5 - 1

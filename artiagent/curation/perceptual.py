"""Perceptual distance between twin and artifact on the target's crop (paper: keep 0.5 <= 1 - LPIPS <= 0.9).

Two metrics, chosen by the configuration and never swapped silently: `lpips` (AlexNet, the paper's) and `ssim`, the
fallback where AlexNet's weights cannot be had. Each has a window of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from skimage.metrics import structural_similarity

from artiagent.config import CurationSection
from artiagent.records import Box, Reason

_SSIM_WINDOW = 7  # px


class Metric(Protocol):
    """`window`: lowest and highest accepted similarity, 1 - distance."""

    name: str
    window: tuple[float, float]

    def distance(self, clean: np.ndarray, image: np.ndarray, box: Box) -> float:
        """Distance of two images, uint8 [H, W, 3], around `box`; 0 for equal pixels."""
        ...


def load_metric(section: CurationSection) -> Metric:
    """The configured metric. Raises ValueError for `lpips` without weights; there is no silent fallback."""
    if section.metric == "ssim":
        return Ssim(section.ssim_window, section.min_crop)
    if section.lpips_weights is None:
        raise ValueError(
            "curation.metric=lpips needs curation.lpips_weights, a file with torchvision's AlexNet weights; "
            "set it, or curation.metric=ssim for the documented fallback"
        )
    return Lpips(Path(section.lpips_weights), section.lpips_window, section.min_crop, section.device)


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


class Ssim:
    """1 - SSIM, its local map averaged over the target box, so that the size of the part does not matter."""

    name = "ssim"

    def __init__(self, window: tuple[float, float], min_crop: int) -> None:
        self.window, self._least = window, max(min_crop, _SSIM_WINDOW)

    def distance(self, clean: np.ndarray, image: np.ndarray, box: Box) -> float:
        before, inner = padded_crop(clean, box, self._least)
        after, _ = padded_crop(image, box, self._least)
        _, similarity = structural_similarity(before, after, win_size=_SSIM_WINDOW, channel_axis=2, full=True)
        return 1 - float(similarity[inner.slices].mean())


class Lpips:
    """LPIPS on AlexNet; `weights` is torchvision's AlexNet state dict, .safetensors or .pth."""

    name = "lpips"

    def __init__(self, weights: Path, window: tuple[float, float], min_crop: int, device: str) -> None:
        import lpips

        from artiagent.devices import torch_device

        self.window, self._least = window, min_crop
        self._device = torch_device(device)
        model = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
        tower = model.net.state_dict()
        model.net.load_state_dict(_alexnet_features(weights, list(tower)))
        self._model = model.eval().to(self._device)

    def distance(self, clean: np.ndarray, image: np.ndarray, box: Box) -> float:
        import torch

        crops = (padded_crop(side, box, self._least)[0] for side in (clean, image))
        before, after = (torch.from_numpy(c.copy()).permute(2, 0, 1)[None].float().to(self._device) for c in crops)
        with torch.inference_mode():
            return float(self._model(before / 127.5 - 1, after / 127.5 - 1))


def _alexnet_features(weights: Path, names: list[str]) -> dict:
    """AlexNet's convolutions under the names of the LPIPS tower: ``slice2.3.weight`` is ``features.3.weight``."""
    import torch
    from safetensors.torch import load_file

    if not weights.is_file():
        raise ValueError(f"{weights}: no such file; curation.lpips_weights names torchvision's AlexNet weights")
    state = load_file(weights) if weights.suffix == ".safetensors" else torch.load(weights, weights_only=True)
    wanted = {name: f"features.{name.split('.', 1)[1]}" for name in names}
    missing = sorted(set(wanted.values()) - set(state))
    if missing:
        raise ValueError(f"{weights}: not torchvision's AlexNet, lacks {', '.join(missing)}")
    return {name: state[source] for name, source in wanted.items()}

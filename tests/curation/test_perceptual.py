from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from artiagent.config import CurationSection
from artiagent.curation.perceptual import load_metric, padded_crop, window_reason
from artiagent.records import Box

BOX = Box(40, 40, 64, 56)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in torchvision's names and shapes."""
    from torchvision.models import alexnet

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "alexnet.safetensors"
    save_file({k: v for k, v in alexnet(weights=None).state_dict().items() if k.startswith("features")}, path)
    return path


@given(st.data())
def test_a_crop_holds_its_box_and_is_large_enough(data: st.DataObject) -> None:
    height, width, least = (data.draw(st.integers(*limits)) for limits in ((8, 90), (8, 90), (1, 64)))
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = Box(x0, y0, data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height)))
    picture = np.arange(height * width * 3).reshape(height, width, 3)
    crop, inner = padded_crop(picture, box, least)
    assert min(crop.shape[:2]) >= least
    assert np.array_equal(crop[inner.slices], picture[box.slices])
    assert crop.shape[0] <= max(height, least) and crop.shape[1] <= max(width, least)


def test_ssim_grows_with_the_damage_and_looks_only_at_the_box(image: np.ndarray) -> None:
    metric = load_metric(CurationSection(metric="ssim"))
    slight, strong, elsewhere = image.copy(), image.copy(), image.copy()
    slight[BOX.slices] = slight[BOX.slices] // 2 + 60
    strong[BOX.slices] = 255 - strong[BOX.slices]
    elsewhere[90:] = 0
    distances = [metric.distance(image, other, BOX) for other in (image, elsewhere, slight, strong)]
    assert distances[0] == distances[1] == 0
    assert 0.02 < distances[2] < distances[3]


def test_lpips_with_configured_weights(image: np.ndarray, alexnet: Path) -> None:
    metric = load_metric(CurationSection(metric="lpips", lpips_weights=str(alexnet), device="cpu"))
    other = image.copy()
    other[BOX.slices] = 255 - other[BOX.slices]
    assert metric.name == "lpips" and metric.window == (0.5, 0.9)
    assert metric.distance(image, image, BOX) == 0 < metric.distance(image, other, BOX)


def test_lpips_takes_every_convolution_from_the_file(alexnet: Path) -> None:
    from safetensors.torch import load_file

    metric = load_metric(CurationSection(metric="lpips", lpips_weights=str(alexnet), device="cpu"))
    given_weights = load_file(alexnet)
    loaded = metric._model.net.state_dict()
    assert len(loaded) == len(given_weights) == 10
    for name, value in loaded.items():
        assert torch.equal(value, given_weights[f"features.{name.split('.', 1)[1]}"])


def test_there_is_no_silent_fallback(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lpips_weights"):
        load_metric(CurationSection(metric="lpips"))
    with pytest.raises(ValueError, match="no such file"):
        load_metric(CurationSection(metric="lpips", lpips_weights=str(tmp_path / "none.safetensors")))
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="lacks features.0"):
        load_metric(CurationSection(metric="lpips", lpips_weights=str(tmp_path / "other.safetensors")))


def test_the_window_is_one_of_similarity() -> None:
    assert [window_reason(d, (0.5, 0.9)) for d in (0.05, 0.1, 0.3, 0.5, 0.51)] == [
        "too_similar", None, None, None, "too_damaged",
    ]  # fmt: skip

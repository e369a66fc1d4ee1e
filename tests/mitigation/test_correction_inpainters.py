"""Every FLUX inpainting pipeline through the protocol, as a tiny random folder of the real classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from artiagent.checkpoints import checkpoint_ref
from artiagent.config import CorrectionSection
from artiagent.mitigation.inpainters import inpainting_class, open_inpainter
from artiagent.nano.flux_vae import LATENT_CHANNELS
from tests.mitigation.inpainter_folders import CAPTION, write_inpainters

PATCH = 8
SECTION = CorrectionSection(steps=4, strength=0.5, batch=2, threads=1, device="cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_inpainters(tmp_path_factory.mktemp("inpainters"))


def images(count: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    pixels = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    masks = np.zeros((count, height, width), dtype=bool)
    masks[:, 8:20, 10:26] = True
    return pixels, masks


def opened(folders, name: str, **changes):
    section = SECTION.model_copy(update={"base": str(folders / "base")} | changes)
    return open_inpainter(checkpoint_ref(name, str(folders / name)), section)


@pytest.mark.parametrize(
    ("name", "kind", "calls"),
    [
        ("fill", "FluxFillPipeline", 4),
        ("base", "FluxInpaintPipeline", 4),  # half of the steps are left, guidance asks twice
        ("control", "FluxControlNetInpaintPipeline", 2),
    ],
)
def test_a_folder_says_how_it_inpaints(folders, name, kind, calls):
    assert inpainting_class(folders / name) == kind
    painter = opened(folders, name)
    pixels, masks = images(3, 32, 40)
    painted = painter.repaint(pixels, masks, [CAPTION] * 3, [1, 2, 1])
    assert painted.shape == pixels.shape and painted.dtype == np.uint8
    assert painter.calls == calls * len(pixels)
    assert (painted != pixels).any(axis=3)[masks].mean() > 0.5
    again = painter.repaint(pixels[1:2], masks[1:2], [CAPTION], [2])
    other = painter.repaint(pixels[1:2], masks[1:2], [CAPTION], [3])
    assert np.abs(again[0].astype(int) - painted[1]).max() <= 2  # the same noise in any company
    assert (other[0] != again[0]).any()


@pytest.mark.parametrize("name", ["fill", "base"])
def test_sizes_that_are_no_multiple_of_the_patch(folders, name):
    painter = opened(folders, name)
    pixels, masks = images(1, 29, 35)
    assert painter.patch == PATCH
    assert painter.repaint(pixels, masks, [CAPTION], [0]).shape == pixels.shape
    assert painter.reencode(pixels).shape == pixels.shape


def test_what_is_not_a_number_comes_back_black(folders):
    painter = opened(folders, "fill")
    with torch.no_grad():
        painter._pipe.transformer.proj_out.weight.fill_(float("nan"))
    pixels, masks = images(2, 32, 32)
    assert not painter.repaint(pixels, masks, [CAPTION] * 2, [0, 1]).any()


def test_a_bare_controlnet_needs_its_base(folders):
    with pytest.raises(ValueError, match=r"correction\.base"):
        opened(folders, "control", base=None)
    with pytest.raises(ValueError, match="expected a FluxPipeline"):
        opened(folders, "control", base=str(folders / "fill"))


def test_the_sha256_of_a_controlnet_covers_its_base(folders):
    painter = opened(folders, "control")
    assert painter.sha256 != checkpoint_ref("control", str(folders / "control")).sha256


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot inpaint"):
        inpainting_class(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(ValueError, match="StableDiffusionPipeline cannot inpaint; expected FluxFillPipeline"):
        inpainting_class(tmp_path)


def test_the_base_still_generates(folders):
    """What is exported here is a real FluxPipeline, so that the inpainting classes are the real ones as well."""
    assert FluxPipeline.from_pretrained(folders / "base").transformer.config.in_channels == 4 * LATENT_CHANNELS

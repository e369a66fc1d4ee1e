"""Masks from boxes: geometry, batching, and what may be loaded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.modeling import Sam

from artiagent.perception.grounding import sam as module
from artiagent.perception.grounding.sam import PUBLISHED, PUBLISHED_SHA256, SamSegmenter, SamSizes, build_sam, load_sam
from artiagent.store import file_sha256, folder_sha256

TINY = SamSizes(
    image_size=64, patch_size=8, embed_dim=32, depth=2, num_heads=2, global_attention=(1,), window_size=4,
    out_channels=32, decoder_heads=2, decoder_mlp=32, mask_channels=4,
)  # fmt: skip
B_NAME = "sam_vit_b_01ec64.pth"


def random_sam(sizes: SamSizes = TINY) -> Sam:
    """Large enough weights that masks follow image and box."""
    torch.manual_seed(0)
    sam = build_sam(sizes)
    with torch.no_grad():
        for parameter in sam.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2)
    return sam


def write_folder(folder: Path, sizes: SamSizes = TINY) -> Path:
    folder.mkdir(parents=True)
    save_file(
        {name: v.contiguous() for name, v in random_sam(sizes).state_dict().items()}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(sizes.model_dump_json())
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("sam") / "tiny-sam")


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    coarse = [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((5, 8), (9, 4), (8, 8), (3, 2))]
    return [image.repeat(12, 0).repeat(12, 1) for image in coarse]


BOXES = [
    np.array([[4, 6, 40, 30.5], [50, 10, 96, 60]]),
    np.zeros((0, 4)),
    np.array([[0, 0, 96, 96], [10, 20, 30, 40], [60.5, 3, 80, 90]]),
    np.array([[2, 2, 20, 30]]),
]


def test_masks_are_those_of_the_package_s_own_predictor(folder: Path, pictures: list[np.ndarray]) -> None:
    found = SamSegmenter(str(folder), device="cpu").segment(pictures, BOXES)
    predictor = SamPredictor(load_sam(folder).eval())
    for image, boxes, masks in zip(pictures, BOXES, found, strict=True):
        assert masks.shape == (len(boxes), *image.shape[:2]) and masks.dtype == bool
        predictor.set_image(image)
        for box, mask in zip(boxes, masks, strict=True):
            expected = predictor.predict(box=box, multimask_output=False)[0][0]
            assert (mask != expected).mean() < 0.001
    shares = [mask.mean() for masks in found for mask in masks]
    assert 0.02 < np.mean(shares) < 0.98 and len({round(float(share), 4) for share in shares}) > 3


@pytest.mark.parametrize("batch", [1, 3])
def test_masks_do_not_depend_on_the_batch(folder: Path, pictures: list[np.ndarray], batch: int) -> None:
    whole = SamSegmenter(str(folder), device="cpu", batch=4).segment(pictures, BOXES)
    other = SamSegmenter(str(folder), device="cpu", batch=batch).segment(pictures, BOXES)
    alone = [SamSegmenter(str(folder), device="cpu").segment([pictures[2]], [BOXES[2][k : k + 1]])[0] for k in range(3)]
    for masks, again in zip(whole, other, strict=True):
        assert (masks != again).mean() < 0.001 if masks.size else masks.shape == again.shape
    assert (whole[2] != np.concatenate(alone)).mean() < 0.001


def test_one_image_pass_per_image_and_one_decoder_pass_for_all_its_boxes(
    folder: Path, pictures: list[np.ndarray]
) -> None:
    segmenter = SamSegmenter(str(folder), device="cpu", batch=2)
    encoded, decoded = [], []
    segmenter.sam.image_encoder.register_forward_pre_hook(lambda _, given: encoded.append(len(given[0])))
    segmenter.sam.mask_decoder.register_forward_hook(lambda _, __, result: decoded.append(len(result[0])))
    segmenter.segment(pictures, BOXES)
    assert encoded == [2, 1]  # the image without boxes is not looked at
    assert decoded == [2, 3, 1]


class PaintsTheBox(torch.nn.Module):
    """In the decoder's place: logits are positive inside the box that the prompt encoder was given."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.side, self.low = sam.image_encoder.img_size, 4 * sam.prompt_encoder.image_embedding_size[0]
        sam.prompt_encoder.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, _: torch.nn.Module, __: tuple, given: dict) -> None:
        self.boxes = given["boxes"]

    def forward(self, **_: object) -> tuple[torch.Tensor, torch.Tensor]:
        middles = (torch.arange(self.low) + 0.5) * self.side / self.low
        x0, y0, x1, y1 = (edge[:, None] for edge in self.boxes.T)
        across, down = ((middles > low) & (middles < high) for low, high in ((x0, x1), (y0, y1)))
        inside = (down[:, :, None] & across[:, None, :]).float()
        return inside[:, None] * 2 - 1, torch.ones(len(self.boxes), 1)


@pytest.mark.parametrize("size", [(96, 200), (200, 96), (64, 64), (40, 30)])
def test_a_box_is_x_before_y_in_pixels_of_any_image(folder: Path, size: tuple[int, int]) -> None:
    segmenter = SamSegmenter(str(folder), device="cpu")
    segmenter.sam.mask_decoder = PaintsTheBox(segmenter.sam)
    height, width = size
    box = np.array([[0.1 * width, 0.5 * height, 0.4 * width, height]])
    (mask,) = segmenter.segment([np.zeros((*size, 3), np.uint8)], [box])
    rows, columns = np.nonzero(mask[0])
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert np.abs(found - box[0]).max() <= 2 + max(size) / 64  # a cell of the low-resolution mask


def test_bfloat16_changes_little(folder: Path, pictures: list[np.ndarray]) -> None:
    plain, half = (
        SamSegmenter(str(folder), device="cpu", dtype=d).segment(pictures, BOXES) for d in ("float32", "bfloat16")
    )
    assert np.mean([(a != b).mean() for a, b in zip(plain, half, strict=True) if a.size]) < 0.1


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_are_those_of_the_package(name: str) -> None:
    with torch.device("meta"):
        theirs = sam_model_registry["_".join(name.split("_")[1:3])]().state_dict()
        ours = build_sam(PUBLISHED[name]).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


def test_a_published_file_is_checked_and_read_by_its_name(
    tmp_path: Path, folder: Path, pictures: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / B_NAME
    torch.save(load_sam(folder).state_dict(), file)
    with pytest.raises(ValueError, match=f"{file_sha256(file)}.*published.*{PUBLISHED_SHA256[B_NAME]}"):
        SamSegmenter(str(file), device="cpu")
    monkeypatch.setitem(module.PUBLISHED_SHA256, B_NAME, file_sha256(file))
    with pytest.raises(ValueError, match="do not fit the architecture of sam_vit_b"):
        monkeypatch.setitem(module.PUBLISHED, B_NAME, TINY.model_copy(update={"depth": 3}))
        SamSegmenter(str(file), device="cpu")
    monkeypatch.setitem(module.PUBLISHED, B_NAME, TINY)
    again = SamSegmenter(str(file), device="cpu").segment(pictures, BOXES)
    expected = SamSegmenter(str(folder), device="cpu").segment(pictures, BOXES)
    assert all((a == b).all() for a, b in zip(again, expected, strict=True))


def test_code_in_a_checkpoint_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / B_NAME
    torch.save({"mask": Trap(tmp_path / "ran")}, file)
    monkeypatch.setitem(module.PUBLISHED_SHA256, B_NAME, file_sha256(file))
    with pytest.raises(Exception, match="[Ww]eights.only"):
        SamSegmenter(str(file), device="cpu")
    assert not (tmp_path / "ran").exists()


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_the_configured_digest_is_held(folder: Path) -> None:
    assert SamSegmenter(str(folder), sha256=folder_sha256(folder).upper(), device="cpu").name == "sam:tiny-sam"
    with pytest.raises(ValueError, match=rf"{folder_sha256(folder)}.*configured.*abc123.*segmenter_sha256"):
        SamSegmenter(str(folder), sha256="abc123", device="cpu")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "config.json is missing"),
        ({"model_type": "sam2"}, "'sam2'.*perception.grounding=transformers"),
        ([], "perception.grounding=transformers"),
        ({**TINY.model_dump(), "depth": "many"}, "not the sizes of a Sam.*depth"),
        ({**TINY.model_dump(), "colour": 1}, "not the sizes of a Sam.*colour"),
        (TINY.model_dump(), "model.safetensors is missing"),
    ],
)
def test_a_wrong_folder_is_named(tmp_path: Path, config: object, message: str) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"(?s){message}"):
        SamSegmenter(str(tmp_path), device="cpu")


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "sam")
    (tmp_path / "sam" / "config.json").write_text(TINY.model_copy(update={"embed_dim": 64}).model_dump_json())
    with pytest.raises(ValueError, match="do not fit the architecture"):
        SamSegmenter(str(tmp_path / "sam"), device="cpu")


def test_a_file_under_another_name_has_no_architecture(tmp_path: Path) -> None:
    (tmp_path / "sam.pth").write_bytes(b"")
    with pytest.raises(ValueError, match="published name.*sam_vit_h_4b8939.pth"):
        SamSegmenter(str(tmp_path / "sam.pth"), device="cpu")


def test_images_and_boxes_go_in_pairs(folder: Path, pictures: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match="4 images for 1 lists"):
        SamSegmenter(str(folder), device="cpu").segment(pictures, BOXES[:1])
    with pytest.raises(ValueError, match="batch 0"):
        SamSegmenter(str(folder), device="cpu", batch=0)
    assert SamSegmenter(str(folder), device="cpu").segment([], []) == []

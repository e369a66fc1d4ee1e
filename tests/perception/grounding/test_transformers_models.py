"""Grounding DINO, SAM 2 and SAM 3 of transformers with small random weights: folders, batches, coordinates, colours."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertTokenizer

from artiagent.config import DetectionSection
from artiagent.perception.grounding.dino import DinoDetector
from artiagent.perception.grounding.sam3 import Sam3Detector
from artiagent.perception.grounding.transformers_models import Sam2Segmenter, TransformersDino

RED = np.zeros((48, 64, 3), dtype=np.uint8)
RED[..., 0] = 255


@pytest.fixture
def boxes() -> list[np.ndarray]:
    """Of each image of ``noise``: two, none, more than one call of the decoder takes, one."""
    many = [[x, y, x + 20, y + 20] for x in range(10) for y in range(7)]
    return [
        np.array(b, dtype=float).reshape(-1, 4) for b in ([[3, 4, 30, 40], [0, 0, 80, 60]], [], many, [[0, 0, 50, 50]])
    ]


@pytest.fixture
def sam2(sam2_folder: Path, everything: DetectionSection) -> Sam2Segmenter:
    return Sam2Segmenter(sam2_folder, everything)


@pytest.fixture
def sam3(sam3_folder: Path, everything: DetectionSection) -> Sam3Detector:
    return Sam3Detector(sam3_folder, everything.model_copy(update={"batch": 2}))


def test_grounding_dino_batches_change_nothing(
    transformers_dino_folder: Path, everything: DetectionSection, noise: list[np.ndarray], terms: list[list[str]]
) -> None:
    detector = DinoDetector(TransformersDino(transformers_dino_folder), everything)
    assert detector.name == f"grounding-dino:{transformers_dino_folder.name}"
    for image, names, found in zip(noise, terms, detector.detect(noise, terms), strict=True):
        (alone,) = detector.detect([image], [names])
        assert {d.phrase for d in found} <= set(names) and len(found) == 12
        assert [d.phrase for d in alone] == [d.phrase for d in found]
        assert np.allclose([d.box for d in alone], [d.box for d in found], atol=1e-3)
        assert np.allclose([d.score for d in alone], [d.score for d in found], atol=1e-5)


def test_grounding_dino_refuses_a_tokenizer_with_other_separators(
    transformers_dino_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(transformers_dino_folder, tmp_path / "folder")
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, ".": 5, "?": 6}
    BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    with pytest.raises(ValueError, match="separators are tokens .*'.': 5.*expects .*1012"):
        TransformersDino(folder)


def test_networks_are_given_red_green_blue(
    transformers_dino_folder: Path, sam2: Sam2Segmenter, sam3: Sam3Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The colour convention: the first channel of what enters a network is the red one, normalised as in training."""
    imagenet = [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    dino = TransformersDino(transformers_dino_folder).prepare(RED)
    assert dino.mean(dim=(1, 2)).tolist() == pytest.approx(imagenet, abs=1e-4)
    assert entering(sam2.model, "get_image_embeddings", lambda: sam2.segment([RED], [np.array([[0, 0, 9, 9]])])) == (
        pytest.approx(imagenet, abs=1e-4)
    )
    assert entering(sam3.model, "get_vision_features", lambda: sam3.detect([RED], [["dog"]])) == pytest.approx(
        [1, -1, -1]
    )


def test_sam2_batches_change_nothing(sam2: Sam2Segmenter, noise: list[np.ndarray], boxes: list[np.ndarray]) -> None:
    masks = sam2.segment(noise, boxes)
    assert [m.shape for m in masks] == [(len(b), *i.shape[:2]) for i, b in zip(noise, boxes, strict=True)]
    assert len(boxes[2]) > 64 and all(m.dtype == bool for m in masks)
    for image, of_image, mask in zip(noise, boxes, masks, strict=True):
        assert np.mean(sam2.segment([image], [of_image])[0] != mask) < 0.001 if len(of_image) else mask.size == 0
        for number in range(0, len(of_image), 13):
            assert np.mean(sam2.segment([image], [of_image[[number]]])[0] != mask[number]) < 0.001
    assert np.mean(masks[0][0] != masks[0][1]) > 0.01  # masks follow their boxes


def test_sam2_encodes_an_image_once(sam2: Sam2Segmenter, noise: list[np.ndarray], boxes: list[np.ndarray]) -> None:
    seen: list[int] = []
    sam2.model.vision_encoder.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    prompts: list[tuple[int, ...]] = []
    sam2.model.prompt_encoder.register_forward_pre_hook(
        lambda _, __, inputs: prompts.append(tuple(inputs["input_boxes"].shape)), with_kwargs=True
    )
    sam2.segment(noise, boxes)
    assert seen == [3]  # the image without boxes is not encoded
    assert prompts == [(1, 2, 4), (1, 64, 4), (1, 6, 4), (1, 1, 4)]


def test_sam2_is_given_boxes_in_its_own_square(sam2: Sam2Segmenter) -> None:
    """x counts along the width: (16, 12, 48, 24) of 64 x 48 px are (16, 16, 48, 32) of 64 x 64."""
    given: list[list[float]] = []
    sam2.model.prompt_encoder.register_forward_pre_hook(
        lambda _, __, inputs: given.extend(inputs["input_boxes"][0].tolist()), with_kwargs=True
    )
    sam2.segment([RED], [np.array([[16, 12, 48, 24]])])
    assert given == [[16, 16, 48, 32]]


def test_sam2_in_bfloat16_differs_little(
    sam2: Sam2Segmenter,
    sam2_folder: Path,
    everything: DetectionSection,
    noise: list[np.ndarray],
    boxes: list[np.ndarray],
) -> None:
    narrow = Sam2Segmenter(sam2_folder, everything.model_copy(update={"dtype": "bfloat16"}))
    pairs = zip(sam2.segment(noise, boxes), narrow.segment(noise, boxes), strict=True)
    assert all(np.mean(wide != found) < 0.05 for wide, found in pairs if wide.size)


def test_sam3_batches_change_nothing(sam3: Sam3Detector, noise: list[np.ndarray], terms: list[list[str]]) -> None:
    for image, names, found in zip(noise, terms, sam3.detect(noise, terms), strict=True):
        assert [d.phrase for d in found] == [name for name in names for _ in range(6)]
        assert {d.mask.shape for d in found} == {image.shape[:2]}
        for name in names:
            (alone,) = sam3.detect([image], [[name]])
            same = [d for d in found if d.phrase == name]
            assert np.allclose([d.box for d in alone], [d.box for d in same], atol=1e-3)
            assert np.allclose([d.score for d in alone], [d.score for d in same], atol=1e-5)
            assert max(np.mean(a.mask != b.mask) for a, b in zip(alone, same, strict=True)) < 0.001
    first, second = (sam3.detect(noise[:1], [[name]])[0] for name in ("dog", "tail"))
    assert not np.allclose([d.score for d in first], [d.score for d in second], atol=1e-4)  # the text is heard


def test_sam3_agrees_with_its_processor(sam3: Sam3Detector, noise: list[np.ndarray]) -> None:
    """The library's own post-processing, for one image and term."""
    inputs = sam3.processor(images=noise[:1], return_tensors="pt") | dict(
        sam3.tokenizer(["dog"], padding="max_length", max_length=32, return_tensors="pt")
    )
    with torch.inference_mode():
        outputs = sam3.model(pixel_values=inputs["pixel_values"], input_ids=inputs["input_ids"],
                             attention_mask=inputs["attention_mask"])  # fmt: skip
    (theirs,) = sam3.processor.post_process_instance_segmentation(outputs, threshold=-1, target_sizes=[(60, 80)])
    (ours,) = sam3.detect(noise[:1], [["dog"]])
    assert np.allclose([d.box for d in ours], theirs["boxes"].numpy(), atol=1e-3)
    assert np.allclose([d.score for d in ours], theirs["scores"].numpy(), atol=1e-6)
    assert np.mean(np.stack([d.mask for d in ours]) != theirs["masks"].numpy().astype(bool)) < 0.001


def test_sam3_encodes_an_image_once_and_drops_weak_instances(
    sam3_folder: Path, everything: DetectionSection, noise: list[np.ndarray]
) -> None:
    every = Sam3Detector(sam3_folder, everything)
    seen: list[int] = []
    every.model.vision_encoder.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    (found, nothing) = every.detect(noise[:2], [["dog", "cat", "tail", "arm", "dog"], []])
    assert seen == [1] and nothing == [] and len(found) == 24
    scores = sorted(d.score for d in found)
    threshold = (scores[11] + scores[12]) / 2
    strict = Sam3Detector(sam3_folder, everything.model_copy(update={"box_threshold": threshold}))
    assert sorted(d.score for d in strict.detect(noise[:1], [["dog", "cat", "tail", "arm"]])[0]) == scores[12:]


def test_sam3_in_bfloat16_computes(
    sam3: Sam3Detector, sam3_folder: Path, everything: DetectionSection, noise: list[np.ndarray]
) -> None:
    narrow = Sam3Detector(sam3_folder, everything.model_copy(update={"dtype": "bfloat16"}))
    (wide,), (found,) = (d.detect(noise[:1], [["dog"]]) for d in (sam3, narrow))
    assert 0 < np.abs(np.array([d.score for d in wide]) - [d.score for d in found]).max() < 0.1


def test_folders_that_lack_something_are_named(sam2_folder: Path, tmp_path: Path, everything: DetectionSection) -> None:
    with pytest.raises(ValueError, match="no config.json"):
        Sam2Segmenter(tmp_path, everything)
    with pytest.raises(ValueError, match="type 'sam2'; expected grounding-dino or"):
        TransformersDino(sam2_folder)
    folder = shutil.copytree(sam2_folder, tmp_path / "partial")
    weights = load_file(folder / "model.safetensors")
    del weights["no_memory_embedding"], weights["prompt_encoder.no_mask_embed.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="partial: lacks the weights 'no_memory_embedding' and 1 more of Sam2Model"):
        Sam2Segmenter(folder, everything)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="Sam2Model cannot be read"):
        Sam2Segmenter(folder, everything)


def test_folders_of_the_video_models_are_read(sam2_folder: Path, tmp_path: Path, everything: DetectionSection) -> None:
    """Published folders say ``sam2_video``."""
    folder = shutil.copytree(sam2_folder, tmp_path / "video")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "sam2_video"}))
    one = np.array([[3, 4, 30, 40]])
    masks = [Sam2Segmenter(place, everything).segment([RED], [one])[0] for place in (sam2_folder, folder)]
    assert np.array_equal(*masks)


def entering(model: torch.nn.Module, method: str, call: object) -> list[float]:
    """Mean of each channel of the pixels with which ``call`` enters ``model.method``."""
    means: list[float] = []
    original = getattr(model, method)

    def noting(pixels: torch.Tensor) -> object:
        means.extend(pixels.mean(dim=(0, 2, 3)).tolist())
        return original(pixels)

    setattr(model, method, noting)
    call()
    return means

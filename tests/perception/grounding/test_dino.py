"""Batches, padding and coordinates of Grounding DINO, with a network written by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import BertTokenizer

from artiagent.config import DetectionSection
from artiagent.perception.grounding import Detection
from artiagent.perception.grounding.dino import DinoDetector

BOXES = [[0.5, 0.5, 1.0, 1.0], [0.25, 0.75, 0.5, 0.5]]  # the whole image; its lower left quarter


class KnownNetwork:
    """Answers ``BOXES`` for every image: the first for token 1, the second for token 3; notes what it was given."""

    name, most_tokens = "known", 256

    def __init__(self, tokenizer: BertTokenizer) -> None:
        self.tokenizer = tokenizer
        self.calls: list[tuple[Tensor, Tensor, list[str]]] = []

    def prepare(self, image: np.ndarray) -> Tensor:
        return torch.from_numpy(image).permute(2, 0, 1).float()

    def to(self, device: torch.device) -> KnownNetwork:
        assert device.type == "cpu"
        return self

    def forward(self, pixels: Tensor, padding: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        self.calls.append((pixels, padding, list(texts)))
        logits = torch.full((len(texts), 2, 6), -torch.inf)
        logits[:, 0, 1], logits[:, 1, 3] = 2.0, 1.0
        return logits, torch.tensor(BOXES).expand(len(texts), -1, -1)


@pytest.fixture
def network(bert_tokenizer: BertTokenizer) -> KnownNetwork:
    return KnownNetwork(bert_tokenizer)


def test_boxes_are_pixels_of_the_image_as_it_was_given(network: KnownNetwork) -> None:
    """(cx, cy, w, h) in shares of the sides -> (x0, y0, x1, y1), x along the width; padding does not count."""
    detector = DinoDetector(network, DetectionSection(device="cpu", threads=1))
    wide, tall = np.zeros((40, 100, 3), dtype=np.uint8), np.zeros((60, 20, 3), dtype=np.uint8)
    strong, weak = (pytest.approx(1 / (1 + np.exp(-logit))) for logit in (2.0, 1.0))
    assert detector.detect([wide, tall], [["dog", "tail"], ["tail", "dog"]]) == [
        [Detection("dog", (0, 0, 100, 40), strong), Detection("tail", (0, 20, 50, 40), weak)],
        [Detection("tail", (0, 0, 20, 60), strong), Detection("dog", (0, 30, 10, 60), weak)],
    ]


def test_only_equal_canvases_share_a_batch_and_padding_is_marked(network: KnownNetwork) -> None:
    detector = DinoDetector(network, DetectionSection(device="cpu", threads=1, batch=2))
    shapes = [(40, 90), (64, 96), (33, 65), (90, 40)]  # three of 64 x 96, one of 96 x 64
    images = [np.full((*shape, 3), 7, dtype=np.uint8) for shape in shapes]
    found = detector.detect(images, [["dog", "cat"]] * 4)
    assert [box_sides(of_image[0]) for of_image in found] == shapes  # everybody gets his own
    assert [tuple(pixels.shape) for pixels, _, _ in network.calls] == [(2, 3, 64, 96), (1, 3, 64, 96), (1, 3, 96, 64)]
    seen = [(p, m) for pixels, padding, _ in network.calls for p, m in zip(pixels, padding, strict=True)]
    for (height, width), (pixels, padding) in zip(shapes, seen, strict=True):
        assert not padding[:height, :width].any() and padding.sum() == padding.numel() - height * width
        assert (pixels[:, ~padding] == 7).all() and (pixels[:, padding] == 0).all()


def test_every_row_has_its_own_caption(network: KnownNetwork) -> None:
    detector = DinoDetector(network, DetectionSection(device="cpu", threads=1))
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    detector.detect([image, image, image], [["dog", "cat"], [], ["dog tail", "arm"]])
    assert [texts for _, _, texts in network.calls] == [["dog . cat .", "dog tail . arm ."]]  # no terms, no pass
    with pytest.raises(ValueError, match="1 images for 2 lists of terms"):
        detector.detect([image], [["dog"], ["cat"]])


def box_sides(detection: Detection) -> tuple[int, int]:
    x0, y0, x1, y1 = detection.box
    return round(y1 - y0), round(x1 - x0)

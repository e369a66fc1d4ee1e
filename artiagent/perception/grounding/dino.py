"""Grounding DINO as a `Detector`: the same captions, batches and coordinates for either implementation of the network.

Knows how images and captions are batched and how outputs become boxes in pixels. Does not know weights or classes of
either implementation: see ``dino_package`` (groundingdino-py) and ``transformers_models``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from artiagent.config import DetectionSection
from artiagent.devices import torch_device, torch_dtype, use_threads
from artiagent.perception.grounding import Detection
from artiagent.perception.grounding.phrases import Caption, captions, name_boxes

CANVAS = 32  # both sides of a canvas are multiples of so many pixels, the last stride of the backbone


class DinoNetwork(Protocol):
    """One implementation of the network. ``name`` goes into every scene, ``most_tokens`` bounds a caption."""

    name: str
    tokenizer: PreTrainedTokenizerBase
    most_tokens: int

    def prepare(self, image: np.ndarray) -> Tensor:
        """uint8 [H, W, 3] RGB -> float [3, h, w], RGB too, scaled and normalised as in training."""
        ...

    def to(self, device: torch.device) -> DinoNetwork: ...

    def forward(self, pixels: Tensor, padding: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """One pass over B images with a caption each.

        Args:
            pixels: float [B, 3, h, w].
            padding: bool [B, h, w], True where there is no image.

        Returns:
            Logits [B, Q, T] over the caption's tokens, and boxes [B, Q, 4] (cx, cy, w, h) in shares of the image's
            sides, padding left out.
        """
        ...


class _Row(NamedTuple):
    image: int
    caption: Caption


class DinoDetector:
    """Boxes of named things by Grounding DINO.

    Which images share a batch changes nothing beyond rounding: an image lies on a canvas whose size follows from its
    own, and only equal canvases are batched. (The backbone's windows see the padding, although everything after it is
    masked: images padded to the largest of a batch would depend on their neighbours.)

    Args:
        network: an implementation with weights.
        section: thresholds, device, number type (``bfloat16``: autocast), rows per forward pass.
    """

    def __init__(self, network: DinoNetwork, section: DetectionSection) -> None:
        use_threads(section.threads)
        self.name = network.name
        self.section = section
        self.device = torch_device(section.device)
        self.dtype = torch_dtype(section.dtype)
        self.network = network.to(self.device)

    def detect(self, images: Sequence[np.ndarray], terms: Sequence[Sequence[str]]) -> list[list[Detection]]:
        """Boxes of every term of an image's list, caption by caption. Those that no term can be named for have the
        phrase "". Boxes may reach beyond the image.

        Args:
            images: uint8 [H, W, 3] RGB of any sizes.
            terms: nouns per image.
        """
        if len(images) != len(terms):
            raise ValueError(f"{len(images)} images for {len(terms)} lists of terms; expected one list per image")
        rows = [
            _Row(number, caption)
            for number, names in enumerate(terms)
            for caption in captions(names, self.network.tokenizer, self.network.most_tokens)
        ]
        prepared = [self.network.prepare(image) for image in images]
        found: list[list[Detection]] = [[] for _ in images]
        answers: dict[int, list[Detection]] = {}
        for batch in self._batches([prepared[row.image] for row in rows]):
            activations, boxes = self._run(
                [prepared[rows[n].image] for n in batch], [rows[n].caption.text for n in batch]
            )
            for n, activation, box in zip(batch, activations, boxes, strict=True):
                answers[n] = self._read(rows[n].caption, activation, box, images[rows[n].image].shape[:2])
        for n, row in enumerate(rows):
            found[row.image] += answers[n]
        return found

    def _batches(self, prepared: Sequence[Tensor]) -> Iterator[list[int]]:
        """Numbers of the rows that go together: equal canvases, at most ``section.batch``."""
        alike: dict[tuple[int, int], list[int]] = defaultdict(list)
        for number, image in enumerate(prepared):
            alike[canvas(image)].append(number)
        for numbers in alike.values():
            for start in range(0, len(numbers), self.section.batch):
                yield numbers[start : start + self.section.batch]

    def _run(self, prepared: Sequence[Tensor], texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Activations [B, Q, T] in 0..1 and boxes [B, Q, 4] (cx, cy, w, h), in shares of the image's sides."""
        height, width = canvas(prepared[0])
        pixels = torch.zeros(len(prepared), 3, height, width)
        padding = torch.ones(len(prepared), height, width, dtype=torch.bool)
        for n, image in enumerate(prepared):
            pixels[n, :, : image.shape[1], : image.shape[2]] = image
            padding[n, : image.shape[1], : image.shape[2]] = False
        narrow = torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)
        with torch.inference_mode(), narrow:
            logits, boxes = self.network.forward(pixels.to(self.device), padding.to(self.device), texts)
        if logits.isnan().any() or boxes.isnan().any():
            raise ValueError(
                f"{self.name}: the network's output is not a number; set perception.detection.dtype: float32"
            )
        return logits.float().sigmoid().cpu().numpy(), boxes.float().cpu().numpy()

    def _read(
        self, caption: Caption, activations: np.ndarray, boxes: np.ndarray, size: tuple[int, int]
    ) -> list[Detection]:
        height, width = size
        scale = np.array([width, height, width, height], dtype=float)
        half = boxes[:, 2:] / 2
        corners = np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1) * scale
        named = name_boxes(caption, activations, self.section.box_threshold, self.section.text_threshold)
        return [Detection(n.term, tuple(corners[n.query].tolist()), n.score) for n in named]


def canvas(image: Tensor) -> tuple[int, int]:
    """(height, width) on which a prepared image [3, h, w] lies, at the top left."""
    height, width = image.shape[1:]
    return -(-height // CANVAS) * CANVAS, -(-width // CANVAS) * CANVAS

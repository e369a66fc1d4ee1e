"""Grounding DINO and SAM 2 as transformers has them: boxes of named things, masks of boxes.

Knows which classes read which folders and how their inputs and outputs are scaled. Does not know captions, phrases,
thresholds or suppression. A folder (or snapshot of the hub) holds configuration, safetensors weights, image processor
and, for Grounding DINO, a tokenizer. SAM 3 is in ``sam3``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    AutoTokenizer,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    MMGroundingDinoForObjectDetection,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Sam2ImageProcessor,
    Sam2Model,
)

from artiagent.checkpoints import model_name
from artiagent.config import DetectionSection
from artiagent.devices import torch_device, torch_dtype, use_threads
from artiagent.perception.grounding.phrases import MOST_TOKENS

DINO_TYPES = {
    "grounding-dino": GroundingDinoForObjectDetection,
    "mm-grounding-dino": MMGroundingDinoForObjectDetection,
}
SAM2_TYPES = ("sam2", "sam2_video")  # published folders are the video model's, which contains the image model
SEPARATORS = {"[CLS]": 101, "[SEP]": 102, ".": 1012, "?": 1029}  # fixed in the models' code
BOXES_PER_CALL = 64  # of the mask decoder, whose memory grows with boxes; nearly every image needs one call


class TransformersDino:
    """The `DinoNetwork` of transformers, in float32.

    Args:
        folder: of ``GroundingDinoForObjectDetection`` or ``MMGroundingDinoForObjectDetection``.

    Raises ValueError for another model, and for a tokenizer whose separators have not BERT's numbers: the model's code
    looks for these.
    """

    def __init__(self, folder: Path) -> None:
        kind = model_type(folder, *DINO_TYPES)
        self.name = f"{kind}:{model_name(str(folder))}"
        self.tokenizer: PreTrainedTokenizerBase = read(AutoTokenizer, folder)
        numbers = dict(zip(SEPARATORS, self.tokenizer.convert_tokens_to_ids(list(SEPARATORS)), strict=True))
        if numbers != SEPARATORS:
            raise ValueError(f"{folder}: separators are tokens {numbers}, the model's code expects {SEPARATORS}")
        self._processor = read(GroundingDinoImageProcessor, folder)
        self.model = read_model(DINO_TYPES[kind], folder)
        self.most_tokens = min(MOST_TOKENS, self.model.config.max_text_len)

    def prepare(self, image: np.ndarray) -> Tensor:
        return self._processor(images=Image.fromarray(image), do_pad=False, return_tensors="pt")["pixel_values"][0]

    def to(self, device: torch.device) -> TransformersDino:
        self.model.to(device)
        return self

    def forward(self, pixels: Tensor, padding: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        inputs = self.tokenizer(list(texts), padding=True, return_tensors="pt").to(pixels.device)
        outputs = self.model(pixel_values=pixels, pixel_mask=(~padding).long(), **inputs)
        return outputs.logits, outputs.pred_boxes


class Sam2Segmenter:
    """Masks from boxes by SAM 2.

    An image is encoded once, and all its boxes go through the mask decoder together. ``bfloat16`` is for the encoder
    alone: the decoder's coordinates would lose whole pixels.

    Args:
        folder: of ``Sam2Model``, or of the video model that contains it.
        section: device, number type (``bfloat16``: autocast), images per forward pass.
    """

    def __init__(self, folder: Path, section: DetectionSection) -> None:
        model_type(folder, *SAM2_TYPES)
        use_threads(section.threads)
        self.name = f"sam2:{model_name(str(folder))}"
        self.batch = section.batch
        self.device, self.dtype = torch_device(section.device), torch_dtype(section.dtype)
        self.processor = read(Sam2ImageProcessor, folder)
        self.model = read_model(Sam2Model, folder).to(self.device)

    def segment(self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Masks bool [n, H, W] for the boxes float [n, 4] of every image uint8 [H, W, 3] RGB; n may be 0."""
        if len(images) != len(boxes):
            raise ValueError(f"{len(images)} images for {len(boxes)} arrays of boxes; expected one array per image")
        masks = [np.zeros((0, *image.shape[:2]), dtype=bool) for image in images]
        wanted = [n for n, of_image in enumerate(boxes) if len(of_image)]
        with torch.inference_mode():
            for start in range(0, len(wanted), self.batch):
                numbers = wanted[start : start + self.batch]
                for n, levels in zip(numbers, self._encode([images[n] for n in numbers]), strict=True):
                    masks[n] = self._decode(levels, boxes[n], images[n].shape[:2])
        return masks

    def _encode(self, images: Sequence[np.ndarray]) -> Iterator[list[Tensor]]:
        """Embeddings [1, C, h, w] of each level, image by image."""
        inputs = self.processor(images=[Image.fromarray(image) for image in images], return_tensors="pt")
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            levels = self.model.get_image_embeddings(inputs["pixel_values"].to(self.device))
        for n in range(len(images)):
            yield [level[n : n + 1].float() for level in levels]

    def _decode(self, levels: list[Tensor], boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        height, width = size
        seen = self.processor.size  # both sides are scaled apart: the network sees a square
        scale = np.array([seen.width / width, seen.height / height] * 2, dtype=np.float32)
        prompts = torch.from_numpy(np.asarray(boxes, dtype=np.float32) * scale).to(self.device)
        masks = []
        for part in prompts.split(BOXES_PER_CALL):
            outputs = self.model(image_embeddings=levels, input_boxes=part[None], multimask_output=False)
            logits = F.interpolate(outputs.pred_masks[0].float(), size, mode="bilinear", align_corners=False)
            masks.append((logits[:, 0] > 0).cpu().numpy())
        return np.concatenate(masks)


def read(kind: Any, folder: Path, **options: Any) -> Any:
    """``from_pretrained`` of a local folder. Raises ValueError naming it when something is missing or unreadable."""
    try:
        return kind.from_pretrained(folder, local_files_only=True, **options)
    except OSError as error:
        raise ValueError(f"{folder}: {kind.__name__} cannot be read: {error}") from error


def read_model(kind: type[PreTrainedModel], folder: Path) -> PreTrainedModel:
    """A model in float32 and evaluation mode. Raises ValueError when the folder lacks some of its weights, which
    transformers alone would fill with random numbers."""
    options = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
    model, info = read(kind, folder, **options)
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ValueError(f"{folder}: lacks the weights {missing[0]!r} and {len(missing) - 1} more of {kind.__name__}")
    return model.eval()


def model_type(folder: Path, *expected: str) -> str:
    """``model_type`` of a transformers folder. Raises ValueError when it is none of ``expected``."""
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder}: no config.json; expected a transformers folder ({' or '.join(expected)})")
    found = json.loads(path.read_bytes()).get("model_type")
    if found not in expected:
        raise ValueError(f"{folder}: a model of type {found!r}; expected {' or '.join(expected)}")
    return str(found)

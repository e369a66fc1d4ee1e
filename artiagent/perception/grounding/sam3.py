"""SAM 3: text -> instances with masks, without a separate detector and segmenter.

Knows how terms and images meet in one pass and how outputs are scaled. Does not know suppression or linking. It is a
`Detector` whose detections carry their masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import AutoTokenizer, Sam3ImageProcessor, Sam3Model
from transformers.models.sam3.modeling_sam3 import Sam3ImageSegmentationOutput, Sam3VisionEncoderOutput

from artiagent.checkpoints import model_name
from artiagent.config import DetectionSection
from artiagent.devices import torch_device, torch_dtype, use_threads
from artiagent.perception.grounding import MaskedDetection
from artiagent.perception.grounding.transformers_models import model_type, read, read_model

SAM3_TYPES = ("sam3", "sam3_video")  # the published folder is the video model's, which contains the image model
MASK_THRESHOLD = 0.5


class Sam3Detector:
    """Boxes and masks of named things by SAM 3.

    An image is encoded once; its terms are asked together. ``bfloat16`` is for the image encoder alone.

    Args:
        folder: of ``Sam3Model`` (or the video model that contains it), with image processor and tokenizer.
        section: threshold (``box_threshold``), device, number type (``bfloat16``: autocast), images and terms per
            forward pass.
    """

    def __init__(self, folder: Path, section: DetectionSection) -> None:
        model_type(folder, *SAM3_TYPES)
        use_threads(section.threads)
        self.name = f"sam3:{model_name(str(folder))}"
        self.batch, self.threshold = section.batch, section.box_threshold
        self.device, self.dtype = torch_device(section.device), torch_dtype(section.dtype)
        self.processor, self.tokenizer = read(Sam3ImageProcessor, folder), read(AutoTokenizer, folder)
        self.model = read_model(Sam3Model, folder).to(self.device)
        self.most_tokens = self.model.config.text_config.max_position_embeddings

    def detect(self, images: Sequence[np.ndarray], terms: Sequence[Sequence[str]]) -> list[list[MaskedDetection]]:
        """Instances of every term of an image's list, term by term.

        Args:
            images: uint8 [H, W, 3] RGB of any sizes.
            terms: nouns per image; a repeated one is asked once.
        """
        if len(images) != len(terms):
            raise ValueError(f"{len(images)} images for {len(terms)} lists of terms; expected one list per image")
        found: list[list[MaskedDetection]] = [[] for _ in images]
        wanted = [n for n, names in enumerate(terms) if names]
        with torch.inference_mode():
            for start in range(0, len(wanted), self.batch):
                numbers = wanted[start : start + self.batch]
                for n, seen in zip(numbers, self._encode([images[n] for n in numbers]), strict=True):
                    found[n] = list(self._find(seen, list(dict.fromkeys(terms[n])), images[n].shape[:2]))
        return found

    def _encode(self, images: Sequence[np.ndarray]) -> Iterator[Sam3VisionEncoderOutput]:
        """What the network sees of each image, as a batch of one."""
        inputs = self.processor(images=[Image.fromarray(image) for image in images], return_tensors="pt")
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            seen = self.model.get_vision_features(inputs["pixel_values"].to(self.device))
        for n in range(len(images)):
            yield Sam3VisionEncoderOutput(
                fpn_hidden_states=tuple(level[n : n + 1].float() for level in seen.fpn_hidden_states),
                fpn_position_encoding=tuple(level[:1].float() for level in seen.fpn_position_encoding),
            )

    def _find(
        self, seen: Sam3VisionEncoderOutput, terms: Sequence[str], size: tuple[int, int]
    ) -> Iterator[MaskedDetection]:
        for start in range(0, len(terms), self.batch):
            asked = terms[start : start + self.batch]
            inputs = self.tokenizer(
                list(asked), padding="max_length", max_length=self.most_tokens, truncation=True, return_tensors="pt"
            ).to(self.device)
            outputs = self.model(
                vision_embeds=_repeated(seen, len(asked)),
                input_ids=inputs.input_ids, attention_mask=inputs.attention_mask,
            )  # fmt: skip
            for n, term in enumerate(asked):
                yield from self._read(outputs, n, term, size)

    def _read(
        self, outputs: Sam3ImageSegmentationOutput, n: int, term: str, size: tuple[int, int]
    ) -> Iterator[MaskedDetection]:
        """Instances of the n-th term: an instance's score times the probability that there is any."""
        height, width = size
        scores = outputs.pred_logits[n].sigmoid() * outputs.presence_logits[n].sigmoid()
        kept = scores >= self.threshold
        if not kept.any():
            return
        shares = F.interpolate(outputs.pred_masks[n, kept].sigmoid()[None], size, mode="bilinear", align_corners=False)
        masks = (shares[0] > MASK_THRESHOLD).cpu().numpy()
        boxes = outputs.pred_boxes[n, kept].cpu().double().numpy() * np.array([width, height, width, height])
        for score, box, mask in zip(scores[kept].tolist(), boxes.tolist(), masks, strict=True):
            yield MaskedDetection(term, tuple(box), score, mask)


def _repeated(seen: Sam3VisionEncoderOutput, times: int) -> Sam3VisionEncoderOutput:
    """One image as a batch of ``times``, without a copy."""
    levels, places = (
        tuple(level.expand(times, *level.shape[1:]) for level in several)
        for several in (seen.fpn_hidden_states, seen.fpn_position_encoding)
    )
    return Sam3VisionEncoderOutput(fpn_hidden_states=levels, fpn_position_encoding=places)

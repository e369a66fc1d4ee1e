"""Model families: what fine-tuning must know about a checkpoint beyond transformers' own classes.

Knows which modules are the vision encoder and which connect it to the language model, how an image budget in pixels is
set, how many tokens an image becomes, and which layers are sharded as one. Does not know weights or training. Another
family is one more entry of `FAMILIES` and of `artiagent.instruction.coordinates.CONVENTIONS`.

All of them end a turn with the tokenizer's end-of-sequence token and expand the image's placeholder in the first
question, which is all that `collate` asks of a chat template.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoProcessor, ProcessorMixin

from artiagent.instruction.coordinates import CONVENTIONS, Convention


@dataclass(frozen=True)
class ModelFamily:
    """One architecture as transformers builds it.

    Attributes:
        name: as people write it.
        model_type: of ``config.json``.
        processor: class of its processor.
        vision: attribute of the inner model that holds the vision encoder; frozen in the first stage.
        projectors: modules between vision encoder and language model, inside the encoder or beside it; always trained.
        layers: classes of the repeated layers, which sharding wraps; those that a checkpoint has.
        budget: sets the most pixels of an image on a processor. Raises ValueError when it cannot be met.
        tokens: image tokens of (processor, width, height in pixels).
    """

    name: str
    model_type: str
    processor: str
    vision: str
    projectors: tuple[str, ...]
    layers: tuple[str, ...]
    budget: Callable[[Any, int], None]
    tokens: Callable[[Any, int, int], int]

    @property
    def coordinates(self) -> Convention:
        """How its boxes are written."""
        return CONVENTIONS[self.processor]

    def is_vision(self, name: str) -> bool:
        """Whether a parameter belongs to the vision encoder; its projector to the language model does not."""
        dotted = f".{name}"
        return f".{self.vision}." in dotted and not any(f".{part}." in dotted for part in self.projectors)

    def load_processor(self, folder: str | Path, image_pixels: int | None) -> ProcessorMixin:
        """The folder's processor with the image budget; None leaves it as it is."""
        processor = AutoProcessor.from_pretrained(folder)
        if type(processor).__name__ != self.processor:
            raise ValueError(
                f"{folder}: its model is {self.name}, but its processor is {type(processor).__name__}, expected "
                f"{self.processor}; complete the folder with the processor of the same checkpoint"
            )
        if image_pixels is not None:
            self.budget(processor, image_pixels)
        return processor


def find_family(model_type: str) -> ModelFamily:
    """Family of a ``model_type``. Raises ValueError naming the known ones."""
    for family in FAMILIES.values():
        if family.model_type == model_type:
            return family
    known = ", ".join(f"{name} ({family.model_type})" for name, family in FAMILIES.items())
    raise ValueError(
        f"model_type {model_type!r}: no family known by it; expected one of {known}"
        + ("; of InternVL take the checkpoint whose name ends in -HF" if "intern" in model_type else "")
    )


def family_of(folder: str | Path) -> ModelFamily:
    """Family of a model folder. Raises ValueError naming the folder when it holds none that is known."""
    config = Path(folder) / "config.json"
    if not config.is_file():
        raise ValueError(f"{folder}: expected a transformers model folder (config.json, safetensors, processor)")
    try:
        return find_family(str(json.loads(config.read_text()).get("model_type")))
    except ValueError as error:
        raise ValueError(f"{config}: {error}") from error


def _pixel_budget(processor: Any, pixels: int) -> None:
    """Qwen scales an image down until it has at most ``longest_edge`` pixels, in spite of the name."""
    image_processor = processor.image_processor
    size, smallest = dict(image_processor.size), (image_processor.patch_size * image_processor.merge_size) ** 2
    if pixels < smallest:
        raise ValueError(f"image budget of {pixels} px: one token shows {smallest} px; raise sft.image_pixels")
    image_processor.size = {**size, "longest_edge": pixels, "shortest_edge": min(size["shortest_edge"], pixels)}


def _merged_patches(processor: Any, width: int, height: int) -> int:
    image_processor = processor.image_processor
    return image_processor.get_number_of_image_patches(height, width, {}) // image_processor.merge_size**2


def _tile_budget(processor: Any, pixels: int) -> None:
    """InternVL cuts an image into tiles of fixed size and adds a thumbnail tile to two or more."""
    size = processor.image_processor.size
    tile = size["height"] * size["width"]
    if pixels < tile:
        raise ValueError(
            f"image budget of {pixels} px: InternVL shows an image as tiles of {tile} px, one at least; "
            "raise sft.image_pixels"
        )
    affordable = pixels // tile
    processor.image_processor.max_patches = affordable - 1 if affordable > 2 else 1


def _tile_tokens(processor: Any, width: int, height: int) -> int:
    tiles = processor.image_processor.get_number_of_image_patches(height, width, {"crop_to_patches": True})
    return tiles * processor.image_seq_length


FAMILIES = {
    "Qwen2.5-VL": ModelFamily(
        name="Qwen2.5-VL", model_type="qwen2_5_vl", processor="Qwen2_5_VLProcessor", vision="visual",
        projectors=("merger",), layers=("Qwen2_5_VLVisionBlock", "Qwen2_5_VLDecoderLayer"),
        budget=_pixel_budget, tokens=_merged_patches,
    ),
    "Qwen3-VL": ModelFamily(
        name="Qwen3-VL", model_type="qwen3_vl", processor="Qwen3VLProcessor", vision="visual",
        projectors=("merger", "deepstack_merger_list"), layers=("Qwen3VLVisionBlock", "Qwen3VLTextDecoderLayer"),
        budget=_pixel_budget, tokens=_merged_patches,
    ),
    # InternVL3 speaks Qwen2, InternVL3.5 Qwen3
    "InternVL": ModelFamily(
        name="InternVL", model_type="internvl", processor="InternVLProcessor", vision="vision_tower",
        projectors=("multi_modal_projector",), layers=("InternVLVisionLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"),
        budget=_tile_budget, tokens=_tile_tokens,
    ),
}  # fmt: skip

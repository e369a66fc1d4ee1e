"""Vision-language architectures by name: the real classes at their published sizes, for measurements without weights.

Numbers are those of each checkpoint's ``config.json``. What such a model says means nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    AutoModelForImageTextToText,
    InternVLConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen3VLConfig,
)

from artiagent.nano.vl_model import build_config, build_tokenizer
from artiagent.synthesis.backbones.architectures import materialise

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Architecture:
    """A named size of a family.

    Attributes:
        config: makes its configuration with a share of the layers, 1 for all.
        image: (configuration, pixels) -> the model's inputs for one square image of at most so many pixels, and the
            number of its tokens. Raises ValueError when the budget is too small for one.
    """

    config: Callable[[float], PreTrainedConfig]
    image: Callable[[Any, int], tuple[Batch, int]]


def empty_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A model whose parameters take no memory yet."""
    from accelerate import init_empty_weights

    with init_empty_weights():
        return AutoModelForImageTextToText.from_config(config)


def random_model(config: PreTrainedConfig, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """Random weights, made in their type on the device."""
    model = empty_model(config)
    materialise(model, dtype, device)
    model.tie_weights()
    return model.to(device).requires_grad_(True)


def layer_counts(config: PreTrainedConfig) -> dict[str, int]:
    """Repeated layers of the language model and of the vision encoder."""
    vision = config.vision_config
    blocks = vision.depth if hasattr(vision, "depth") else vision.num_hidden_layers
    return {"language": config.text_config.num_hidden_layers, "vision": blocks}


def _some(count: int, depth: float) -> int:
    return max(1, round(depth * count))


def _below(indices: list[int], count: int) -> list[int]:
    return [index for index in indices if index < count]


def _qwen25(text: dict[str, Any], depth: float, tied: bool) -> Qwen2_5_VLConfig:
    blocks = _some(32, depth)
    layers = {"num_hidden_layers": _some(text["num_hidden_layers"], depth)}
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    return Qwen2_5_VLConfig(
        text_config=text | layers | {"rope_parameters": rope},
        vision_config={
            "depth": blocks, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "patch_size": 14,
            "window_size": 112, "out_hidden_size": text["hidden_size"],
            "fullatt_block_indexes": _below([7, 15, 23, 31], blocks),
        },
        tie_word_embeddings=tied,
    )  # fmt: skip


def _qwen25_7b(depth: float) -> Qwen2_5_VLConfig:
    text = {
        "vocab_size": 152_064, "hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4,
    }  # fmt: skip
    return _qwen25(text, depth, tied=False)


def _qwen25_3b(depth: float) -> Qwen2_5_VLConfig:
    text = {
        "vocab_size": 151_936, "hidden_size": 2048, "intermediate_size": 11_008, "num_hidden_layers": 36,
        "num_attention_heads": 16, "num_key_value_heads": 2,
    }  # fmt: skip
    return _qwen25(text, depth, tied=True)


_QWEN3_8B = {
    "vocab_size": 151_936, "hidden_size": 4096, "intermediate_size": 12_288, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128,
}  # fmt: skip


def _qwen3_8b(depth: float) -> Qwen3VLConfig:
    blocks = _some(27, depth)
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    return Qwen3VLConfig(
        text_config=_QWEN3_8B | {"num_hidden_layers": _some(36, depth), "rope_parameters": rope},
        vision_config={
            "depth": blocks, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "patch_size": 16,
            "out_hidden_size": 4096, "num_position_embeddings": 2304,
            "deepstack_visual_indexes": _below([8, 16, 24], blocks),
        },
        tie_word_embeddings=False,
    )  # fmt: skip


def _intern_8b(depth: float) -> InternVLConfig:
    rope = {"rope_type": "default", "rope_theta": 1e6}
    layers = {"model_type": "qwen3", "num_hidden_layers": _some(36, depth), "rope_parameters": rope}
    return InternVLConfig(
        text_config=_QWEN3_8B | layers,
        vision_config={
            "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": _some(24, depth),
            "num_attention_heads": 16, "attention_bias": True, "image_size": [448, 448], "patch_size": [14, 14],
        },
        image_token_id=151_671, image_seq_length=256, tie_word_embeddings=False,
    )  # fmt: skip


def _nano(depth: float) -> Qwen2_5_VLConfig:
    return build_config(build_tokenizer(), depth=_some(4, depth))


def _patches(config: Any, pixels: int) -> tuple[Batch, int]:
    """Qwen: as many merged patches as the budget allows; every patch is shown twice, as two frames."""
    vision = config.vision_config
    merge, patch = vision.spatial_merge_size, vision.patch_size
    side = int(pixels**0.5) // (patch * merge) * merge
    if side == 0:
        raise ValueError(f"pixels {pixels}: one token shows {(patch * merge) ** 2}; raise --pixels")
    values = torch.randn(side * side, 3 * vision.temporal_patch_size * patch * patch)
    return {"pixel_values": values, "image_grid_thw": torch.tensor([[1, side, side]])}, side * side // merge**2


def _tiles(config: Any, pixels: int) -> tuple[Batch, int]:
    """InternVL: tiles, and a thumbnail beside two or more."""
    height, width = config.vision_config.image_size
    if (count := pixels // (height * width)) == 0:
        raise ValueError(f"pixels {pixels}: one tile has {height * width}; raise --pixels")
    count = 1 if count == 2 else count
    return {"pixel_values": torch.randn(count, 3, height, width)}, count * config.image_seq_length


ARCHITECTURES = {
    "qwen2.5-vl-7b": Architecture(_qwen25_7b, _patches),
    "qwen2.5-vl-3b": Architecture(_qwen25_3b, _patches),
    "qwen3-vl-8b": Architecture(_qwen3_8b, _patches),
    "internvl3.5-8b": Architecture(_intern_8b, _tiles),
    "nano": Architecture(_nano, _patches),
}

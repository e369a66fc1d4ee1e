"""A tiny model folder of every family: real classes, random weights, a tokenizer and a processor made here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from artiagent.checkpoints import checkpoint_ref
from artiagent.nano.vl_model import CHAT_TEMPLATE, build_model, build_processor, build_tokenizer, save_model
from artiagent.records import CheckpointRef

NAMES = ("Qwen2.5-VL", "Qwen3-VL", "InternVL")
TILE = 32  # px, side of an InternVL tile: 16 tokens
INTERN_TOKENS = {
    "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}  # fmt: skip
INTERN_TEMPLATE = CHAT_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>\\n")
TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 2048, "bos_token_id": None,
}  # fmt: skip


def write_family(name: str, folder: Path) -> CheckpointRef:
    """Model and processor of a family of `NAMES` in ``folder``."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    if name == "Qwen2.5-VL":
        save_model(folder, build_model(tokenizer, hidden=48, vision_hidden=32, depth=1), build_processor(tokenizer))
        return checkpoint_ref("tiny", str(folder))
    model, processor = (_qwen3 if name == "Qwen3-VL" else _intern)(tokenizer)
    ends = {"eos_token_id": processor.tokenizer.eos_token_id, "pad_token_id": processor.tokenizer.pad_token_id}
    model.generation_config.update(do_sample=False, bos_token_id=None, **ends)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return checkpoint_ref("tiny", str(folder))


def _text(tokenizer: Qwen2Tokenizer, **rope: Any) -> dict[str, Any]:
    ids = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return TEXT | ids | {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, **rope}}


def _qwen3(tokenizer: Qwen2Tokenizer) -> tuple[Qwen3VLForConditionalGeneration, Qwen3VLProcessor]:
    layout = {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2}
    size = {"shortest_edge": 32 * 32, "longest_edge": 128 * 128}
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size, **layout),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(size=size, **layout),
        chat_template=CHAT_TEMPLATE,
    )
    names = ("image_pad", "video_pad", "vision_start", "vision_end")
    image, video, start, end = tokenizer.convert_tokens_to_ids([f"<|{name}|>" for name in names])
    config = Qwen3VLConfig(
        text_config=_text(tokenizer, mrope_section=[2, 1, 1], mrope_interleaved=True),
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "patch_size": 8,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 32, "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=image, video_token_id=video, vision_start_token_id=start, vision_end_token_id=end,
        tie_word_embeddings=True,
    )  # fmt: skip
    return Qwen3VLForConditionalGeneration(config), processor


def _intern(tokenizer: Qwen2Tokenizer) -> tuple[InternVLForConditionalGeneration, InternVLProcessor]:
    tokenizer.add_special_tokens({"extra_special_tokens": list(INTERN_TOKENS.values())})
    for name, token in INTERN_TOKENS.items():
        tokenizer._set_model_specific_special_tokens({name: token})
    size = {"height": TILE, "width": TILE}
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=size, crop_to_patches=True, max_patches=4),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=size),
        image_seq_length=16,
        chat_template=INTERN_TEMPLATE,
    )
    config = InternVLConfig(
        text_config={"model_type": "qwen3", **_text(tokenizer)},
        vision_config={
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
            "image_size": [TILE, TILE], "patch_size": [4, 4], "attention_bias": True,
        },
        image_token_id=processor.image_token_id, image_seq_length=16, tie_word_embeddings=True,
    )  # fmt: skip
    return InternVLForConditionalGeneration(config), processor

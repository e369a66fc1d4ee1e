"""Small random networks of the real classes in their real on-disk formats, built once, and images for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertTokenizer

from artiagent.config import DetectionSection
from artiagent.perception.intake import Intake, Transform

WORDS = ("arm", "bear", "cat", "dog", "ear", "face", "hand", "person", "rest", "tail", "wheel", "##chair", "##s")
SPECIAL = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
SIZES = ((60, 80), (80, 60), (61, 80), (50, 50))  # the first and the third share a canvas
TERMS = (("dog", "tail"), ("cat", "dog tail", "arm"), ("bear",), ("dog",))


@pytest.fixture(scope="session")
def bert_tokenizer() -> BertTokenizer:
    """Word pieces of a few nouns; separators have the numbers that they have in bert-base-uncased."""
    free = [number for number in range(1030) if number not in SPECIAL.values()]
    words = [*WORDS, *(f"[unused{n}]" for n in range(len(free) - len(WORDS)))]
    return BertTokenizer(vocab=SPECIAL | dict(zip(words, free, strict=True)))


@pytest.fixture(scope="session")
def bert_config() -> BertConfig:
    return BertConfig(
        vocab_size=1030, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )  # fmt: skip


@pytest.fixture(scope="session")
def dino_folder(
    tmp_path_factory: pytest.TempPathFactory, bert_tokenizer: BertTokenizer, bert_config: BertConfig
) -> Path:
    """groundingdino-py."""
    from safetensors.torch import save_model

    from artiagent.perception.grounding.dino_package import DinoSizes, build_dino

    sizes = DinoSizes(
        swin_width=16, swin_depths=(1, 1, 2, 1), swin_heads=(1, 2, 2, 4), swin_window=4, encoder_layers=1,
        decoder_layers=2, feedforward=64, queries=12, short_side=96, long_side=160,
    )  # fmt: skip
    torch.manual_seed(0)
    model = build_dino(sizes, bert_tokenizer, bert_config)
    for head in (*model.bbox_embed, model.transformer.enc_out_bbox_embed):
        torch.nn.init.normal_(head.layers[-1].weight, std=0.1)  # else all boxes are the grid's
    for layer in model.transformer.encoder.fusion_layers:
        torch.nn.init.ones_(layer.gamma_v), torch.nn.init.ones_(layer.gamma_l)  # else text hardly reaches the image
    torch.nn.init.constant_(model.transformer.decoder.norm.weight, 0.1)  # else every activation is 0 or 1
    folder = tmp_path_factory.mktemp("groundingdino")
    save_model(model, str(folder / "model.safetensors"))
    (folder / "config.json").write_text(sizes.model_dump_json())
    for part in (bert_tokenizer, bert_config):
        part.save_pretrained(folder / "text_encoder")
    return folder


@pytest.fixture(scope="session")
def transformers_dino_folder(
    tmp_path_factory: pytest.TempPathFactory, bert_tokenizer: BertTokenizer, bert_config: BertConfig
) -> Path:
    """``GroundingDinoForObjectDetection``."""
    from transformers import (
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        SwinConfig,
    )

    swin = SwinConfig(
        embed_dim=16, depths=[1, 1, 1], num_heads=[1, 2, 2], window_size=4, out_indices=[2, 3],
        out_features=["stage2", "stage3"],
    )  # fmt: skip
    config = GroundingDinoConfig(
        backbone_config=swin, text_config=bert_config, num_queries=12, encoder_layers=1, decoder_layers=2,
        encoder_ffn_dim=64, decoder_ffn_dim=64, encoder_attention_heads=2, decoder_attention_heads=2, d_model=32,
        num_feature_levels=3,
    )  # fmt: skip
    torch.manual_seed(0)
    return _saved(
        tmp_path_factory.mktemp("grounding-dino"), GroundingDinoForObjectDetection(config), bert_tokenizer,
        GroundingDinoImageProcessor(size={"shortest_edge": 96, "longest_edge": 160}),
    )  # fmt: skip


@pytest.fixture(scope="session")
def sam2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``Sam2Model`` with a Hiera of five blocks, for 64 px."""
    from transformers import Sam2Config, Sam2HieraDetConfig, Sam2ImageProcessor, Sam2Model, Sam2VisionConfig

    hiera = Sam2HieraDetConfig(
        hidden_size=8, image_size=[64, 64], blocks_per_stage=[1, 1, 2, 1], embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 2], window_size_per_stage=[4, 2, 4, 2], global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4],
    )  # fmt: skip
    vision = Sam2VisionConfig(
        backbone_config=hiera, backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=32,
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
    )  # fmt: skip
    config = Sam2Config(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 32, "image_size": 64, "patch_size": 16, "mask_input_channels": 4},
        mask_decoder_config={"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 32},
    )
    torch.manual_seed(0)
    processor = Sam2ImageProcessor(size={"height": 64, "width": 64}, mask_size={"height": 16, "width": 16})
    return _saved(tmp_path_factory.mktemp("sam2"), _louder(Sam2Model(config)), processor)


@pytest.fixture(scope="session")
def sam3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``Sam3Model`` for 112 px with a tokenizer of single letters."""
    from transformers import (
        CLIPTextConfig,
        CLIPTokenizer,
        Sam3Config,
        Sam3ImageProcessor,
        Sam3Model,
        Sam3VisionConfig,
        Sam3ViTConfig,
    )

    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={piece: n for n, piece in enumerate(pieces)}, merges=[])
    text = CLIPTextConfig(
        vocab_size=len(pieces), hidden_size=32, intermediate_size=64, projection_dim=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=32, bos_token_id=52, eos_token_id=53,
    )  # fmt: skip
    vit = Sam3ViTConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=112, patch_size=14,
        window_size=4, global_attn_indexes=[1], pretrain_image_size=56,
    )  # fmt: skip
    vision = Sam3VisionConfig(
        backbone_config=vit, fpn_hidden_size=32, backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]]
    )  # fmt: skip
    small = {"hidden_size": 32, "num_attention_heads": 2}
    layer = {**small, "intermediate_size": 64, "num_layers": 1}
    config = Sam3Config(
        vision_config=vision, text_config=text, geometry_encoder_config=layer, detr_encoder_config=layer,
        detr_decoder_config={**layer, "num_queries": 6}, mask_decoder_config=small,
    )  # fmt: skip
    torch.manual_seed(0)
    processor = Sam3ImageProcessor(size={"height": 112, "width": 112})
    return _saved(tmp_path_factory.mktemp("sam3"), _louder(Sam3Model(config)), processor, tokenizer)


@pytest.fixture(scope="session")
def sam_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """segment-anything."""
    from safetensors.torch import save_file

    from artiagent.perception.grounding.sam import SamSizes, build_sam

    sizes = SamSizes(
        image_size=64, patch_size=8, embed_dim=32, depth=1, num_heads=2, global_attention=(0,), window_size=4,
        out_channels=32, decoder_heads=2, decoder_mlp=32, mask_channels=4,
    )  # fmt: skip
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sam")
    save_file(_louder(build_sam(sizes)).state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(sizes.model_dump_json())
    return folder


@pytest.fixture(scope="session")
def noise() -> list[np.ndarray]:
    """Images of different sizes."""
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]


@pytest.fixture(scope="session")
def terms() -> list[list[str]]:
    """For each of the images, of different numbers."""
    return [list(of_image) for of_image in TERMS]


@pytest.fixture
def everything() -> DetectionSection:
    """A section that keeps every box."""
    return DetectionSection(box_threshold=0, text_threshold=0, device="cpu", threads=1, batch=4)


@pytest.fixture
def taken() -> Callable[[np.ndarray], Intake]:
    """Factory: pixels as they come from intake."""

    def make(pixels: np.ndarray) -> Intake:
        size = pixels.shape[1], pixels.shape[0]
        return Intake(pixels, Transform(size, 1, (0, 0, *size), size, (0, 0, *size)))

    return make


def _louder(model: torch.nn.Module) -> torch.nn.Module:
    """Weights so large that outputs follow images and prompts."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    return model


def _saved(folder: Path, *parts: object) -> Path:
    for part in parts:
        part.save_pretrained(folder)
    return folder

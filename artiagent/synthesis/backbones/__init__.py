"""Rotary diffusion transformers behind one adapter protocol: a change of folder changes the backbone.

FLUX.1-dev, FLUX.1-schnell and nano-FLUX (``FluxPipeline``) and Qwen-Image (``QwenImagePipeline``) have adapters. FLUX.2
would take one of its own: its single-stream blocks fuse the projections of attention and MLP. Stable Diffusion 3.5
cannot have one: it adds its positions to the tokens once, before the first block, so that no block's attention can be
told another position.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from artiagent.config import SynthesisSection
from artiagent.records import CheckpointRef
from artiagent.synthesis.injection import InjectionState, Rotary
from artiagent.synthesis.memory import Size

COMPONENTS = {  # pipeline class -> folders that must be there, with the class of the transformer
    "FluxPipeline": (
        ("scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "transformer", "vae"),
        "FluxTransformer2DModel",
    ),
    "QwenImagePipeline": (
        ("scheduler", "text_encoder", "tokenizer", "transformer", "vae"),
        "QwenImageTransformer2DModel",
    ),
}


class Backbone(Protocol):
    """What the engine needs to know about a model.

    Latents are token sequences, float32 [B, M, C]; a whole picture is row-major on the token grid, M = L. Prompts are
    opaque.
    """

    patch: int  # pixels per token, each way
    device: torch.device
    section: SynthesisSection
    state: InjectionState

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Token grid of an image. Raises ValueError when the size is not a multiple of ``patch``."""

    def schedule(self, steps: int, grid: tuple[int, int]) -> list[float]:
        """Ascending times t_0 = 0 ... t_N = 1."""

    def encode(self, images: np.ndarray) -> torch.Tensor:
        """uint8 [B, H, W, 3] to latents [B, L, C]."""

    def decode(self, latents: torch.Tensor, grid: tuple[int, int]) -> np.ndarray:
        """Latents [B, L, C] to uint8 [B, H, W, 3]."""

    def embed(self, prompts: Sequence[str]) -> list[Any]:
        """Embeddings of prompts, one by one (equal for any company), kept on the CPU."""

    def velocity(self, latents: torch.Tensor, time: float, prompt: Any, grid: tuple[int, int]) -> torch.Tensor:
        """One transformer call on all rows at one time; float32 in and out."""

    def rotary(self, prompt: Any, grid: tuple[int, int]) -> tuple[Rotary, int]:
        """The model's rotary tables [text + L, D] and the number of text tokens."""

    def value_shape(self) -> tuple[int, int, int]:
        """(blocks that take values, heads, head_dim)."""

    def size(self) -> Size:
        """Dimensions and factors that decide about memory."""


def check_folder(folder: Path) -> str:
    """Name of a folder's pipeline class, found without loading weights.

    Raises ValueError when it is no diffusers pipeline, has no adapter, lacks a component or holds another transformer.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        raise ValueError(f"{folder}: not a diffusers pipeline folder (no model_index.json)")
    name = json.loads(index.read_text()).get("_class_name")
    if name not in COMPONENTS:
        raise ValueError(
            f"{folder}: pipeline class {name!r} has no backbone adapter; expected {' or '.join(map(repr, COMPONENTS))}"
        )
    parts, expected = COMPONENTS[name]
    if missing := [part for part in parts if not (folder / part).is_dir() or not any((folder / part).iterdir())]:
        raise ValueError(
            f"{folder}: component {', '.join(missing)} missing; a {name} has {', '.join(parts)}; fetch it again"
        )
    config = folder / "transformer" / "config.json"
    found = json.loads(config.read_text()).get("_class_name") if config.is_file() else "no config.json"
    if found != expected:
        raise ValueError(f"{config}: transformer class {found!r}, but a {name} needs {expected!r}")
    return name


def patch_size(folder: Path) -> int:
    """Pixels per token of a pipeline folder, each way, found without loading weights."""
    check_folder(folder)
    config = json.loads((folder / "vae" / "config.json").read_text())
    halvings = len(config.get("temperal_downsample") or config["block_out_channels"][1:])
    return 2 ** (halvings + 1)


def adapter(name: str) -> Any:
    """The adapter class of a pipeline class."""
    if name == "FluxPipeline":
        from artiagent.synthesis.backbones.flux import FluxBackbone

        return FluxBackbone
    from artiagent.synthesis.backbones.qwen_image import QwenImageBackbone

    return QwenImageBackbone


def load_backbone(ref: CheckpointRef, section: SynthesisSection) -> Backbone:
    """Load the adapter for a diffusers pipeline folder, chosen by its ``model_index.json``. Raises as check_folder."""
    folder = Path(ref.uri)
    return adapter(check_folder(folder)).load(folder, section)

"""Rotary diffusion transformers behind one adapter protocol: a change of folder changes the backbone."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch

from artiagent.records import CheckpointRef
from artiagent.synthesis.injection import InjectionState, Rotary


class Backbone(Protocol):
    """What the engine needs to know about a model.

    Latents are token sequences, float32 [B, L, C], row-major on the token grid; prompts are opaque.
    """

    patch: int  # pixels per token, each way
    state: InjectionState

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Token grid of an image. Raises ValueError when the size is not a multiple of ``patch``."""

    def schedule(self, steps: int, grid: tuple[int, int]) -> list[float]:
        """Ascending times t_0 = 0 ... t_N = 1."""

    def encode(self, images: np.ndarray) -> torch.Tensor:
        """uint8 [B, H, W, 3] to latents."""

    def decode(self, latents: torch.Tensor, grid: tuple[int, int]) -> np.ndarray:
        """Latents to uint8 [B, H, W, 3]."""

    def embed(self, prompt: str) -> Any:
        """Prompt embeddings, computed once per source."""

    def velocity(self, latents: torch.Tensor, time: float, prompt: Any, grid: tuple[int, int]) -> torch.Tensor:
        """One transformer call on all rows at one time; float32 in and out."""

    def rotary(self, prompt: Any, grid: tuple[int, int]) -> tuple[Rotary, int]:
        """The model's rotary tables [text + L, D] and the number of text tokens."""

    def value_shape(self) -> tuple[int, int, int]:
        """(blocks that take values, heads, head_dim)."""


def load_backbone(ref: CheckpointRef, *, device: str, dtype: str, guidance: float, value_blocks: int) -> Backbone:
    """Load the adapter for a diffusers pipeline folder, chosen by its ``model_index.json``.

    Raises ValueError for a folder without one or of a class without an adapter.
    """
    import json
    from pathlib import Path

    index = Path(ref.uri) / "model_index.json"
    if not index.is_file():
        raise ValueError(f"{ref.uri}: not a diffusers pipeline folder (no model_index.json)")
    name = json.loads(index.read_text()).get("_class_name")
    if name != "FluxPipeline":
        raise ValueError(f"{ref.uri}: pipeline class {name!r} has no backbone adapter; expected 'FluxPipeline'")
    from artiagent.synthesis.backbones.flux import FluxBackbone

    return FluxBackbone(Path(ref.uri), device=device, dtype=dtype, guidance=guidance, value_blocks=value_blocks)

"""FLUX.1-dev, FLUX.1-schnell and any folder of their architecture (nano-FLUX) through diffusers' FluxPipeline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxPipeline

from artiagent.devices import quiet_loading, torch_device, torch_dtype
from artiagent.synthesis.injection import InjectionProcessor, InjectionState, Rotary
from artiagent.synthesis.solvers import flux_times, resolution_mu


@dataclass(frozen=True)
class FluxPrompt:
    """Text conditioning of one prompt, batch size 1."""

    embeds: torch.Tensor  # [1, T, D]
    pooled: torch.Tensor  # [1, P]
    ids: torch.Tensor  # [T, 3]

    def rows(self, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.embeds.expand(batch, -1, -1), self.pooled.expand(batch, -1)


class FluxBackbone:
    """Adapter of a FluxPipeline folder; see ``Backbone`` for the contract.

    Positions go to all double-stream blocks and the single-stream blocks before the value window; values go to the last
    ``value_blocks`` single-stream blocks.
    """

    def __init__(self, folder: Path, *, device: str, dtype: str, guidance: float, value_blocks: int) -> None:
        self.device, self.dtype = torch_device(device), torch_dtype(dtype)
        quiet_loading()
        self.pipe = FluxPipeline.from_pretrained(folder, dtype=self.dtype).to(self.device)
        self.pipe.set_progress_bar_config(disable=True)
        self.guidance = guidance
        self.patch = self.pipe.vae_scale_factor * 2
        self.text_limit = int(min(self.pipe.tokenizer_2.model_max_length, 512))
        self.state = InjectionState()
        self._install(value_blocks)

    def _install(self, value_blocks: int) -> None:
        transformer = self.pipe.transformer
        singles = transformer.single_transformer_blocks
        if value_blocks > len(singles):
            raise ValueError(
                f"value_blocks={value_blocks}, but the transformer has {len(singles)} single-stream blocks"
            )
        first_value = len(singles) - value_blocks
        for block in transformer.transformer_blocks:
            block.attn.set_processor(InjectionProcessor(self.state, None, positions=True))
        for i, block in enumerate(singles):
            slot = i - first_value if i >= first_value else None
            block.attn.set_processor(InjectionProcessor(self.state, slot, positions=slot is None))
        self._value_blocks = value_blocks

    def grid(self, height: int, width: int) -> tuple[int, int]:
        if height % self.patch or width % self.patch:
            raise ValueError(f"image of {width}x{height} px: both sides must be multiples of {self.patch} px")
        return height // self.patch, width // self.patch

    def schedule(self, steps: int, grid: tuple[int, int]) -> list[float]:
        config = self.pipe.scheduler.config
        if not config.use_dynamic_shifting:
            return flux_times(steps, None, config.shift)
        tokens = grid[0] * grid[1]
        anchors = (config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift)
        return flux_times(steps, resolution_mu(tokens, *anchors))

    @torch.inference_mode()
    def encode(self, images: np.ndarray) -> torch.Tensor:
        vae = self.pipe.vae
        pixels = torch.from_numpy(images.copy()).to(self.device).permute(0, 3, 1, 2).to(vae.dtype) / 127.5 - 1
        latents = vae.encode(pixels).latent_dist.mode().float()
        latents = (latents - vae.config.shift_factor) * vae.config.scaling_factor
        batch, channels, height, width = latents.shape
        return self.pipe._pack_latents(latents, batch, channels, height, width)

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor, grid: tuple[int, int]) -> np.ndarray:
        vae = self.pipe.vae
        height, width = grid[0] * self.patch, grid[1] * self.patch
        unpacked = self.pipe._unpack_latents(latents, height, width, self.pipe.vae_scale_factor)
        unpacked = unpacked / vae.config.scaling_factor + vae.config.shift_factor
        pixels = vae.decode(unpacked.to(vae.dtype)).sample.float()
        pixels = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).cpu().numpy()

    @torch.inference_mode()
    def embed(self, prompt: str) -> FluxPrompt:
        embeds, pooled, ids = self.pipe.encode_prompt(
            prompt=prompt, prompt_2=prompt, device=self.device, max_sequence_length=self.text_limit
        )
        return FluxPrompt(embeds, pooled, ids)

    @torch.inference_mode()
    def velocity(self, latents: torch.Tensor, time: float, prompt: FluxPrompt, grid: tuple[int, int]) -> torch.Tensor:
        batch = latents.shape[0]
        embeds, pooled = prompt.rows(batch)
        transformer = self.pipe.transformer
        guidance = None
        if transformer.config.guidance_embeds:
            guidance = torch.full((batch,), self.guidance, device=self.device, dtype=torch.float32)
        self.state.calls += 1
        prediction = transformer(
            hidden_states=latents.to(self.dtype),
            timestep=torch.full((batch,), time, device=self.device, dtype=torch.float32),
            guidance=guidance,
            pooled_projections=pooled,
            encoder_hidden_states=embeds,
            txt_ids=prompt.ids,
            img_ids=self._image_ids(grid),
            return_dict=False,
        )[0]
        return prediction.float()

    def rotary(self, prompt: FluxPrompt, grid: tuple[int, int]) -> tuple[Rotary, int]:
        ids = torch.cat([prompt.ids, self._image_ids(grid)])
        return self.pipe.transformer.pos_embed(ids), len(prompt.ids)

    def value_shape(self) -> tuple[int, int, int]:
        config = self.pipe.transformer.config
        return self._value_blocks, config.num_attention_heads, config.attention_head_dim

    def _image_ids(self, grid: tuple[int, int]) -> torch.Tensor:
        # float32: bfloat16 cannot count beyond 256
        return self.pipe._prepare_latent_image_ids(1, *grid, self.device, torch.float32)

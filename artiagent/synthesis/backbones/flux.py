"""FLUX.1-dev, FLUX.1-schnell and any folder of their architecture (nano-FLUX) through diffusers' FluxPipeline."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import FluxTransformer2DModel

from artiagent.synthesis.backbones.base import PipelineBackbone
from artiagent.synthesis.injection import InjectedAttention, Rotary


class FluxInjection(InjectedAttention):
    """Attention of a double-stream or a single-stream FLUX block."""

    def __call__(
        self,
        attn: torch.nn.Module,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: Rotary | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        query, key, value = (_heads(attn, p(hidden_states)) for p in (attn.to_q, attn.to_k, attn.to_v))
        query, key = attn.norm_q(query), attn.norm_k(key)
        if encoder_hidden_states is None:
            return self.attend(query, key, value, image_rotary_emb)
        text = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
        text_q, text_k, text_v = (_heads(attn, p(encoder_hidden_states)) for p in text)
        query = torch.cat([attn.norm_added_q(text_q), query], dim=1)
        key = torch.cat([attn.norm_added_k(text_k), key], dim=1)
        mixed = self.attend(query, key, torch.cat([text_v, value], dim=1), image_rotary_emb)
        split = encoder_hidden_states.shape[1]
        return attn.to_out[1](attn.to_out[0](mixed[:, split:])), attn.to_add_out(mixed[:, :split])


def _heads(attn: torch.nn.Module, projected: torch.Tensor) -> torch.Tensor:
    return projected.unflatten(-1, (-1, attn.head_dim))


@dataclass(frozen=True)
class FluxPrompt:
    """Text conditioning of one prompt, batch size 1."""

    embeds: torch.Tensor  # [1, T, D]
    pooled: torch.Tensor  # [1, P]


class FluxBackbone(PipelineBackbone):
    """Positions go to all double-stream blocks and the single-stream blocks before the value window (or to all,
    ``pe_blocks``); values go to the last share ``value_blocks`` of the single-stream blocks."""

    transformer_class = FluxTransformer2DModel
    encoders = ("text_encoder", "text_encoder_2")
    factors = {"typed": 13, "packed": 14.5, "pixel": 6}

    def _install(self) -> int:
        transformer = self.pipe.transformer
        for block in transformer.transformer_blocks:
            block.attn.set_processor(FluxInjection(self.state, values=False, positions=True))
        return self._install_values(transformer.single_transformer_blocks, FluxInjection)

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        vae = self.pipe.vae
        return (vae.encode(pixels).latent_dist.mode().float() - vae.config.shift_factor) * vae.config.scaling_factor

    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        vae = self.pipe.vae
        return vae.decode((latents / vae.config.scaling_factor + vae.config.shift_factor).to(vae.dtype)).sample

    def _vae_channels(self) -> int:
        return self.pipe.vae.config.block_out_channels[0]

    def _embed(self, prompt: str) -> FluxPrompt:
        limit = int(min(self.pipe.tokenizer_2.model_max_length, 512))
        embeds, pooled, _ = self.pipe.encode_prompt(prompt, prompt, device=self.device, max_sequence_length=limit)
        return FluxPrompt(embeds.cpu(), pooled.cpu())

    def random_prompt(self, tokens: int) -> FluxPrompt:
        config = self.pipe.transformer.config
        embeds = torch.randn(1, tokens, config.joint_attention_dim, dtype=self.dtype)
        return FluxPrompt(embeds, torch.randn(1, config.pooled_projection_dim, dtype=self.dtype))

    def _transform(
        self, latents: torch.Tensor, times: torch.Tensor, prompt: FluxPrompt, grid: tuple[int, int]
    ) -> torch.Tensor:
        guided = self.pipe.transformer.config.guidance_embeds
        return self.pipe.transformer(
            hidden_states=latents,
            timestep=times,
            guidance=torch.full_like(times, self.section.guidance) if guided else None,
            pooled_projections=prompt.pooled.to(self.device).expand(len(latents), -1),
            encoder_hidden_states=prompt.embeds.to(self.device).expand(len(latents), -1, -1),
            txt_ids=self._text_ids(prompt),
            img_ids=self._image_ids(grid),
            return_dict=False,
        )[0]

    def rotary(self, prompt: FluxPrompt, grid: tuple[int, int]) -> tuple[Rotary, int]:
        ids = torch.cat([self._text_ids(prompt), self._image_ids(grid)])
        return self.pipe.transformer.pos_embed(ids), prompt.embeds.shape[1]

    def _text_ids(self, prompt: FluxPrompt) -> torch.Tensor:
        return torch.zeros(prompt.embeds.shape[1], 3, device=self.device)

    def _image_ids(self, grid: tuple[int, int]) -> torch.Tensor:
        # float32: bfloat16 cannot count beyond 256
        return self.pipe._prepare_latent_image_ids(1, *grid, self.device, torch.float32)

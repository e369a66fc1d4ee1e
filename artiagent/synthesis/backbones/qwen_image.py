"""Qwen-Image through diffusers' QwenImagePipeline: dual-stream blocks only, positions centred on the picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import QwenImageTransformer2DModel

from artiagent.synthesis.backbones.base import PipelineBackbone
from artiagent.synthesis.injection import InjectedAttention, Rotary


class QwenInjection(InjectedAttention):
    """Joint attention of a Qwen-Image block."""

    def __call__(
        self,
        attn: torch.nn.Module,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_hidden_states_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        text = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
        image = (attn.to_q, attn.to_k, attn.to_v)
        text_q, text_k, text_v = (_heads(attn, p(encoder_hidden_states)) for p in text)
        image_q, image_k, image_v = (_heads(attn, p(hidden_states)) for p in image)
        query = torch.cat([attn.norm_added_q(text_q), attn.norm_q(image_q)], dim=1)
        key = torch.cat([attn.norm_added_k(text_k), attn.norm_k(image_k)], dim=1)
        mixed = self.attend(query, key, torch.cat([text_v, image_v], dim=1), real_tables(image_rotary_emb))
        split = encoder_hidden_states.shape[1]
        return attn.to_out[1](attn.to_out[0](mixed[:, split:])), attn.to_add_out(mixed[:, :split])


def _heads(attn: torch.nn.Module, projected: torch.Tensor) -> torch.Tensor:
    return projected.unflatten(-1, (-1, attn.inner_dim // attn.heads))


def real_tables(complex_tables: tuple[torch.Tensor, torch.Tensor] | None) -> Rotary | None:
    """The model's complex factors (image [L, D/2], text [T, D/2]) as cos and sin [T + L, D]."""
    if complex_tables is None:
        return None
    image, text = complex_tables
    joint = torch.cat([text, image]).repeat_interleave(2, dim=-1)
    return joint.real.contiguous(), joint.imag.contiguous()


@dataclass(frozen=True)
class QwenPrompt:
    """Text conditioning of one prompt, batch size 1, without padding."""

    embeds: torch.Tensor  # [1, T, D]


class QwenImageBackbone(PipelineBackbone):
    """Values go to the last share ``value_blocks`` of the blocks, positions to those before (or to all, ``pe_blocks``).

    The model's time, guidance-free: ``guidance`` is ignored unless its configuration embeds it.
    """

    transformer_class = QwenImageTransformer2DModel
    encoders = ("text_encoder",)
    factors = {"typed": 11.7, "packed": 12.6, "pixel": 18.1}

    def _install(self) -> int:
        return self._install_values(self.pipe.transformer.transformer_blocks, QwenInjection)

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        mean, std = self._moments()
        latents = self.pipe.vae.encode(pixels[:, :, None]).latent_dist.mode().float()
        return ((latents - mean) / std)[:, :, 0]

    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        mean, std = self._moments()
        vae = self.pipe.vae
        return vae.decode((latents * std + mean).to(vae.dtype)).sample[:, :, 0]

    def _moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        config = self.pipe.vae.config
        return tuple(
            torch.tensor(v, device=self.device).view(1, -1, 1, 1, 1) for v in (config.latents_mean, config.latents_std)
        )

    def _vae_channels(self) -> int:
        return self.pipe.vae.config.base_dim

    def _embed(self, prompt: str) -> QwenPrompt:
        embeds, _ = self.pipe.encode_prompt(prompt, device=self.device)
        return QwenPrompt(embeds.cpu())

    def random_prompt(self, tokens: int) -> QwenPrompt:
        return QwenPrompt(torch.randn(1, tokens, self.pipe.transformer.config.joint_attention_dim, dtype=self.dtype))

    def _transform(
        self, latents: torch.Tensor, times: torch.Tensor, prompt: QwenPrompt, grid: tuple[int, int]
    ) -> torch.Tensor:
        guided = self.pipe.transformer.config.guidance_embeds
        return self.pipe.transformer(
            hidden_states=latents,
            timestep=times,
            guidance=torch.full_like(times, self.section.guidance) if guided else None,
            encoder_hidden_states=prompt.embeds.to(self.device).expand(len(latents), -1, -1),
            img_shapes=[[(1, *grid)]] * len(latents),
            return_dict=False,
        )[0]

    def rotary(self, prompt: QwenPrompt, grid: tuple[int, int]) -> tuple[Rotary, int]:
        tokens = prompt.embeds.shape[1]
        tables = self.pipe.transformer.pos_embed([[(1, *grid)]], max_txt_seq_len=tokens, device=self.device)
        return real_tables(tables), tokens

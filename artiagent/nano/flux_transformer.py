"""Stage B of nano-FLUX: rectified flow on cached latents, transformer and both text encoders trained together.

FLUX's sign convention: `x_t = (1 - t) data + t noise`, the network predicts `noise - data`, t runs from 0 (image) to 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, T5EncoderModel

from artiagent.nano.flux_text import WIDTH, build_clip_encoder, build_t5_encoder
from artiagent.nano.loop import Progress, Schedule, fit

TIME_SHIFT = 0.5  # mu of FLUX's dynamic shift at 256 image tokens
CAPTION_DROPOUT = 0.1


@dataclass(frozen=True)
class LatentCache:
    """Encoded scenes: packed latents float16 [N, L, C], token ids [N, 32] of captions and [1, 32] of no caption."""

    latents: Tensor
    clip_ids: Tensor
    t5_ids: Tensor
    empty_clip: Tensor
    empty_t5: Tensor
    side: int


def pack(latents: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H/2 * W/2, 4C]: FLUX's 2x2 packing, tokens in row-major order."""
    batch, channels, height, width = latents.shape
    blocks = latents.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return blocks.reshape(batch, height // 2 * width // 2, channels * 4)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """[B, L, 4C] -> [B, C, height, width], the inverse of `pack`; `height * width == 4 L`."""
    batch, _, channels = tokens.shape
    blocks = tokens.reshape(batch, height // 2, width // 2, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return blocks.reshape(batch, channels // 4, height, width)


def position_ids(rows: int, columns: int) -> Tensor:
    """Rotary ids [rows * columns, 3] of the image tokens: (0, row, column)."""
    grid = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()
    return torch.cat([torch.zeros(len(grid), 1), grid], dim=1)


def build_transformer(
    channels: int, *, conditions: int = 0, double: int = 2, single: int = 4
) -> FluxTransformer2DModel:
    """4 heads x 32, rotary axes (8, 12, 12), `channels` per packed token; modulation and output start at zero.

    `conditions`: channels that come in beside the token and do not come out, as a repair's mask and masked picture.
    """
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=channels + conditions,
        out_channels=channels,
        num_layers=double,
        num_single_layers=single,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=False,
        axes_dims_rope=(8, 12, 12),
    )
    for name, module in transformer.named_modules():
        # With zero gates each block starts as the identity, which lets the high learning rate of a short run hold.
        if isinstance(module, nn.Linear) and (name.endswith((".linear", "norm_out.linear")) or name == "proj_out"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return transformer


class TextConditionedFlow(nn.Module):
    """The three networks of a FluxPipeline that learn in stage B, called as the pipeline calls them."""

    def __init__(self, transformer: FluxTransformer2DModel, clip: CLIPTextModel, t5: T5EncoderModel):
        super().__init__()
        self.transformer, self.text_encoder, self.text_encoder_2 = transformer, clip, t5

    def forward(self, tokens: Tensor, time: Tensor, clip_ids: Tensor, t5_ids: Tensor, side: int) -> Tensor:
        """Velocity [B, L, C] at `tokens` [B, L, C] and `time` [B] in 0..1, for a square grid of `side` x `side`."""
        return self.velocity(tokens, time, self.read(clip_ids, t5_ids), side)

    def read(self, clip_ids: Tensor, t5_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled text [B, D] of CLIP and token states [B, T, D] of T5."""
        return self.text_encoder(clip_ids).pooler_output, self.text_encoder_2(t5_ids)[0]

    def velocity(self, tokens: Tensor, time: Tensor, text: tuple[Tensor, Tensor], side: int) -> Tensor:
        """As `forward`, for text that was `read` before."""
        pooled, states = text
        return self.transformer(
            hidden_states=tokens,
            timestep=time,
            pooled_projections=pooled,
            encoder_hidden_states=states,
            txt_ids=torch.zeros(states.shape[1], 3, device=tokens.device),
            img_ids=position_ids(side, side).to(tokens.device),
            return_dict=False,
        )[0]


def draw_times(count: int, generator: torch.Generator) -> Tensor:
    """Logit-normal times [count] in (0, 1) under FLUX's shift, `t = e^mu u / (1 + (e^mu - 1) u)`."""
    logits = torch.randn(count, generator=generator, device=generator.device)
    return torch.sigmoid(logits + TIME_SHIFT)


def velocity_loss(
    flow: TextConditionedFlow,
    cache: LatentCache,
    index: Tensor,
    generator: torch.Generator,
    *,
    condition: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Mean squared error of the velocity on the scenes `index` [B], with caption dropout; scalar.

    `condition` [B, L, K] goes in beside the noisy tokens, `weights` [B, L, 1] say how much a token counts.
    """
    device, drawn_on = flow.transformer.device, generator.device
    data = cache.latents[index].float()
    noise = torch.randn(data.shape, generator=generator, device=drawn_on)
    time = draw_times(len(index), generator)
    dropped = torch.rand(len(index), 1, generator=generator, device=drawn_on) < CAPTION_DROPOUT
    clip_ids = torch.where(dropped, cache.empty_clip, cache.clip_ids[index])
    t5_ids = torch.where(dropped, cache.empty_t5, cache.t5_ids[index])
    share = time[:, None, None]
    tokens = (1 - share) * data + share * noise
    seen = tokens if condition is None else torch.cat([tokens, condition.to(tokens)], -1)
    predicted = flow(*(value.to(device) for value in (seen, time, clip_ids, t5_ids)), cache.side)
    return weighted_error(predicted.float(), (noise - data).to(device), weights)


def weighted_error(predicted: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared error of [B, L, C], tokens weighted by [B, L, 1]; scalar."""
    if weights is None:
        return F.mse_loss(predicted, target)
    return (weights * (predicted - target).square()).mean() / weights.mean()


def train_flow(
    flow: TextConditionedFlow,
    cache: LatentCache,
    held_out: LatentCache,
    schedule: Schedule,
    checkpoint: Path,
    *,
    seed: int,
    autocast: bool,
    on_export: Callable[[TextConditionedFlow, Progress], None],
) -> tuple[TextConditionedFlow, Progress]:
    """Train in place; after each checkpoint measures the held-out loss and offers the EMA model to `on_export`."""
    device = flow.transformer.device.type

    def loss_of(model: nn.Module, generator: torch.Generator, fraction: float) -> Tensor:
        index = torch.randint(len(cache.latents), (schedule.batch,), generator=generator)
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            return velocity_loss(model, cache, index, generator)

    def on_save(ema: nn.Module, progress: Progress) -> dict[str, float]:
        on_export(ema, progress)
        return {"held_out_loss": round(held_out_loss(ema, held_out), 5)}

    return fit(flow, loss_of, schedule, checkpoint, seed=seed, label="transformer", on_save=on_save)


@torch.no_grad()
def held_out_loss(flow: TextConditionedFlow, cache: LatentCache) -> float:
    """Velocity loss on all scenes of `cache` with fixed times and noise, so that values are comparable over time."""
    generator = torch.Generator(cache.latents.device).manual_seed(0)
    chunks = torch.arange(len(cache.latents), device=cache.latents.device).split(32)
    losses = [velocity_loss(flow, cache, index, generator) * len(index) for index in chunks]
    return float(sum(losses)) / len(cache.latents)


def build_flow(clip_tokenizer, t5_tokenizer, channels: int, seed: int, **sizes: int) -> TextConditionedFlow:
    """Fresh transformer and text encoders for packed tokens of `channels`, initialised from `seed`.

    `sizes`: keywords of `build_transformer`.
    """
    torch.manual_seed(seed)
    return TextConditionedFlow(
        build_transformer(channels, **sizes), build_clip_encoder(clip_tokenizer), build_t5_encoder(t5_tokenizer)
    )


def adopt(flow: TextConditionedFlow, folder: Path) -> TextConditionedFlow:
    """Give `flow` the weights of a FluxPipeline folder of the same width; blocks that it has besides stay as they are.

    Fresh blocks are the identity, so that a deeper `flow` begins as what the folder holds. Returns `flow`. Raises
    ValueError where shapes differ or `flow` is shallower.
    """
    parts = TextConditionedFlow(
        FluxTransformer2DModel.from_pretrained(folder, subfolder="transformer"),
        CLIPTextModel.from_pretrained(folder, subfolder="text_encoder"),
        T5EncoderModel.from_pretrained(folder, subfolder="text_encoder_2"),
    )
    own, given = flow.state_dict(), parts.state_dict()
    unfit = [name for name, value in given.items() if name not in own or own[name].shape != value.shape]
    if unfit:
        raise ValueError(f"{folder}: {unfit[0]} has no place of its shape in this recipe; choose its width and depth")
    flow.load_state_dict(own | given)
    return flow

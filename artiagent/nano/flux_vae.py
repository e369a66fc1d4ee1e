"""Autoencoder of nano-FLUX: `AutoencoderKL` with three blocks, so that a latent cell is 4 px and a FLUX token 8 px.

Without mid attention a decoded pixel depends on its neighbourhood, and on the rest only through the group norms.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from artiagent.nano.loop import Progress, Schedule, fit

CHANNELS = (16, 32, 64)
LATENT_CHANNELS = 8
CROP = 64
KL_WEIGHT = 5e-4


def build_vae(channels: tuple[int, ...] = CHANNELS, size: int = 128) -> AutoencoderKL:
    """A KL autoencoder with factor 2 ** (len(channels) - 1); `size` px is recorded as its native side."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=size,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
        force_upcast=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )


def to_unit(images: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W] in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float().div(127.5).sub(1)


def to_bytes(pictures: Tensor) -> Tensor:
    """float [B, 3, H, W] in [-1, 1] -> uint8 [B, H, W, 3]."""
    return pictures.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def reconstruction_loss(decoded: Tensor, target: Tensor) -> Tensor:
    """L1 plus L1 of the horizontal and vertical differences at scales 1, 2 and 4, which keeps edges sharp."""
    loss = F.l1_loss(decoded, target)
    for _ in range(3):
        for axis in (-1, -2):
            loss = loss + 0.5 * F.l1_loss(decoded.diff(dim=axis), target.diff(dim=axis))
        decoded, target = F.avg_pool2d(decoded, 2), F.avg_pool2d(target, 2)
    return loss


def psnr(left: Tensor, right: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 tensors of equal shape."""
    error = (left.float() - right.float()).square().mean()
    return float(10 * torch.log10(255.0**2 / error.clamp_min(1e-8)))


@torch.no_grad()
def encode_latents(vae: AutoencoderKL, images: Tensor, batch: int = 16) -> Tensor:
    """uint8 [B, H, W, 3] -> float32 latents [B, C, H/4, W/4], shifted and scaled to unit deviation."""
    device = vae.device
    parts = [vae.encode(to_unit(chunk.to(device))).latent_dist.mode() for chunk in images.split(batch)]
    return (torch.cat(parts) - vae.config.shift_factor) * vae.config.scaling_factor


@torch.no_grad()
def decode_latents(vae: AutoencoderKL, latents: Tensor, batch: int = 16) -> Tensor:
    """Latents as `encode_latents` gives them -> uint8 [B, H, W, 3]."""
    raw = latents / vae.config.scaling_factor + vae.config.shift_factor
    return torch.cat([to_bytes(vae.decode(chunk).sample) for chunk in raw.split(batch)])


def encode_path(folder: Path | str) -> Callable[[np.ndarray], np.ndarray]:
    """The nano-FLUX encode path: a function uint8 [B, H, W, 3] -> uint8 [B, H, W, 3], one VAE round trip.

    Benchmark images of both classes pass through it, so that the codec's fingerprint tells nothing. Sides are
    multiples of 4 px; the function raises ValueError for anything else.
    """
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae", dtype=torch.float32).eval()

    def round_trip(images: np.ndarray) -> np.ndarray:
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise ValueError(f"expected uint8 [B, H, W, 3], got {images.dtype} {images.shape}")
        if images.shape[1] % factor or images.shape[2] % factor:
            raise ValueError(f"image sides {images.shape[1:3]} must be multiples of {factor} px; resize or pad first")
        return decode_latents(vae, encode_latents(vae, torch.from_numpy(images))).cpu().numpy()

    return round_trip


def train_vae(
    images: Tensor,
    held_out: Tensor,
    schedule: Schedule,
    checkpoint: Path,
    *,
    channels: tuple[int, ...] = CHANNELS,
    seed: int = 0,
    device: str = "cpu",
    autocast: bool = False,
) -> tuple[AutoencoderKL, Progress]:
    """Train on random crops, in the last quarter on whole pictures; returns the EMA model with measured statistics.

    `images`, `held_out`: uint8 [N, H, W, 3]; shift and scale are measured on `images`. Crops give four times the
    variety per second; whole pictures at the end set the group norms to the statistics that they meet afterwards.
    """
    torch.manual_seed(seed)
    vae = build_vae(channels, size=images.shape[1]).to(device)

    def loss_of(model: nn.Module, generator: torch.Generator, fraction: float) -> Tensor:
        whole = fraction > 0.75
        count = max(1, schedule.batch // 4) if whole else schedule.batch
        target = _draw(images, generator, count, images.shape[1] if whole else CROP).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            posterior = model.encode(target).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
            decoded = model.decode(posterior.mean + posterior.std * noise).sample
        divergence = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        return reconstruction_loss(decoded.float(), target) + KL_WEIGHT * divergence

    def on_save(ema: nn.Module, progress: Progress) -> dict[str, float]:
        return {"psnr": round(psnr(held_out, _round_trip(ema, held_out)), 2)}

    ema, progress = fit(vae, loss_of, schedule, checkpoint, seed=seed, label="autoencoder", on_save=on_save)
    set_statistics(ema, images[:512])
    return ema, progress


def _draw(images: Tensor, generator: torch.Generator, count: int, side: int) -> Tensor:
    side = min(side, images.shape[1])
    index = torch.randint(len(images), (count,), generator=generator).tolist()
    corners = torch.randint(images.shape[1] - side + 1, (count, 2), generator=generator).tolist()
    crops = [images[i, y : y + side, x : x + side] for i, (y, x) in zip(index, corners, strict=True)]
    return to_unit(torch.stack(crops))


def _round_trip(vae: AutoencoderKL, images: Tensor) -> Tensor:
    return decode_latents(vae, encode_latents(vae, images)).cpu()


def set_statistics(vae: AutoencoderKL, images: Tensor) -> None:
    """Set shift and scale so that the latents of `images` have zero mean and unit deviation, as FLUX expects."""
    vae.register_to_config(shift_factor=0.0, scaling_factor=1.0)
    latents = encode_latents(vae, images)
    vae.register_to_config(shift_factor=float(latents.mean()), scaling_factor=float(1 / latents.std()))

"""What a repair network sees beside the noise: a random mask over a scene, the masked picture in latents, the mask.

The layout is that of `diffusers.FluxFillPipeline`: a token's channels are its latents, the masked picture's latents and
the mask's pixels. A masked pixel is 1 in the mask and mid-grey, that is 0, in the picture.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from artiagent.nano.flux_transformer import TextConditionedFlow, pack
from artiagent.nano.flux_vae import to_unit

# How often a mask is of a kind. Several part boxes at once and boxes that miss the part come from a fault detector.
SHARES = {"part": 0.2, "dilated part": 0.35, "entity": 0.15, "rectangle": 0.1, "several parts": 0.15, "all": 0.05}
OUTSIDE_WEIGHT = 0.25  # of the loss where nothing is masked: there the network only has to copy


def draw_masks(parts: Tensor, entities: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """bool [B, size, size], true where to repaint; kinds by `SHARES`.

    `parts` [B, P, 4] and `entities` [B, E, 4] hold boxes of the scenes in px (left, top, right, bottom); the generator
    is on their device.
    """
    count, device = len(parts), parts.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator, device=device)

    shares = torch.tensor(list(SHARES.values()), device=device)
    kind = torch.multinomial(shares, count, replacement=True, generator=generator)
    named = {name: (kind == number)[:, None, None] for number, name in enumerate(SHARES)}
    some = _choose(parts, (uniform(3) * parts.shape[1]).long())  # [B, 3, 4]
    boxes = torch.where(named["part"], _widened(some, uniform(3, 4) * 0.05, 2.0), _widened(some, _reach(uniform), 1.0))
    whole = _choose(entities, (uniform(3) * entities.shape[1]).long())
    boxes = torch.where(named["entity"], _widened(whole, uniform(3, 4) * 0.15, 1.0), boxes)
    middle, sides = uniform(3, 2) * size, 12 + uniform(3, 2) * (size * 0.6)
    boxes = torch.where(named["rectangle"], torch.cat([middle - sides / 2, middle + sides / 2], -1), boxes)
    boxes = torch.where(named["all"], boxes.new_tensor([0, 0, size, size]), boxes)
    # A single box three times over unless several are wanted.
    boxes = torch.where(named["several parts"], boxes, boxes[:, :1])
    return boxes_to_masks(boxes, size)


def _reach(uniform) -> Tensor:
    """How far each side of a dilated box moves out, in shares of the box: 10 to 80 %, mostly less than half."""
    return 0.1 + 0.7 * uniform(3, 4) * uniform(3, 1)


def _choose(boxes: Tensor, columns: Tensor) -> Tensor:
    return boxes.gather(1, columns[..., None].expand(-1, -1, 4)).float()


def _widened(boxes: Tensor, shares: Tensor, pixels: float) -> Tensor:
    """Each side of [B, K, 4] moved out by a share of the box and `pixels`."""
    extent = (boxes[..., 2:] - boxes[..., :2]).repeat(1, 1, 2)
    outwards = boxes.new_tensor([-1, -1, 1, 1])
    return boxes + outwards * (shares * extent + pixels)


def boxes_to_masks(boxes: Tensor, size: int) -> Tensor:
    """[B, K, 4] in px -> bool [B, size, size], true in any of a row's boxes."""
    along = torch.arange(size, device=boxes.device) + 0.5
    left, top, right, bottom = (boxes[..., side, None] for side in range(4))
    columns = (along >= left) & (along < right)  # [B, K, size]
    rows = (along >= top) & (along < bottom)
    return (rows[..., :, None] & columns[..., None, :]).any(1)


def pack_mask(masks: Tensor, factor: int) -> Tensor:
    """bool [B, H, W] -> float [B, tokens, 4 factor^2]: a latent cell's pixels become channels, then FLUX packing."""
    count, height, width = masks.shape
    cells = masks.float().view(count, height // factor, factor, width // factor, factor).permute(0, 2, 4, 1, 3)
    return pack(cells.reshape(count, factor**2, height // factor, width // factor))


@torch.no_grad()
def fill_condition(vae: AutoencoderKL, images: Tensor, masks: Tensor, generator: torch.Generator) -> Tensor:
    """uint8 [B, H, W, 3] and bool [B, H, W] -> [B, tokens, C + 4 factor^2], as FluxFillPipeline builds it.

    Like the pipeline it samples the masked picture's latents. All on the device of the autoencoder.
    """
    posterior = vae.encode(to_unit(images) * ~masks[:, None]).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator, device=generator.device).to(posterior.mean)
    latents = (posterior.mean + posterior.std * noise - vae.config.shift_factor) * vae.config.scaling_factor
    return torch.cat([pack(latents), pack_mask(masks, 2 ** (len(vae.config.block_out_channels) - 1))], dim=-1)


def fill_weights(condition: Tensor, channels: int) -> Tensor:
    """Loss weight [B, tokens, 1] of each token: its masked share, at least `OUTSIDE_WEIGHT`; `channels` of a latent."""
    return OUTSIDE_WEIGHT + (1 - OUTSIDE_WEIGHT) * condition[..., channels:].mean(-1, keepdim=True)


@torch.no_grad()
def start_from(fill: TextConditionedFlow, base: TextConditionedFlow) -> TextConditionedFlow:
    """Give `fill` the weights of `base`; what looks at the condition starts at zero. Returns `fill`."""
    weights = base.state_dict()
    narrow = weights["transformer.x_embedder.weight"]
    wide = torch.zeros_like(fill.transformer.x_embedder.weight)
    wide[:, : narrow.shape[1]] = narrow
    fill.load_state_dict(weights | {"transformer.x_embedder.weight": wide})
    return fill

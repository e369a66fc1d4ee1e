"""Tiny random inpainters of the real classes in their on-disk formats."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import FluxControlNetModel, FluxFillPipeline, FluxTransformer2DModel

from artiagent.nano.flux import build_tokenizers
from artiagent.nano.flux_export import assemble, export_folder
from artiagent.nano.flux_transformer import build_flow
from artiagent.nano.flux_vae import LATENT_CHANNELS, build_vae

CAPTION = "a red dog on grass"


def write_inpainters(root: Path) -> Path:
    """Folders "base" (FluxPipeline), "fill" (of its parts) and "control" (a bare ControlNet). Returns ``root``."""
    clip, t5 = build_tokenizers([CAPTION, "a cat"])
    flow = build_flow(clip, t5, 4 * LATENT_CHANNELS, seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.05, generator=generator)
    base = assemble(build_vae((8, 8, 8)), flow, clip, t5, torch.float32)
    export_folder(base, root / "base", {})
    parts = {name: part for name, part in base.components.items() if name in FluxFillPipeline.__init__.__annotations__}
    config = dict(base.transformer.config)
    channels = 2 * config["in_channels"] + 4 * base.vae_scale_factor**2
    wide = FluxTransformer2DModel.from_config(
        {**config, "in_channels": channels, "out_channels": config["in_channels"]}
    )
    export_folder(FluxFillPipeline(**{**parts, "transformer": wide}), root / "fill", {})
    shape = {name: value for name, value in config.items() if not name.startswith("_") and name != "out_channels"}
    control = FluxControlNetModel(**{**shape, "num_layers": 1, "num_single_layers": 1})
    control.save_pretrained(root / "control")
    return root

"""Architectures by name: the real classes at their real sizes, with random weights and without text encoders.

For measurements of time and memory before any weights are there. What such a model paints means nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import diffusers
import psutil
import torch
from accelerate import init_empty_weights

from artiagent.config import SynthesisSection
from artiagent.devices import torch_device, torch_dtype
from artiagent.synthesis.backbones import COMPONENTS, adapter
from artiagent.synthesis.backbones.base import PipelineBackbone

DEVIATION = 0.02  # of the random weights: activations stay finite through all blocks
DEPTHS = ("num_layers", "num_single_layers")  # numbers of blocks in a transformer's configuration


@dataclass(frozen=True)
class Architecture:
    """A pipeline's class, the arguments of its parts where they differ from the class's own, and its text tokens."""

    pipeline: str
    transformer: dict[str, Any]
    vae: dict[str, Any]
    scheduler: dict[str, Any]
    text_tokens: int


_FLUX_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 16, "norm_num_groups": 32,
    "scaling_factor": 0.3611, "shift_factor": 0.1159, "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip
_FLUX = {"num_layers": 19, "num_single_layers": 38}
_SMALL = {"attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 32, "axes_dims_rope": (4, 6, 6)}
_DEV_SCHEDULER = {"shift": 3.0, "use_dynamic_shifting": True}
_QWEN_SCHEDULER = {
    "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 0.9, "base_image_seq_len": 256,
    "max_image_seq_len": 8192, "shift_terminal": 0.02,
}  # fmt: skip

ARCHITECTURES = {
    "flux-dev": Architecture("FluxPipeline", _FLUX | {"guidance_embeds": True}, _FLUX_VAE, _DEV_SCHEDULER, 512),
    "flux-schnell": Architecture("FluxPipeline", _FLUX | {"guidance_embeds": False}, _FLUX_VAE, {"shift": 1.0}, 256),
    # captions are not padded: a sentence or two
    "qwen-image": Architecture("QwenImagePipeline", {"num_layers": 60}, {}, _QWEN_SCHEDULER, 64),
    "tiny-flux": Architecture(
        "FluxPipeline",
        _SMALL | {
            "in_channels": 16, "num_layers": 2, "num_single_layers": 4, "pooled_projection_dim": 16,
            "guidance_embeds": True,
        },
        _FLUX_VAE | {
            "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
            "block_out_channels": (8, 8), "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 4,
        },
        _DEV_SCHEDULER, 8,
    ),
    "tiny-qwen-image": Architecture(
        "QwenImagePipeline", _SMALL | {"in_channels": 16, "out_channels": 4, "num_layers": 4},
        {
            "base_dim": 8, "z_dim": 4, "dim_mult": [1, 1], "num_res_blocks": 1, "temperal_downsample": [False],
            "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4,
        },
        _QWEN_SCHEDULER, 8,
    ),
}  # fmt: skip


def build(name: str, section: SynthesisSection, depth: float = 1.0) -> PipelineBackbone:
    """The backbone of an architecture with random weights, made in the configured type where they will stay.

    Args:
        name: key of ``ARCHITECTURES``.
        section: device, type, quantization and placement.
        depth: share of the blocks, at least one of each kind.

    Raises ValueError, before anything is allocated, when the weights do not fit into the memory.
    """
    architecture = ARCHITECTURES[name]
    cls = adapter(architecture.pipeline)
    transformer = empty(cls.transformer_class, architecture.transformer | blocks(name, depth))
    vae = empty(_vae_class(architecture.pipeline), architecture.vae)
    place = check_fits(transformer, vae, section)
    for model in (transformer, vae):
        materialise(model, torch_dtype(section.dtype), place)
    parts, _ = COMPONENTS[architecture.pipeline]
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**architecture.scheduler)
    own = {"scheduler": scheduler, "transformer": transformer, "vae": vae}
    return cls(getattr(diffusers, architecture.pipeline)(**dict.fromkeys(parts) | own), section)


def blocks(name: str, depth: float) -> dict[str, int]:
    """Numbers of blocks of each kind at a share ``depth`` of the architecture's own."""
    full = ARCHITECTURES[name].transformer
    return {kind: max(1, round(depth * full[kind])) for kind in DEPTHS if kind in full}


def empty(cls: type[torch.nn.Module], arguments: dict[str, Any]) -> torch.nn.Module:
    """A model whose parameters take no memory yet; tensors that are no parameters (Qwen-Image's positions) are real."""
    with init_empty_weights():
        return cls(**arguments).eval()


def materialise(model: torch.nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    """Give every parameter random values of the final type on the final device: never a copy in float32."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            values = torch.empty(parameter.shape, dtype=dtype, device=device).normal_(std=DEVIATION)
            setattr(module, name, torch.nn.Parameter(values, requires_grad=False))


def check_fits(transformer: torch.nn.Module, vae: torch.nn.Module, section: SynthesisSection) -> torch.device:
    """Where the weights are made: on the device, unless they are quantized or wait on the CPU. Raises ValueError."""
    device, bytes_each = torch_device(section.device), torch_dtype(section.dtype).itemsize
    made_on = device if section.quantize == "none" and section.offload != "blocks" else torch.device("cpu")
    all_of_it = bytes_each * (_count(transformer) + _count(vae))
    _check(made_on, all_of_it)
    if device != made_on:
        in_blocks = sum(_count(m) for m in transformer.children() if isinstance(m, torch.nn.ModuleList))
        on_device = all_of_it - (bytes_each * _count(vae) if section.offload != "none" else 0)
        if section.offload == "blocks":
            on_device -= bytes_each * in_blocks
        elif section.quantize != "none":
            on_device -= (bytes_each - 1) * in_blocks
        _check(device, on_device)
    return made_on


def _check(device: torch.device, needed: int) -> None:
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if needed > free:
        raise ValueError(
            f"the weights need {needed:,} bytes on {device.type}, {free:,} are free; build fewer blocks (--depth 0.1), "
            "or on a GPU --set synthesis.quantize=int8 or --set synthesis.offload=blocks"
        )


def _count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _vae_class(pipeline: str) -> type[torch.nn.Module]:
    return diffusers.AutoencoderKL if pipeline == "FluxPipeline" else diffusers.AutoencoderKLQwenImage

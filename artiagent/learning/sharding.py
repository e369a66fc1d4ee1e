"""Several processes, on one machine or several: which settings fit together, and what the trainer is told.

Knows DDP, FSDP and DeepSpeed by their configuration. Does not start anything (`launch`).

Memory of full fine-tuning: weights, gradients and the two moments of AdamW in float32 are 16 bytes a parameter, 133 GB
for Qwen2.5-VL-7B; with ``fsdp`` or ``zero3`` each of n processes holds 1/n of it, with ``zero2`` the weights whole.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

from artiagent.config import SftSection
from artiagent.devices import torch_device
from artiagent.learning.family import ModelFamily

SPLIT_WEIGHTS = ("fsdp", "zero3")  # no process holds whole weights


def check_section(section: SftSection) -> None:
    """Raise ValueError for settings that cannot work together, before anything is loaded."""
    zero = section.sharding in ("zero2", "zero3")
    if section.sharding != "none" and section.world_size == 1:
        raise ValueError(
            f"sft.sharding {section.sharding!r} divides a model among processes, and sft.processes is 1: "
            "raise it to the number of accelerators, or set sft.sharding to none"
        )
    if zero and find_spec("deepspeed") is None:
        raise ValueError(
            f"sft.sharding {section.sharding!r} needs the package deepspeed, which is not installed: "
            "pip install deepspeed, or set sft.sharding to fsdp"
        )
    if section.dtype != "float32" and (section.sharding == "fsdp" or (section.method == "full" and not zero)):
        raise ValueError(
            f"sft.dtype {section.dtype!r}: steps of a learning rate like 1e-5 vanish in its few bits, and fsdp shards "
            "weights of one type only; set sft.dtype to float32 (matrix products run in bfloat16 all the same: "
            "sft.autocast), or sft.method to lora without fsdp"
        )
    if section.loss == "tokens+margin" and section.sharding in SPLIT_WEIGHTS:
        raise ValueError(
            f"sft.loss tokens+margin reads the output embedding, which sft.sharding {section.sharding!r} divides; "
            "set sft.loss to tokens, or sft.sharding to none"
        )
    if section.group_by_length and section.sampler != "paired":
        raise ValueError("sft.group_by_length groups pairs: set sft.sampler to paired, or sft.group_by_length to false")
    _check_devices(section)


def _check_devices(section: SftSection) -> None:
    device = torch_device(section.device)
    if device.type == "cuda" and section.processes > torch.cuda.device_count():
        raise ValueError(
            f"sft.processes {section.processes}: this machine has {torch.cuda.device_count()} GPUs; one process each"
        )
    if device.index is not None and section.world_size > 1:
        raise ValueError(f"sft.device {section.device!r}: several processes take a GPU each; set it to cuda or auto")


def sharding_arguments(section: SftSection, family: ModelFamily, model: torch.nn.Module) -> dict[str, Any]:
    """Arguments of the trainer's configuration for ``section.sharding`` over all processes."""
    if section.world_size == 1:
        return {}
    cpu = torch_device(section.device).type == "cpu"
    common: dict[str, Any] = {"ddp_backend": "gloo" if cpu else "nccl"}
    if section.sharding == "fsdp":
        return common | {"fsdp": True, "fsdp_config": fsdp_config(family, model)}
    if section.sharding in ("zero2", "zero3"):
        return common | {"deepspeed": deepspeed_config(section.sharding)}
    return common


def fsdp_config(family: ModelFamily, model: torch.nn.Module) -> dict[str, Any]:
    """FSDP 2, a unit for each of the family's layers; checkpoints hold the whole weights as safetensors."""
    present = {type(module).__name__ for module in model.modules()}
    layers = [name for name in family.layers if name in present]
    if not layers:
        raise ValueError(f"{family.name}: none of the layers {', '.join(family.layers)} in this model; cannot shard it")
    return {
        "version": 2,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "transformer_layer_cls_to_wrap": layers,
        "state_dict_type": "FULL_STATE_DICT",
        "reshard_after_forward": True,
    }


def deepspeed_config(sharding: str) -> dict[str, Any]:
    """ZeRO stage 2 or 3; sizes and rates are the trainer's."""
    stage = {"zero2": 2, "zero3": 3}[sharding]
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": True, "contiguous_gradients": True}
    if stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    return {
        "zero_optimization": zero,
        "bf16": {"enabled": "auto"},
        "gradient_clipping": "auto",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
    }

"""A rehearsal of fine-tuning: what a sample costs on this machine in seconds and memory, before weights are there.

Trains a named architecture with random weights for a few steps on random images and answers, through the same trainer
and settings as the real thing. Knows how to measure. Does not know what is learnt: nothing is.

Model FLOPs are those of one forward pass, counted, times what training makes of it: 3 for weights that are trained, 2
below adapters (no gradients of weights), 1 for a frozen encoder with nothing to train before it. What gradient
checkpointing computes again is no model FLOP.
"""

from __future__ import annotations

import platform
import resource
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import peft
import psutil
import torch
import transformers
import trl
from datasets import Dataset
from peft import get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedConfig, PrinterCallback, TrainerCallback

from artiagent.config import SftSection, SftStage
from artiagent.devices import torch_device, torch_dtype
from artiagent.learning.architectures import ARCHITECTURES, Batch, empty_model, layer_counts, random_model
from artiagent.learning.collate import IGNORE
from artiagent.learning.family import ModelFamily, find_family
from artiagent.learning.paired import PairedTrainer
from artiagent.learning.stages import adapter, freeze, mixed_precision, training_arguments
from artiagent.nano.vl_model import build_processor, build_tokenizer
from artiagent.synthesis.stopwatch import matmul_rate

QUESTION_TOKENS, ANSWER_TOKENS = 120, 110  # of the four turns of a conversation, template included
WARM_UP = 1  # steps before those that are timed
GIB = 2**30


@dataclass(frozen=True)
class Rehearsal:
    """What is rehearsed.

    Attributes:
        model: name of an architecture.
        method: "lora" or "full".
        stage: "language", the vision encoder frozen, or "vision", all trained.
        pixels: of an image, at most.
        batch_pairs: pairs of images of a step.
        lora_rank: rank of the adapters.
        steps: optimizer steps that are timed.
        depth: share of the layers that is built; the projection extrapolates.
        device: where.
        dtype: of the weights.
        checkpointing: whether activations are computed again in the backward pass.
        samples: conversations that the projection is for.
    """

    model: str
    method: str = "lora"
    stage: str = "language"
    pixels: int = 262_144
    batch_pairs: int = 4
    lora_rank: int = 16
    steps: int = 5
    depth: float = 1.0
    device: str = "auto"
    dtype: str = "bfloat16"
    checkpointing: bool = True
    samples: int = 100_000

    def __post_init__(self) -> None:
        if self.model not in ARCHITECTURES:
            raise ValueError(f"--model {self.model!r}: expected one of {', '.join(ARCHITECTURES)}")
        if not 0 < self.depth <= 1:
            raise ValueError(f"depth {self.depth}: expected more than 0 and at most 1")
        for name in ("pixels", "batch_pairs", "lora_rank", "steps", "samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: expected at least 1")

    def section(self) -> SftSection:
        """The settings of the real thing."""
        stage = SftStage(name=self.stage, train_vision=self.stage == "vision", max_steps=WARM_UP + self.steps)
        return SftSection(
            method=self.method, stages=(stage,), batch_pairs=self.batch_pairs, lora_rank=self.lora_rank,
            lora_alpha=2 * self.lora_rank, device=self.device, dtype=self.dtype, save_steps=10**6,
            gradient_checkpointing=self.checkpointing, image_pixels=self.pixels, threads=torch.get_num_threads(),
        )  # fmt: skip


def rehearse(asked: Rehearsal) -> dict[str, Any]:
    """Build, train, measure. Raises ValueError, before anything is allocated, when the weights do not fit."""
    section, device, dtype = asked.section(), torch_device(asked.device), torch_dtype(asked.dtype)
    config = ARCHITECTURES[asked.model].config(asked.depth)
    family = find_family(config.model_type)
    sizes = count_parameters(config, family, section)
    _check_fits(state_bytes(sizes, dtype, asked.method), device)
    batch = random_batch(asked, config)
    torch.manual_seed(0)
    model = random_model(config, dtype, device)
    flops = forward_flops(model, family, batch)
    if section.method == "lora":
        model = get_peft_model(model, adapter(section))
    freeze(model, family, section, section.stages[0].train_vision)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before = _rate(device)
    seconds = _train(model, family, section, batch)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _peak_resident()
    rate = max(before, _rate(device))
    full = ARCHITECTURES[asked.model].config(1.0)
    step = statistics.median(seconds[WARM_UP:])
    done = training_flops(flops, section)
    factor = training_flops(_at_full_depth(flops, config, full), section) / done
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine(device),
        "rehearsal": asdict(asked),
        "model": {"family": family.name, "layers": layer_counts(config), **sizes},
        "tokens": _token_counts(batch, config),
        "seconds": {"step": step, "sample": step / len(batch["input_ids"]), "steps": seconds},
        "compute": {
            **{f"forward_{part}_flops": count for part, count in flops.items()}, "step_model_flops": done,
            "matmul_flops_per_second": rate, "share_of_rate": done / step / rate,
        },
        "memory": {"peak": peak, "measured": "allocated on the GPU" if device.type == "cuda" else "resident",
                   "predicted_states": state_bytes(sizes, dtype, asked.method)},
        "full_size": _full_size(full, family, section),
        "projection": {
            "samples": asked.samples, "extrapolated_by": factor,
            "samples_per_second": len(batch["input_ids"]) / (step * factor),
            "device_hours": asked.samples * step * factor / len(batch["input_ids"]) / 3600,
        },
    }  # fmt: skip


def random_batch(asked: Rehearsal, config: PreTrainedConfig) -> Batch:
    """Both sides of ``batch_pairs`` pairs: random pixels, the four turns' worth of random tokens, answers labelled."""
    rows = 2 * asked.batch_pairs
    image, tokens = ARCHITECTURES[asked.model].image(config, asked.pixels)
    words = QUESTION_TOKENS + ANSWER_TOKENS
    spoken = torch.randint(10, 200, (rows, words))  # no marker of any family has so small an id
    opening, placeholder = torch.full((rows, 1), 9), torch.full((rows, tokens), config.image_token_id)
    if config.model_type != "internvl":
        opening = torch.full((rows, 1), config.vision_start_token_id)
    ids = torch.cat([opening, placeholder, spoken], dim=1)
    labels = ids.clone()
    labels[:, : 1 + tokens + QUESTION_TOKENS] = IGNORE
    batch = {name: value.repeat(rows, *[1] * (value.dim() - 1)) for name, value in image.items()}
    batch |= {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}
    if config.model_type != "internvl":
        batch["mm_token_type_ids"] = (ids == config.image_token_id).long()
    return batch


def count_parameters(config: PreTrainedConfig, family: ModelFamily, section: SftSection) -> dict[str, int]:
    """Parameters, those of the vision encoder, and those that are trained, without allocating any."""
    model = empty_model(config)
    model.tie_weights()
    whole = {name: parameter.numel() for name, parameter in model.named_parameters()}
    vision = sum(count for name, count in whole.items() if family.is_vision(name))
    trained = sum(whole.values()) - (0 if section.stages[0].train_vision else vision)
    if section.method == "lora":
        model = get_peft_model(model, adapter(section), low_cpu_mem_usage=True)
        freeze(model, family, section, section.stages[0].train_vision)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"parameters": sum(whole.values()), "vision": vision, "trained": trained}


def state_bytes(sizes: dict[str, int], dtype: torch.dtype, method: str) -> int:
    """Weights, gradients and AdamW's two moments, which have the type of what is trained; adapters are float32."""
    weights, trained = sizes["parameters"] * dtype.itemsize, sizes["trained"]
    return weights + (4 * 4 * trained if method == "lora" else 3 * dtype.itemsize * trained)


def forward_flops(model: torch.nn.Module, family: ModelFamily, batch: Batch) -> dict[str, int]:
    """FLOPs of one forward pass of the batch, output embedding at labelled positions only, by part."""
    device = next(model.parameters()).device
    inner = model.base_model
    inputs = {name: value.to(device) for name, value in batch.items() if name != "labels"}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        inner(**inputs, use_cache=False)
    counts = counter.get_flop_counts()
    vision = sum(
        sum(by_kind.values()) for name, by_kind in counts.items() if name.endswith(f".{family.vision}")
    ) or sum(counts.get(family.vision, {}).values())
    text = model.config.get_text_config()
    head = 2 * text.hidden_size * text.vocab_size * int((batch["labels"] != IGNORE).sum())
    return {"vision": vision, "language": counter.get_total_flops() - vision, "head": head}


def training_flops(forward: dict[str, float], section: SftSection) -> float:
    """Model FLOPs of an optimizer step; see the module."""
    trained = 3 if section.method == "full" else 2
    below = trained if section.stages[0].train_vision else 1
    head = 3 if section.method == "full" else 2
    return below * forward["vision"] + trained * forward["language"] + head * forward["head"]


def _at_full_depth(flops: dict[str, int], built: PreTrainedConfig, full: PreTrainedConfig) -> dict[str, float]:
    """Layers that were not built cost what those that were do."""
    there, wanted = layer_counts(built), layer_counts(full)
    return {**flops, **{part: flops[part] * wanted[part] / there[part] for part in there}}


def _full_size(config: PreTrainedConfig, family: ModelFamily, section: SftSection) -> dict[str, Any]:
    """Facts of all layers: what weights, gradients and moments take, whatever was built here."""
    sizes = count_parameters(config, family, section)
    whole = {**sizes, "trained": sizes["parameters"]}
    return {
        **sizes,
        "states": {name: state_bytes(sizes, torch_dtype(name), section.method) for name in ("bfloat16", "float32")},
        "full_states_float32": state_bytes(whole, torch.float32, "full"),
        "full_states_float32_over_8": state_bytes(whole, torch.float32, "full") // 8,
    }


def _train(model: torch.nn.Module, family: ModelFamily, section: SftSection, batch: Batch) -> list[float]:
    """Seconds of every step of the real trainer, on the same batch again and again."""
    rows = len(batch["input_ids"]) * (WARM_UP + section.stages[0].max_steps)
    data = Dataset.from_dict({"image": [0] * rows})
    watch = _Stopwatch(torch_device(section.device))
    extra = {"decision": torch.full((len(batch["input_ids"]),), -1), "twins": torch.zeros(0, 2, dtype=torch.long)}
    with tempfile.TemporaryDirectory() as folder:
        trainer = PairedTrainer(
            model=model,
            args=training_arguments(section, section.stages[0], Path(folder), family, model),
            data_collator=lambda _: {**batch, **extra},
            train_dataset=data,
            processing_class=build_processor(build_tokenizer()),
            margin_weight=0.0,
            answers=(0, 1),
            measured=False,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(watch)
        trainer.args.save_strategy = "no"
        trainer.train()
    return watch.seconds


class _Stopwatch(TrainerCallback):
    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._started = self._now()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(self._now() - self._started)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _rate(device: torch.device) -> float:
    """Of matrix products in the type that training computes in."""
    return matmul_rate(device, torch.bfloat16 if mixed_precision(SftSection(device=str(device))) else torch.float32)


def _check_fits(needed: int, device: torch.device) -> None:
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if needed > free:
        raise ValueError(
            f"weights, gradients and moments need {needed / GIB:.1f} GiB on {device.type}, {free / GIB:.1f} are free; "
            "build fewer layers (--depth 0.1), or take --method lora or --dtype bfloat16"
        )


def _peak_resident() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def _machine(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    versions = {module.__name__: module.__version__ for module in (torch, transformers, trl, peft)}
    return {"device": name, "type": device.type, "threads": torch.get_num_threads(), **versions}


def _token_counts(batch: Batch, config: PreTrainedConfig) -> dict[str, int]:
    ids = batch["input_ids"]
    image = int((ids[0] == config.image_token_id).sum())
    return {"rows": len(ids), "image": image, "text": ids.shape[1] - image, "labelled": ANSWER_TOKENS}


def table(report: dict[str, Any]) -> str:
    """The report for a terminal."""
    asked, machine, model, compute, memory, full, ahead = (
        report[key] for key in ("rehearsal", "machine", "model", "compute", "memory", "full_size", "projection")
    )
    layers = " + ".join(f"{count} {part}" for part, count in model["layers"].items())
    trained = f"{model['trained'] / 1e6:,.1f} of {model['parameters'] / 1e6:,.1f} million parameters trained"
    tokens, step = report["tokens"], report["seconds"]["step"]
    factor = "" if ahead["extrapolated_by"] == 1 else f", extrapolated: x {ahead['extrapolated_by']:.1f} for all layers"
    return "\n".join(
        (
            f"{asked['model']} ({layers} layers, random weights), {asked['method']}, stage {asked['stage']}, "
            f"{asked['dtype']}, on {machine['device']}, torch {machine['torch']}",
            "",
            f"{'trained':<18}{trained}",
            f"{'sample':<18}{tokens['image']} image + {tokens['text']} text tokens, {tokens['rows']} in a batch",
            f"{'step':<18}{step:.2f} s, {tokens['rows'] / step:.2f} samples/s",
            f"{'compute':<18}{compute['step_model_flops'] / 1e12:.2f} TFLOP a step, {compute['share_of_rate']:.0%} of "
            f"{compute['matmul_flops_per_second'] / 1e12:.2f} TFLOP/s of matrix products",
            f"{'peak memory':<18}{memory['peak'] / GIB:.2f} GiB {memory['measured']}, of it "
            f"{memory['predicted_states'] / GIB:.2f} weights, gradients and moments",
            f"{'full size':<18}{full['states'][asked['dtype']] / GIB:.1f} GiB of weights, gradients and moments; "
            f"all trained in float32 {full['full_states_float32'] / GIB:.1f}, on each of 8 with fsdp "
            f"{full['full_states_float32_over_8'] / GIB:.1f}",
            f"{'projection':<18}{ahead['device_hours']:,.1f} device-hours for {ahead['samples']:,} samples{factor}",
        )
    )

"""One resumable training loop for all nano models: AdamW, warm-up and cosine, EMA, checkpoints.

Knows: budgets, the learning rate, what a checkpoint holds. Does not know: what is being trained or on which data.

A checkpoint is one safetensors file (weights, EMA, optimizer moments, generator state as tensors; step, seconds and
curve as JSON in its header), written to a temporary name and renamed, so that a kill leaves the previous one intact.
"""

import copy
import json
import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from artiagent.devices import has_native_bfloat16

EMA_DECAY = 0.999


@dataclass(frozen=True)
class Schedule:
    """When a stage ends and how fast it learns. `seconds` counts optimisation only; `steps` ends it earlier if set."""

    seconds: float
    learning_rate: float
    batch: int
    steps: int | None = None
    warmup: int = 200
    weight_decay: float = 0.01
    save_seconds: float = 180.0

    def fraction(self, step: int, seconds: float) -> float:
        """Share of the budget that is spent, at least 1 when the stage is over."""
        by_steps = 0.0 if self.steps is None else step / self.steps
        return max(by_steps, seconds / self.seconds)

    def rate(self, step: int, fraction: float) -> float:
        """Learning rate: linear warm-up over `warmup` steps times a cosine over the budget, down to 2 %."""
        cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0)))
        return self.learning_rate * cosine * min(1.0, (step + 1) / self.warmup)


@dataclass
class Progress:
    """Where a stage stands; `curve` holds one point per logged interval (step, seconds, loss and extra figures)."""

    step: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)


@dataclass
class TrainingState:
    """Everything that a resumed run needs: the learner, its moving average, moments and the random generator."""

    model: nn.Module
    ema: nn.Module
    optimizer: torch.optim.AdamW
    generator: torch.Generator
    progress: Progress

    @classmethod
    def start(cls, model: nn.Module, schedule: Schedule, seed: int, draws_on: str = "cpu") -> "TrainingState":
        """A fresh state; the EMA begins as a copy of the model."""
        ema = copy.deepcopy(model).eval().requires_grad_(False)
        optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=schedule.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=schedule.weight_decay,
            fused=None if draws_on == "cpu" else True,
        )
        return cls(model, ema, optimizer, torch.Generator(draws_on).manual_seed(seed), Progress())

    def save(self, path: Path) -> None:
        """Write one safetensors file atomically."""
        tensors = {f"model.{name}": value for name, value in self.model.named_parameters()}
        tensors |= {f"ema.{name}": value for name, value in self.ema.named_parameters()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in moments.items()}
        tensors["generator"] = self.generator.get_state()
        # Clones: safetensors refuses tensors that share storage, and a live parameter may.
        detached = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        save_file(detached, partial, metadata={"progress": json.dumps(asdict(self.progress))})
        os.replace(partial, path)

    def restore(self, path: Path) -> None:
        """Load what `save` wrote; raises ValueError when the file belongs to a differently shaped model."""
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            stored = {name: file.get_tensor(name) for name in names}
            self.progress = Progress(**json.loads(file.metadata()["progress"]))
        for prefix, module in (("model", self.model), ("ema", self.ema)):
            _copy_parameters(module, prefix, stored, path)
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in stored.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".")
                moments.setdefault(int(index), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.generator.set_state(stored["generator"])


@torch.no_grad()
def _copy_parameters(module: nn.Module, prefix: str, stored: dict[str, Tensor], path: Path) -> None:
    for name, parameter in module.named_parameters():
        value = stored.get(f"{prefix}.{name}")
        if value is None or value.shape != parameter.shape:
            got = None if value is None else tuple(value.shape)
            raise ValueError(
                f"checkpoint {path} has {got} for {name}, this recipe needs {tuple(parameter.shape)}; "
                "it was written by another recipe: delete it or choose another work folder"
            )
        parameter.copy_(value)


@torch.no_grad()
def _update_ema(state: TrainingState) -> None:
    # The short horizon at first keeps the random initial weights from lingering in an early export.
    decay = min(EMA_DECAY, (1 + state.progress.step) / (10 + state.progress.step))
    averaged = list(state.ema.parameters())
    torch._foreach_lerp_(averaged, list(state.model.parameters()), 1 - decay)


def fit(
    model: nn.Module,
    loss_of: Callable[[nn.Module, torch.Generator, float], Tensor],
    schedule: Schedule,
    checkpoint: Path,
    *,
    seed: int,
    label: str,
    on_save: Callable[[nn.Module, Progress], dict[str, float]] | None = None,
    draws_on: str = "cpu",
) -> tuple[nn.Module, Progress]:
    """Train `model` in place until the budget is spent; continues from `checkpoint` if it exists.

    `loss_of(model, generator, fraction)` draws one batch and returns a scalar. `on_save(ema, progress)` runs after
    each checkpoint and returns figures to log beside the loss. Returns the EMA model and the progress. `draws_on`: the
    device of the generator; "cuda" for a loss that draws everything there, as a large batch's noise must be.
    Raises ValueError for a checkpoint of another recipe, FloatingPointError when the loss is not finite.
    """
    state = TrainingState.start(model, schedule, seed, draws_on)
    if checkpoint.exists():
        state.restore(checkpoint)
    progress, losses, saved = state.progress, [], state.progress.seconds
    start = schedule.fraction(progress.step, progress.seconds)
    with tqdm(total=100, initial=round(100 * min(start, 1)), desc=label, unit="%", mininterval=5) as bar:
        while (fraction := schedule.fraction(progress.step, progress.seconds)) < 1:
            began = time.perf_counter()
            losses.append(_step(state, loss_of, schedule, fraction))
            progress.seconds += time.perf_counter() - began
            bar.update(max(0, round(100 * fraction) - bar.n))
            rate = progress.step * schedule.batch / progress.seconds
            bar.set_postfix_str(f"step {progress.step}, loss {losses[-1]:.4f}, {rate:.1f} samples/s", refresh=False)
            if progress.seconds - saved >= schedule.save_seconds:
                saved = progress.seconds
                _record(state, losses, checkpoint, on_save)
        bar.update(100 - bar.n)
    if losses:
        _record(state, losses, checkpoint, on_save)
    return state.ema, progress


def _step(state: TrainingState, loss_of: Callable, schedule: Schedule, fraction: float) -> float:
    for group in state.optimizer.param_groups:
        group["lr"] = schedule.rate(state.progress.step, fraction)
    loss = loss_of(state.model, state.generator, fraction)
    value = loss.item()
    if not math.isfinite(value):
        raise FloatingPointError(f"loss is {value} at step {state.progress.step}; lower the learning rate and resume")
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
    state.optimizer.step()
    state.progress.step += 1
    _update_ema(state)
    return value


def _record(state: TrainingState, losses: list[float], checkpoint: Path, on_save: Callable | None) -> None:
    progress = state.progress
    point = {"step": progress.step, "seconds": round(progress.seconds, 1), "loss": sum(losses) / len(losses)}
    progress.curve.append(point)
    losses.clear()
    state.save(checkpoint)  # before the export: if that fails, nothing is lost
    if on_save is not None:
        point |= on_save(state.ema, progress)
        state.save(checkpoint)


def bf16_is_native(device: str) -> bool:
    """Whether autocast to bfloat16 makes training faster on the named device."""
    return has_native_bfloat16(torch.device(device))


def describe_machine(device: str, threads: int) -> dict[str, Any]:
    """What the figures were measured on."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    return {"device": name, "cores": os.cpu_count(), "threads": threads, "torch": torch.__version__}

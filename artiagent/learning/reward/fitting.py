"""Trains one verifier: batches of pairs, the Bradley-Terry loss, a checkpoint after every epoch.

Knows losses, schedule and resuming. Does not know which pairs are whose, nor how verifiers are scored. Every epoch
draws from a generator of its own, so that a training that was killed goes on as if nothing had happened.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import tqdm

from artiagent.config import RewardSection
from artiagent.learning.reward.heads import reward_of
from artiagent.learning.reward.pairs import Told
from artiagent.records import stable_hash
from artiagent.store import write_atomic

WARMUP = 20  # steps


class Drawn(Protocol):
    """Where batches come from."""

    def __call__(self, chosen: Sequence[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A view of each pair: features [n, 2, T, F], clean side first, and where the fault is, [n, T] in 0..1."""
        ...


class Trainer:
    """What is trained, on what, and how far it is.

    Args:
        section: losses, rates, epochs.
        name: of the verifier; seeds its draws.
        draw: gives batches.
        told: of all pairs.
        head: from features to badness.
        tower: trained along with it, or None.
        checkpoint: file that an epoch leaves.
        stamp: what all this is made from; a checkpoint with another one is not taken up.
    """

    def __init__(
        self, section: RewardSection, name: str, draw: Drawn, told: Sequence[Told], head: nn.Module,
        tower: nn.Module | None, checkpoint: Path, stamp: str,
    ) -> None:  # fmt: skip
        self.section, self.name, self.draw, self.told, self.head, self.tower = section, name, draw, told, head, tower
        self.checkpoint, self.stamp, self.curve = checkpoint, stamp, []
        groups = [{"params": list(head.parameters()), "lr": section.learning_rate}]
        if tower is not None:
            rate = section.learning_rate if section.encoder == "cnn" else section.encoder_rate
            groups.append({"params": [p for p in tower.parameters() if p.requires_grad], "lr": rate})
        self.rates = [group["lr"] for group in groups]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=section.weight_decay, betas=(0.9, 0.99))
        self.trained = [p for group in groups for p in group["params"]]

    def fit(self, chosen: Sequence[int], benign: Sequence[int]) -> list[dict[str, float]]:
        """Train on some pairs; returns the curve, a point per epoch. Goes on from the checkpoint where there is one."""
        section = self.section
        self._restore()
        scale = 1 / (np.mean([self.told[i].change for i in chosen]) or 1.0) if section.margin == "change" else 0.0
        margins = {i: float(scale * self.told[i].change) for i in chosen}
        steps = -(-len(chosen) // section.batch)
        with tqdm(total=section.epochs, initial=len(self.curve), desc=f"reward {self.name}", unit="epoch") as progress:
            for epoch in range(len(self.curve), section.epochs):
                point = self._epoch(epoch, steps, chosen, benign, margins)
                self.curve.append({"stage": self.name, "step": epoch + 1, **point})
                self._save()
                progress.update()
                progress.set_postfix(loss=f"{point['loss']:.3f}", pairs=f"{point['pair_accuracy']:.3f}")
        return self.curve

    def _epoch(
        self, epoch: int, steps: int, chosen: Sequence[int], benign: Sequence[int], margins: dict[int, float]
    ) -> dict[str, float]:
        seed = int(stable_hash("epoch", self.section.seed, self.name, epoch, length=12), 16)
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        self.head.train()
        if self.tower is not None:
            self.tower.train()
        points = []
        for step, batch in enumerate(batches(chosen, self.section.batch, generator)):
            self._set_rate(epoch * steps + step, self.section.epochs * steps)
            points.append(self._step(batch, self._some(benign, generator), margins, generator))
        return {key: float(np.mean([p[key] for p in points])) for key in points[0]}

    def _some(self, benign: Sequence[int], generator: torch.Generator) -> list[int]:
        if not benign or not self.section.benign:
            return []
        return [benign[i] for i in torch.randint(len(benign), (self.section.benign,), generator=generator)]

    def _step(
        self, batch: list[int], benign: list[int], margins: dict[int, float], generator: torch.Generator
    ) -> dict[str, float]:
        features, places = self.draw(batch + benign, generator)
        pairs = len(batch)
        voices = [v.unflatten(0, features.shape[:2]) for v in self.head.voices(features.flatten(0, 1))]  # [n, 2, T]
        # Nothing is wrong on either side of a benign pair.
        clean = [torch.cat([scored[:, 0], scored[pairs:, 1]]) for scored in voices]
        artifact = [scored[:pairs, 1] for scored in voices]
        names = [self.told[i].source for i in batch + benign + benign]
        others = torch.tensor([[a != b for b in names[:pairs]] for a in names])
        wanted = torch.tensor([margins[i] for i in batch])
        others, wanted = others.to(features.device), wanted.to(features.device)
        loss = torch.zeros((), device=features.device)
        for good, bad in zip(clean, artifact, strict=True):  # every voice has to tell by itself
            apart = reward_of([good])[:, None] - reward_of([bad])[None]
            loss = loss + preference_loss(apart, others, wanted, self.section.cross_scene, generator)
        if self.section.cells and artifact[0].shape[1] > 1:
            loss = loss + self.section.cells * cell_loss(clean[0], artifact[0], places[:pairs])
        gap = reward_of([scored[:pairs] for scored in clean]) - reward_of(artifact)
        penalty = sum(weight.square().sum() for weight in self.head.parameters())
        self.optimizer.zero_grad(set_to_none=True)
        (loss + self.section.l2 * penalty).backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        if not math.isfinite(value := loss.item()):
            raise FloatingPointError(
                f"reward: the loss of verifier {self.name} is {value}; lower reward.learning_rate or encoder_rate"
            )
        return {"loss": value, "pair_accuracy": float((gap > 0).float().mean())}

    def _set_rate(self, step: int, steps: int) -> None:
        scale = 1.0
        if self.section.schedule == "cosine":
            scale = min(1.0, (step + 1) / WARMUP) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * scale

    def _save(self) -> None:
        tensors = {f"weight.{k}": p.detach() for k, p in enumerate(self.trained)}
        for k, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"moment.{k}.{key}": value for key, value in moments.items()}
        plain = {name: value.cpu().contiguous().clone() for name, value in tensors.items()}
        write_atomic(self.checkpoint, save(plain, {"stamp": self.stamp, "curve": json.dumps(self.curve)}))

    def _restore(self) -> None:
        if not self.checkpoint.is_file():
            return
        with safe_open(self.checkpoint, framework="pt") as file:
            told = file.metadata()
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
        if told["stamp"] != self.stamp:
            return  # of other inputs; the first epoch writes over it
        with torch.no_grad():
            for k, parameter in enumerate(self.trained):
                parameter.copy_(stored[f"weight.{k}"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in stored.items():
            if name.startswith("moment."):
                _, k, key = name.split(".")
                moments.setdefault(int(k), {})[key] = value
        self.optimizer.load_state_dict({"state": moments, "param_groups": self.optimizer.state_dict()["param_groups"]})
        self.curve = json.loads(told["curve"])


def batches(chosen: Sequence[int], size: int, generator: torch.Generator) -> Iterator[list[int]]:
    """All of ``chosen`` in random order, ``size`` at a time."""
    for part in torch.randperm(len(chosen), generator=generator).split(size):
        yield [chosen[i] for i in part]


def preference_loss(
    gap: Tensor, others: Tensor, margins: Tensor, cross_scene: int | str, generator: torch.Generator
) -> Tensor:
    """``-log sigmoid(gap - margin)`` of the pairs of a batch, and ``-log sigmoid(gap)`` across scenes.

    Args:
        gap: [m, n], reward of m clean images less that of n artifact images; the first n rows are their twins.
        others: bool [m, n], where the two are of different scenes.
        margins: [n], by how much a twin should be ahead.
        cross_scene: "all": the mean over all of them beside that over the pairs. A number: so many of them, drawn
            with replacement, count like pairs of the batch (spec: training; the paper's 2).
    """
    own = nn.functional.softplus(margins - gap.diagonal())
    crossing = nn.functional.softplus(-gap[others])
    if not len(crossing) or cross_scene == 0:
        return own.mean()
    if cross_scene == "all":
        return own.mean() + crossing.mean()
    return torch.cat([own, crossing[torch.randint(len(crossing), (int(cross_scene),), generator=generator)]]).mean()


def cell_loss(clean: Tensor, artifact: Tensor, places: Tensor) -> Tensor:
    """Binary cross-entropy of every cell, faulty and sound cells weighing the same.

    ``clean`` [m, T] and ``artifact`` [n, T] are badness; ``places`` [n, T] in 0..1 says how far the fault is there.
    """
    softplus = nn.functional.softplus
    faulty = (softplus(-artifact) * places).sum() / places.sum().clamp(min=1)
    sound = ((softplus(artifact) * (1 - places)).sum() + softplus(clean).sum()) / ((1 - places).sum() + clean.numel())
    return (faulty + sound) / 2

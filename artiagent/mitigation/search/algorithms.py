"""Search algorithms as ask and tell: what to draw next, given how the last was rewarded.

Each draws for one prompt, in rounds. Knows latents, noise and rewards. Does not know generators, verifiers, prompts or
budgets: the loop that drives them (``stage``) does. One instance is one search; equal seeds give equal proposals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from artiagent.config import SearchSection


@dataclass(frozen=True)
class Source:
    """Where a search has its noise from.

    Args:
        noise: seeds -> standard normal latents [n, L, C].
        seed: (round, index, use) -> seed; equal for all algorithms, so that they begin with the same noise.
        times: of the sampler, ``steps + 1`` from 1 to 0.
    """

    noise: Callable[[Sequence[int]], torch.Tensor]
    seed: Callable[[int, int, int], int]
    times: Sequence[float]

    def draw(self, round_: int, count: int, use: int = 0) -> tuple[list[int], torch.Tensor]:
        """Seeds and fresh noise [count, L, C]."""
        seeds = [self.seed(round_, index, use) for index in range(count)]
        return seeds, self.noise(seeds)


@dataclass(frozen=True)
class Proposals:
    """Where the candidates of a round begin: latents [n, L, C] at the time of ``step``."""

    latents: torch.Tensor
    seeds: list[int]
    parents: list[str]
    step: int = 0


@dataclass(frozen=True)
class Outcome:
    """What became of proposals: keys, final latents [n, L, C] and rewards [n]."""

    keys: list[str]
    latents: torch.Tensor
    rewards: np.ndarray


class Algorithm(Protocol):
    looks: frozenset[int]  # steps after which estimates of the pictures are scored, and ``steer`` is called

    def ask(self) -> Proposals | None:
        """The next round; None when there is none."""
        ...

    def steer(self, step: int, latents: torch.Tensor, estimates: torch.Tensor, rewards: np.ndarray) -> torch.Tensor:
        """Go on from other latents [n, L, C] at the time after ``step``, given the rewards of the estimates of x0."""
        ...

    def tell(self, outcome: Outcome) -> None:
        """How the round ended."""
        ...


@dataclass
class RandomSearch:
    """Round r draws 2^r fresh noises (spec: training, "Reward-guided generation")."""

    source: Source
    section: SearchSection
    looks: frozenset[int] = frozenset()
    round: int = 0

    def ask(self) -> Proposals | None:
        if self.round == self.section.rounds:
            return None
        self.round += 1
        seeds, noise = self.source.draw(self.round, 2**self.round)
        return Proposals(noise, seeds, [""] * len(seeds))

    def steer(self, step: int, latents: torch.Tensor, estimates: torch.Tensor, rewards: np.ndarray) -> torch.Tensor:
        return latents

    def tell(self, outcome: Outcome) -> None:
        pass


@dataclass
class ZeroOrder:
    """Neighbours of the best noise so far: ``sqrt(1 - radius^2) pivot + radius fresh``, which keeps its variance.

    The first round is fresh. The radii of a round's neighbours alternate between those of the section: a small one
    refines, a large one gets away.
    """

    source: Source
    section: SearchSection
    looks: frozenset[int] = frozenset()
    round: int = 0
    pivot: torch.Tensor | None = None
    parent: str = ""
    best: float = -np.inf
    _asked: torch.Tensor | None = field(default=None, repr=False)

    def ask(self) -> Proposals | None:
        self.round += 1
        seeds, noise = self.source.draw(self.round, self.section.neighbours)
        if self.pivot is not None:
            radii = torch.tensor([self.section.radii[i % len(self.section.radii)] for i in range(len(noise))])
            radii = radii[:, None, None]
            noise = (1 - radii**2).sqrt() * self.pivot + radii * noise
        self._asked = noise
        return Proposals(noise, seeds, [self.parent] * len(seeds))

    def steer(self, step: int, latents: torch.Tensor, estimates: torch.Tensor, rewards: np.ndarray) -> torch.Tensor:
        return latents

    def tell(self, outcome: Outcome) -> None:
        won = int(outcome.rewards.argmax())
        if outcome.rewards[won] > self.best:
            self.best, self.parent = float(outcome.rewards[won]), outcome.keys[won]
            self.pivot = self._asked[won]


@dataclass
class Particles:
    """A population steered by Feynman-Kac potentials on the way, and sent back from the end to an earlier time.

    On the way, after the steps ``looks``, particles are resampled with weights ``exp((reward - reward before) /
    temperature)`` of their estimates of x0. A sampler without noise would keep copies identical: each copy but the
    first gets fresh noise, ``x_t = (1 - t) x0 + t (sqrt(1 - churn^2) noise + churn fresh)``. At the end the population
    is the best of the old and the new particles; for the next round, drawn from it by reward, x0 is mixed with fresh
    noise at the time of step ``restart``, which costs only the steps that remain.
    """

    source: Source
    section: SearchSection
    round: int = 0
    _x0: torch.Tensor | None = field(default=None, repr=False)
    _rewards: np.ndarray = field(default_factory=lambda: np.zeros(0), repr=False)
    _keys: list[str] = field(default_factory=list)
    _before: np.ndarray = field(default_factory=lambda: np.zeros(0), repr=False)

    @property
    def looks(self) -> frozenset[int]:
        return frozenset(self.section.look_after)

    def ask(self) -> Proposals | None:
        self.round += 1
        seeds, noise = self.source.draw(self.round, self.section.particles)
        self._before = np.zeros(len(seeds))
        if self._x0 is None:
            return Proposals(noise, seeds, [""] * len(seeds))
        step = min(self.section.restart, len(self.source.times) - 2)
        chosen = self._resampled(self._rewards, use=0)
        time = self.source.times[step]
        latents = (1 - time) * self._x0[chosen] + time * noise
        return Proposals(latents, seeds, [self._keys[i] for i in chosen], step)

    def steer(self, step: int, latents: torch.Tensor, estimates: torch.Tensor, rewards: np.ndarray) -> torch.Tensor:
        chosen = self._resampled(rewards - self._before, use=step + 1)
        self._before = rewards[chosen]
        time, churn = self.source.times[step + 1], self.section.churn
        x0, moved = estimates[chosen], latents[chosen]
        _, fresh = self.source.draw(self.round, len(chosen), use=step + 1)
        noise = (moved - (1 - time) * x0) / time
        churned = (1 - time) * x0 + time * ((1 - churn**2) ** 0.5 * noise + churn * fresh)
        copies = torch.from_numpy(np.concatenate([[False], chosen[1:] == chosen[:-1]]))
        return torch.where(copies[:, None, None], churned, moved)

    def tell(self, outcome: Outcome) -> None:
        x0 = outcome.latents if self._x0 is None else torch.cat([self._x0, outcome.latents])
        rewards = np.concatenate([self._rewards, outcome.rewards])
        keys = [*self._keys, *outcome.keys]
        chosen = np.argsort(-rewards, kind="stable")[: self.section.particles]
        self._x0, self._rewards, self._keys = x0[chosen], rewards[chosen], [keys[i] for i in chosen]

    def _resampled(self, gains: np.ndarray, use: int) -> np.ndarray:
        """Indices of as many particles, sorted, drawn systematically with weights ``exp(gain / temperature)``."""
        scaled = gains / self.section.temperature
        weights = np.exp(scaled - scaled.max())
        rng = np.random.default_rng(self.source.seed(self.round, self.section.particles, use))
        places = (rng.random() + np.arange(self.section.particles)) / self.section.particles
        edges = np.cumsum(weights / weights.sum())
        return np.minimum(np.searchsorted(edges, places), len(gains) - 1)


ALGORITHMS: dict[str, Callable[[Source, SearchSection], Algorithm]] = {
    "random": RandomSearch, "zero_order": ZeroOrder, "particles": Particles
}  # fmt: skip

"""Drives a search algorithm for several prompts side by side: one batch of pictures for all of them, round by round.

Knows budgets, calls and what is kept. Does not know how an algorithm decides, who judges, or files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from artiagent.config import SearchSection
from artiagent.images import encode
from artiagent.mitigation.generators import Generator
from artiagent.mitigation.judges import Judge
from artiagent.mitigation.search.algorithms import ALGORITHMS, Algorithm, Outcome, Proposals, Source
from artiagent.mitigation.search.records import Candidate
from artiagent.records import stable_hash
from artiagent.store import Row


def random_calls(section: SearchSection, generator: Generator) -> int:
    """Transformer calls of random search for one prompt: the measure of all budgets."""
    return (2 ** (section.rounds + 1) - 2) * generator.calls_per_image


def budget_of(algorithm: str, section: SearchSection, generator: Generator) -> int:
    """Transformer calls that an algorithm may spend on one prompt."""
    share = 1.0 if algorithm == "random" else section.budget
    return int(share * random_calls(section, generator))


def seed_of(section: SearchSection, prompt: str) -> Callable[[int, int, int], int]:
    """Seeds of a prompt's noise, below 2^63; they hang neither on the algorithm nor on the other prompts."""
    return lambda round_, index, use: int(stable_hash(section.seed, prompt, round_, index, use, length=15), 16)


@dataclass
class PromptSearch:
    """One algorithm at work on one prompt, and what it found so far."""

    number: int  # of the prompt
    prompt: str
    name: str
    algorithm: Algorithm
    budget: int
    top: int
    calls: int = 0
    decoded: int = 0
    round: int = 0
    rows: list[Row[Candidate]] = field(default_factory=list)

    @property
    def best(self) -> Row[Candidate] | None:
        """The best candidate so far; of equals the first."""
        return max(self.rows, key=lambda row: row.record.reward) if self.rows else None

    def ask(self, generator: Generator) -> Proposals | None:
        """The next round, paid for; None when there is none or, after the first, the budget does not reach."""
        if (proposals := self.algorithm.ask()) is None:
            return None
        cost = len(proposals.seeds) * (generator.steps - proposals.step) * generator.calls_per_step
        if self.round and self.calls + cost > self.budget:
            return None
        self.calls, self.round = self.calls + cost, self.round + 1
        return proposals

    def tell(self, proposals: Proposals, latents: torch.Tensor, pictures: np.ndarray, rewards: np.ndarray) -> None:
        """Record the round's candidates; pictures of those that are now among the best are kept."""
        keys = [f"{self.number:05d}/{self.name}/{self.round:02d}/{k:03d}" for k in range(len(rewards))]
        ranked = [*(row.record.reward for row in self.rows), *rewards.tolist()]
        order = np.argsort(-np.array(ranked), kind="stable")
        leading = set(order[: self.top].tolist())
        for k, key in enumerate(keys):
            place = len(ranked) - len(keys) + k
            self.rows.append(
                Row(
                    key,
                    Candidate(
                        prompt=self.prompt, algorithm=self.name, round=self.round, seed=proposals.seeds[k],
                        parent=proposals.parents[k], reward=ranked[place], calls=self.calls, decoded=self.decoded,
                        is_best=place == order[0], kept=place in leading,
                    ),
                    {"image": encode(pictures[k]) if place in leading else b""},
                )
            )  # fmt: skip
        self.algorithm.tell(Outcome(keys, latents, rewards))


def searches_of(
    name: str, prompts: Sequence[tuple[int, str]], section: SearchSection, generator: Generator
) -> list[PromptSearch]:
    """A search of the algorithm ``name`` for each numbered prompt."""
    budget = budget_of(name, section, generator)
    return [
        PromptSearch(
            number, prompt, name,
            ALGORITHMS[name](Source(generator.noise, seed_of(section, prompt), generator.times), section),
            budget, section.top,
        )
        for number, prompt in prompts
    ]  # fmt: skip


def play_round(searches: Sequence[PromptSearch], generator: Generator, verifier: Judge) -> bool:
    """One round of all searches, which are of one algorithm and in step. Returns whether there was one."""
    asked = [search.ask(generator) for search in searches]
    if any(proposals is None for proposals in asked):
        return False
    counts = [len(proposals.seeds) for proposals in asked]
    prompts = [s.prompt for s, count in zip(searches, counts, strict=True) for _ in range(count)]
    latents = torch.cat([proposals.latents for proposals in asked])
    for step in range(asked[0].step, generator.steps):
        latents, estimates = generator.step(prompts, latents, step)
        if step in searches[0].algorithm.looks and step + 1 < generator.steps:
            rewards = verifier(list(generator.decode(estimates)))
            parts = zip(searches, latents.split(counts), estimates.split(counts), _split(rewards, counts), strict=True)
            latents = torch.cat([s.algorithm.steer(step, *given) for s, *given in parts])
            for search, count in zip(searches, counts, strict=True):
                search.decoded += count
    pictures = generator.decode(latents)
    rewards = verifier(list(pictures))
    told = zip(searches, asked, latents.split(counts), _split(pictures, counts), _split(rewards, counts), strict=True)
    for search, *given in told:
        search.decoded += len(given[0].seeds)
        search.tell(*given)
    return True


def _split(values: np.ndarray, counts: Sequence[int]) -> list[np.ndarray]:
    return np.split(values, np.cumsum(counts)[:-1])

"""What is planned, and what is drawn for it: a number for every run of everything that is uncertain.

Knows configuration, rates and chance. Does not know machines or time.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol, Self

import numpy as np

from artiagent.config import Config
from artiagent.scale import demand
from artiagent.scale.estimate import Estimate
from artiagent.scale.prices import Prices
from artiagent.scale.profiles import Declared
from artiagent.scale.rates import Rates


class StageLike(Protocol):
    """An entry of `pipelines.stages`."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    after: tuple[str, ...]
    shards: int


class Gpus(NamedTuple):
    """So many GPUs of a model."""

    count: int
    model: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """From ``64xH100``. Raises ValueError saying what was expected."""
        count, times, model = text.partition("x")
        if not (times and count.isdecimal() and int(count) > 0 and model.isalnum()):
            raise ValueError(f"--gpus {text!r}: expected COUNTxMODEL, e.g. 64xH100")
        return cls(int(count), model)

    def __str__(self) -> str:
        return f"{self.count}x{self.model}"


@dataclass(frozen=True)
class Asked:
    """What is planned.

    Attributes:
        config: of the run.
        stages: the list that every orchestrator walks.
        pairs: accepted pairs that are wanted.
        gpus: all that there are; None: none.
        declared: profiles and pools.
        rates, prices: see there.
        acceptance: share of the artifact pairs that curation accepts.
        runs: simulated ones.
        preemption: chance that a spot GPU is taken away within an hour, below 1.
        seed: of everything that is drawn.
        local: one machine does one thing after the other; no pods, no nodes from zero.
    """

    config: Config
    stages: Sequence[StageLike]
    pairs: int
    gpus: Gpus | None
    declared: Declared
    rates: Rates
    prices: Prices
    acceptance: Estimate
    runs: int = 1000
    preemption: float = 0.1
    seed: int = 0
    local: bool = False
    drawn: dict[str, np.ndarray] = field(default_factory=dict, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.preemption < 1:
            raise ValueError(f"--preemption {self.preemption}: expected a chance per hour, 0 or more and below 1")
        for name in ("pairs", "runs"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} {getattr(self, name)}: expected at least 1")

    def draw(self, name: str, estimate: Estimate) -> np.ndarray:
        """Float64 [runs]; of the name alone, so that nothing depends on the order of asking."""
        if name not in self.drawn:
            rng = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
            self.drawn[name] = estimate.draw(rng, self.runs)
        return self.drawn[name]

    @cached_property
    def amounts(self) -> dict[str, np.ndarray | float]:
        """By unit, for every run."""
        assumed = self.rates.assumptions
        return demand.units(
            self.config, self.pairs, self.draw("acceptance", self.acceptance),
            self.draw("scene_share", self.scene_share), self.items, assumed.region.value,
        )  # fmt: skip

    @cached_property
    def expected(self) -> dict[str, float]:
        """Amounts by unit at the central values."""
        region = self.rates.assumptions.region.value
        return demand.units(self.config, self.pairs, self.acceptance.value, self.scene_share.value, self.items, region)

    @property
    def scene_share(self) -> Estimate:
        """Of the images, those that become a scene."""
        return self.rates.known("scene_share", self.config)

    @cached_property
    def items(self) -> int:
        return demand.benchmark_items(self.config, self.rates.assumptions)

    @cached_property
    def calls(self) -> tuple[demand.Calls, ...]:
        share = self.draw("caption_share", self.rates.assumptions.caption_share)
        return demand.calls(self.config, self.amounts, share)

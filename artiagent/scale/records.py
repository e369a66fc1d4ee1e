"""What a plan says. Knows figures and their quantiles. Does not know how they come about or how they are shown."""

from __future__ import annotations

import numpy as np

from artiagent.records import Record
from artiagent.scale.estimate import Estimate

SHARES = (50, 80, 95)


class Quantiles(Record):
    """Of the simulated runs that ended well; None where none did."""

    p50: float | None
    p80: float | None
    p95: float | None

    @classmethod
    def of(cls, values: np.ndarray) -> Quantiles:
        kept = values[~np.isnan(values)]
        found = np.percentile(kept, SHARES) if len(kept) else [None] * 3
        return cls(**{f"p{share}": None if v is None else float(v) for share, v in zip(SHARES, found, strict=True)})


class RateUsed(Record):
    """A rate of the plan, with its provenance."""

    unit: str
    amount: float  # p50
    seconds: Estimate


class StagePlan(Record):
    """A stage. Hours are wall time from its first pod's queueing to its end, joining included."""

    name: str
    profile: str
    device: str
    gpus: int  # of a shard
    spot: bool
    shards: int
    rates: tuple[RateUsed, ...]
    hours: Quantiles
    gpu_hours: Quantiles
    money: Quantiles
    worked: float  # share of the paid machine time that is work that counted
    interruptions: float  # a run, mean
    on_path: float  # share of the runs whose critical path it is on


class CallPlan(Record):
    """Calls of a task to a server."""

    stage: str
    task: str
    calls: Quantiles
    tokens_in: Quantiles
    tokens_out: Quantiles
    money: Quantiles


class Plan(Record):
    """Everything that was asked and found. Hours, money in the currency of the prices, storage in 10^9 bytes."""

    config: str
    profile: str
    gpus: str
    pairs: int
    runs: int
    seed: int
    preemption: float
    retries: int
    local: bool
    acceptance: Estimate
    amounts: dict[str, Quantiles]  # by unit
    hours: Quantiles
    gpu_hours: Quantiles
    money: Quantiles
    money_by: dict[str, Quantiles]
    utilisation: float | None  # of the paid GPU time
    failed: float
    failed_at: dict[str, float]
    path: tuple[str, ...]
    path_share: float
    stages: tuple[StagePlan, ...]
    calls: tuple[CallPlan, ...]
    storage_gb: dict[str, Quantiles]
    currency: str
    prices: str
    matters: dict[str, dict[str, float]]  # uncertain number -> "hours", "money" -> share of the spread that it explains
    rest: dict[str, Estimate]  # what it rests on besides the rates
    notes: tuple[str, ...]

"""Into how many shards each stage is best cut: time and money over the number, by simulation.

Knows that more shards finish sooner until there are no more GPUs, and that each costs a start. Does not know the rest
of the run: stages that are cut follow one another, or wait for the ones that are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from artiagent.records import Record
from artiagent.scale.asked import Asked
from artiagent.scale.plan import account
from artiagent.scale.records import Quantiles
from artiagent.scale.simulation import simulate
from artiagent.scale.work import SHARDED, Need, cluster_of, needs, places, seconds_of, steps_of

RUNS = 100
NEAR = 1.1  # the smallest number within this factor of the best p95 is taken: every shard is a pod that can fail
MORE_FAILURES = 0.01  # share of the runs above that of the safest number: a survivor's hours say little
FAILS = 0.01  # share of failed runs from which a number is pointed out
LEAST_WORK = 120.0  # seconds of a shard: below, starting it is all that it does


class Point(Record):
    """A stage cut into ``shards`` pieces; hours and money are of the runs that do not fail there."""

    shards: int
    failed: float  # share of the runs
    hours: Quantiles
    money: Quantiles


class Curve(Record):
    """A stage over the number of its shards; ``best`` is recommended, ``configured`` is what the plan has."""

    stage: str
    configured: int
    best: int
    points: tuple[Point, ...]


def sweep(asked: Asked) -> tuple[Curve, ...]:
    """A curve for each stage that can be cut. Nothing for a plan of one machine."""
    if asked.local:
        return ()
    fewer = replace(asked, runs=min(asked.runs, RUNS))
    return tuple(_curve(fewer, need) for need in needs(fewer) if need.stage in SHARDED)


def _curve(asked: Asked, need: Need) -> Curve:
    points = tuple(_point(asked, replace(need, shards=shards, after=())) for shards in _candidates(asked, need))
    safest = min(point.failed for point in points)
    safe = [point for point in points if point.failed <= safest + MORE_FAILURES and point.hours.p95 is not None]
    least = min((point.hours.p95 for point in safe), default=0.0)
    best = next((point.shards for point in safe if point.hours.p95 <= NEAR * least), points[-1].shards)
    return Curve(stage=need.stage, configured=need.shards, best=best, points=points)


def _candidates(asked: Asked, need: Need) -> Iterator[int]:
    """Powers of two, the number of places and twice it, and what is configured."""
    work, side_by_side = float(seconds_of(asked, need).mean()), places(asked, need.machine)
    most = max(1, min(2 * side_by_side, int(work / LEAST_WORK)))
    numbers = {2**k for k in range(12)} | {side_by_side, 2 * side_by_side}
    return iter(sorted({n for n in numbers if n <= most} | {need.shards}))


def _point(asked: Asked, need: Need) -> Point:
    outcome = simulate(steps_of(asked, need), cluster_of(asked, (need,)), asked.seed)
    spent = account(asked, need, outcome)
    failed = float(np.isnan(outcome.seconds).mean())
    return Point(shards=need.shards, failed=failed, hours=Quantiles.of(spent.hours), money=Quantiles.of(spent.money))

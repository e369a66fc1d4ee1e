"""A run on a cluster, simulated: shards queue for nodes, nodes start from zero, spot nodes are taken away.

Knows steps, nodes, time and chance. Does not know what a step computes, what anything costs, or any orchestrator.

The model, a run at a time (discrete events):

- A step starts when the steps before it have ended; its shards queue, first come first served, for a node of its pool
  and for GPUs out of one quota for all pools. A shard has a node to itself.
- A node comes from zero (``provision`` seconds) unless one of the pool was given back at most ``idle`` seconds ago.
  Then the pod starts (``setup``: image, process, weights), then the shard's work is done.
- A spot node is taken away after an exponential time, ``taken`` per GPU-hour; a pod is ended at its deadline. Work
  since the last mirrored ``checkpoint`` is lost, the node (if taken) too; the shard queues again, at most ``retries``
  times. Then the run fails.
- A node is paid for from the moment it is asked for until it is taken, or ``idle`` seconds after it was given back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import simpy


@dataclass(frozen=True)
class Step:
    """What is done in pieces.

    Attributes:
        name: unique.
        after: steps that must have ended.
        seconds: float64 [runs, shards], work of every shard in every run, on its machine.
        setup: float64 [runs], seconds until a pod's work begins, on a node that is there.
        pool: whose nodes it takes.
        gpus: of a shard.
        spot: whether its nodes can be taken away.
        checkpoint: seconds of work between what is kept of an interrupted shard; 0: everything is, inf: nothing.
        deadline: seconds after which a pod is ended.
    """

    name: str
    after: tuple[str, ...]
    seconds: np.ndarray
    setup: np.ndarray
    pool: str
    gpus: int = 0
    spot: bool = False
    checkpoint: float = math.inf
    deadline: float = math.inf


@dataclass(frozen=True)
class Cluster:
    """Where the steps run.

    Attributes:
        gpus: quota over all pools.
        nodes: pool -> most nodes.
        provision: float64 [runs], seconds from asking for a node to having it.
        idle: seconds that a node is kept after its last pod.
        taken: times that a spot node is taken away, per GPU-hour.
        retries: of a shard.
    """

    gpus: int
    nodes: Mapping[str, int]
    provision: np.ndarray
    idle: float = 0.0
    taken: float = 0.0
    retries: int = 0


@dataclass(frozen=True)
class Outcome:
    """What became of the runs; figures of failed ones are NaN.

    Attributes:
        seconds: float64 [runs], wall time.
        failed: step that ended a run -> number of runs.
        spans: step -> float64 [runs, 2], when it started and ended.
        paid: step -> float64 [runs], node-seconds that are paid for.
        worked: step -> float64 [runs], seconds of work that counted.
        interruptions: step -> float64 [runs], how often a shard was taken away or ended at its deadline.
        paths: critical path -> number of runs.
    """

    seconds: np.ndarray
    failed: dict[str, int]
    spans: dict[str, np.ndarray]
    paid: dict[str, np.ndarray]
    worked: dict[str, np.ndarray]
    interruptions: dict[str, np.ndarray]
    paths: dict[tuple[str, ...], int]


def simulate(steps: Sequence[Step], cluster: Cluster, seed: int) -> Outcome:
    """As many runs as the steps have rows; equal seeds give equal outcomes. Raises ValueError for a step that no
    cluster of this size can ever run."""
    check(steps, cluster)
    runs, names = len(steps[0].seconds), [step.name for step in steps]
    total, failed, paths = np.full(runs, np.nan), {}, {}
    spans = {name: np.full((runs, 2), np.nan) for name in names}
    paid, worked, interruptions = ({name: np.full(runs, np.nan) for name in names} for _ in range(3))
    for index in range(runs):
        run = _Run(steps, cluster, index, np.random.default_rng([seed, index]))
        try:
            run.go()
        except _Failed as failure:
            failed[failure.step] = failed.get(failure.step, 0) + 1
            continue
        total[index] = run.environment.now
        for name in names:
            spans[name][index] = run.started[name], run.ended[name]
            paid[name][index], worked[name][index] = run.paid[name], run.worked[name]
            interruptions[name][index] = run.interruptions[name]
        path = critical_path(steps, run.ended)
        paths[path] = paths.get(path, 0) + 1
    return Outcome(total, failed, spans, paid, worked, interruptions, paths)


def check(steps: Sequence[Step], cluster: Cluster) -> None:
    """Raises ValueError for a step that needs what is not there."""
    for step in steps:
        if step.gpus > cluster.gpus:
            raise ValueError(
                f"stage {step.name!r} needs {step.gpus} GPUs at once, there are {cluster.gpus}: give --gpus at least "
                f"{step.gpus}, or the stage a smaller profile (scale.profiles.{step.name})"
            )
        if cluster.nodes[step.pool] < 1:
            raise ValueError(f"stage {step.name!r}: pool {step.pool!r} has no nodes")


def critical_path(steps: Sequence[Step], ended: Mapping[str, float]) -> tuple[str, ...]:
    """From the step that ends last back along the predecessors that ended last, in order of time."""
    after = {step.name: step.after for step in steps}
    path = [max(ended, key=ended.__getitem__)]
    while before := after[path[-1]]:
        path.append(max(before, key=ended.__getitem__))
    return tuple(reversed(path))


class _Failed(Exception):
    def __init__(self, step: str) -> None:
        super().__init__(step)
        self.step = step


@dataclass
class _Run:
    """One run. ``paid`` and ``worked`` in seconds of nodes."""

    steps: Sequence[Step]
    cluster: Cluster
    index: int
    rng: np.random.Generator
    environment: simpy.Environment = field(default_factory=simpy.Environment)

    def __post_init__(self) -> None:
        names = [step.name for step in self.steps]
        self.paid, self.worked, self.interruptions = (dict.fromkeys(names, 0.0) for _ in range(3))
        self.started: dict[str, float] = {}
        self.ended: dict[str, float] = {}
        self.provision = float(self.cluster.provision[self.index])
        self.quota = simpy.Container(self.environment, max(1, self.cluster.gpus), max(1, self.cluster.gpus))
        self.nodes = {pool: simpy.Resource(self.environment, most) for pool, most in self.cluster.nodes.items()}
        self.idle: dict[str, list[tuple[float, str]]] = {pool: [] for pool in self.nodes}  # since when, last step

    def go(self) -> None:
        """To the end. Raises _Failed."""
        done: dict[str, simpy.Process] = {}
        for step in self.steps:
            done[step.name] = self.environment.process(self._step(step, [done[name] for name in step.after]))
        self.environment.run(self.environment.all_of(done.values()))
        for nodes in self.idle.values():
            for _, last in nodes:
                self.paid[last] += self.cluster.idle

    def _step(self, step: Step, before: list[simpy.Process]) -> Iterator[simpy.Event]:
        yield self.environment.all_of(before)
        self.started[step.name] = self.environment.now
        shards = [self.environment.process(self._shard(step, float(work))) for work in step.seconds[self.index]]
        yield self.environment.all_of(shards)
        self.ended[step.name] = self.environment.now

    def _shard(self, step: Step, left: float) -> Iterator[simpy.Event]:
        setup = float(step.setup[self.index])
        for _ in range(1 + self.cluster.retries):
            with self.nodes[step.pool].request() as place:
                yield place
                if step.gpus:
                    yield self.quota.get(step.gpus)
                wait = self._node(step)
                taken = wait + self._lifetime(step)
                needed, allowed = wait + setup + left, min(taken, step.deadline)
                passed = min(needed, allowed)
                yield self.environment.timeout(passed)
                self.paid[step.name] += passed
                if taken > passed:
                    self.idle[step.pool].append((self.environment.now, step.name))
                if step.gpus:
                    self.quota.put(step.gpus)
            if needed <= allowed:
                self.worked[step.name] += left
                return
            kept = _kept(max(0.0, passed - wait - setup), step.checkpoint)
            self.worked[step.name] += kept
            self.interruptions[step.name] += 1
            left -= kept
        raise _Failed(step.name)

    def _node(self, step: Step) -> float:
        """Seconds until a node of the pool is there: none for one that still idles, whose idling is then paid for."""
        idle, now = self.idle[step.pool], self.environment.now
        if not idle:
            return self.provision
        since, last = idle.pop()
        self.paid[last] += min(now - since, self.cluster.idle)
        return 0.0 if now - since <= self.cluster.idle else self.provision

    def _lifetime(self, step: Step) -> float:
        """Seconds until the node is taken away."""
        rate = self.cluster.taken * step.gpus / 3600 if step.spot else 0.0
        return self.rng.exponential(1 / rate) if rate else math.inf


def _kept(worked: float, checkpoint: float) -> float:
    if checkpoint == 0:
        return worked
    return 0.0 if math.isinf(checkpoint) else worked // checkpoint * checkpoint

"""A configuration as steps of a simulated run: which machine, how many pieces, how much work in each, in every run.

Knows stages, profiles, rates and demand. Does not know money, nor what becomes of the steps (`simulation`).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from artiagent.run_config import ConfigError
from artiagent.scale import demand
from artiagent.scale.asked import Asked
from artiagent.scale.profiles import DEFAULT, Pool, Profile, profile_name
from artiagent.scale.rates import CPU, ONCE, UNITS, Chosen
from artiagent.scale.simulation import Cluster, Step

LOCAL = "local"  # pool of a plan for one machine
SHARDED = ("perceive", "synthesize", "curate", "evaluate_base", "evaluate_tuned")  # keys of ``scale.shards``


@dataclass(frozen=True)
class Machine:
    """Where a stage's pods run: a profile, and the pool that it fits."""

    profile: Profile
    device: str
    pool: str
    nodes: int  # pods of the profile that the pool holds at a time
    cores: int  # of a node
    spot: bool


@dataclass(frozen=True)
class Need:
    """A stage, where it runs, and what its units take there.

    Attributes:
        units: unit -> what was chosen for it.
        shards: pieces; more than one are joined on ``joining``.
    """

    stage: str
    machine: Machine
    joining: Machine
    units: dict[str, Chosen]
    shards: int
    after: tuple[str, ...]


def machine(asked: Asked, profile_of: str) -> Machine:
    """Of a profile by name. Raises ConfigError for one that no pool satisfies, or GPUs that are not there."""
    profile = asked.declared.profile(profile_of)
    if profile.gpus and asked.gpus is None:
        raise ConfigError(
            f"profile {profile.name!r} needs {profile.gpus} GPUs: give --gpus, e.g. --gpus 8x{profile.gpu}"
        )
    if asked.local:
        return _this_machine(asked, profile)
    device = asked.gpus.model if profile.gpus else CPU
    if why := asked.declared.why_none(profile):
        raise ConfigError(why)
    pool = max(asked.declared.pools_for(profile), key=lambda pool: (pool.spot, _places(pool, profile)))
    return Machine(profile, device, pool.name, _places(pool, profile), math.ceil(pool.cpu), pool.spot)


def _this_machine(asked: Asked, profile: Profile) -> Machine:
    """All that is at hand, for every stage."""
    if asked.gpus is None:
        return Machine(profile, CPU, LOCAL, 1, math.ceil(profile.cpu), spot=False)
    whole = profile.model_copy(update={"gpu": asked.gpus.model, "gpus": asked.gpus.count})
    return Machine(whole, asked.gpus.model, LOCAL, 1, math.ceil(profile.cpu), spot=False)


def _places(pool: Pool, profile: Profile) -> int:
    return pool.most * (pool.gpus // profile.gpus if profile.gpus else 1)


def needs(asked: Asked) -> tuple[Need, ...]:
    """What every stage needs, in the order of the list. Raises ConfigError for a rate that nobody knows."""
    made_by = {output: stage.name for stage in asked.stages for output in stage.outputs}
    joining = machine(asked, profile_name(DEFAULT, asked.config.scale))
    found = []
    for stage in asked.stages:
        where = machine(asked, profile_name(stage.name, asked.config.scale))
        after = [made_by[name] for name in stage.inputs if not name.startswith("@")] + list(stage.after)
        units = {
            unit: asked.rates.choose(stage.name, unit, _devices(asked, where), asked.config)
            for unit in UNITS.get(stage.name, ONCE)
            if np.any(asked.amounts[unit])
        }
        if _asks_itself(asked, stage.name) and not any(chosen.rate.whole for chosen in units.values()):
            units["call"] = asked.rates.choose(stage.name, "call", _devices(asked, where), asked.config)
        shards = 1 if asked.local else stage.shards
        found.append(Need(stage.name, where, joining, units, shards, tuple(dict.fromkeys(after))))
    return tuple(found)


def _devices(asked: Asked, where: Machine) -> tuple[str, ...]:
    """Where a stage's rate may be of: on one machine some stages leave the GPU alone."""
    return tuple(dict.fromkeys((where.device, CPU))) if asked.local else (where.device,)


def _asks_itself(asked: Asked, stage: str) -> bool:
    return any(call.stage == stage and not call.served for call in asked.calls)


def amount(asked: Asked, stage: str, unit: str) -> np.ndarray | float:
    """Units of a stage in every run."""
    if unit != "call":
        return asked.amounts[unit]
    return sum(call.count for call in asked.calls if call.stage == stage and not call.served)


def seconds_of(asked: Asked, need: Need) -> np.ndarray:
    """Work of a stage in every run, in seconds of one piece that does all of it: without what pieces begin with, and
    without waiting; float64 [runs]."""
    total = np.zeros(asked.runs)
    for unit, chosen in need.units.items():
        each = asked.draw(f"{need.stage}:{unit}", chosen.seconds)
        devices = 1 if chosen.rate.device == CPU else max(1, need.machine.profile.gpus)
        total += amount(asked, need.stage, unit) * each / devices
    return total


def _starting(need: Need) -> tuple[Chosen, ...]:
    """Whose fixed seconds every piece begins with: of units that were measured as one, the first."""
    return tuple(chosen for chosen in need.units.values() if chosen.rate.fixed)[:1]


def _waiting(asked: Asked, need: Need, shards: int) -> np.ndarray:
    """Seconds that one of so many shards waits for servers; float64 [runs].

    Latency over concurrency, or the configured rate where that is slower; and together the shards get no more than the
    server gives one account.
    """
    alone, together, assumed = np.zeros(asked.runs), np.zeros(asked.runs), asked.rates.assumptions
    latency, repeated = (asked.draw(name, getattr(assumed, name)) for name in ("latency", "repeated"))
    for call in asked.calls:
        if call.stage == need.stage and call.served:
            each, tokens = latency / call.vlm.concurrency, tokens_in(asked, call.task)
            if call.vlm.requests_per_minute:
                each = np.maximum(each, 60 / call.vlm.requests_per_minute)
            if call.vlm.tokens_per_minute:
                each = np.maximum(each, 60 * tokens / call.vlm.tokens_per_minute)
            alone += call.count * repeated * each / shards
            together += call.count * repeated * tokens
    limit = asked.draw("tokens_per_minute", assumed.tokens_per_minute) / 60
    return np.maximum(alone, together / limit * min(shards, places(asked, need.machine)) / shards)


def places(asked: Asked, machine: Machine) -> int:
    """Pods of the machine that can run at a time: the pool's nodes, and the GPUs that there are."""
    per_pod = machine.profile.gpus
    return max(1, min(machine.nodes, asked.gpus.count // per_pod)) if per_pod and asked.gpus else machine.nodes


def tokens_in(asked: Asked, task: str) -> np.ndarray:
    """Tokens of a question, text and images; float64 [runs]."""
    assumed = asked.rates.assumptions
    images = demand.IMAGES_SHOWN[task] * asked.draw("image_tokens", assumed.image_tokens)
    return images + asked.draw(f"text:{task}", assumed.text_tokens[task])


def steps_of(asked: Asked, need: Need, shards: int | None = None) -> tuple[Step, ...]:
    """The stage's shards and the step that joins them, or the one step that it is."""
    shards, assumed = shards or need.shards, asked.rates.assumptions
    spread = asked.draw("stragglers", assumed.stragglers)[:, None]
    rng = np.random.default_rng([asked.seed, zlib.crc32(f"spread:{need.stage}".encode())])
    factors = np.exp(rng.standard_normal((asked.runs, shards)) * spread - spread**2 / 2)
    fixed = sum(chosen.rate.fixed.value for chosen in _starting(need))
    work = (seconds_of(asked, need) / shards + _waiting(asked, need, shards) + fixed)[:, None] * factors
    where, kept = need.machine, _kept_every(asked, need.stage, float(work.mean()))
    name = need.stage if shards == 1 else f"{need.stage} shards"
    made = Step(
        name, need.after, work, _setup(asked, where), where.pool, where.profile.gpus, where.spot, kept,
        3600 * where.profile.deadline,
    )  # fmt: skip
    if shards == 1:
        return (made,)
    join = asked.draw("join", assumed.join)[:, None]
    return made, Step(need.stage, (name,), join, _setup(asked, need.joining), need.joining.pool)


def _kept_every(asked: Asked, stage: str, seconds: float) -> float:
    """Seconds of work between what another machine can go on from (`artiagent.exchange`); inf: nothing is kept.

    Args:
        stage: whose; shards send their batches, trainings their checkpoints.
        seconds: of all its work, or of a shard's.
    """
    config = asked.config
    if stage in SHARDED:
        return asked.rates.assumptions.checkpoint.value
    if stage == "train_reward":
        return seconds / (config.reward.epochs * config.reward.members)
    if stage == "finetune":
        samples = float(np.mean(asked.amounts["frozen_sample"] + asked.amounts["whole_sample"]))
        kept = config.sft.save_steps * config.sft.samples_per_step
        return seconds * min(1.0, kept / samples) if samples else math.inf
    return math.inf


def _setup(asked: Asked, where: Machine) -> np.ndarray:
    kind = "gpu" if where.profile.gpus else "cpu"
    return np.zeros(asked.runs) if asked.local else asked.draw(f"setup:{kind}", asked.rates.assumptions.setup[kind])


def cluster_of(asked: Asked, found: Sequence[Need]) -> Cluster:
    """The nodes of all pools that are used."""
    used = [where for need in found for where in (need.machine, need.joining)]
    assumed, here = asked.rates.assumptions, asked.local
    return Cluster(
        gpus=asked.gpus.count if asked.gpus else 0,
        nodes={where.pool: min(w.nodes for w in used if w.pool == where.pool) for where in used},
        provision=np.zeros(asked.runs) if here else asked.draw("provision", assumed.provision),
        idle=0.0 if here else assumed.idle.value,
        taken=-math.log1p(-asked.preemption),
        retries=asked.config.scale.retries,
    )

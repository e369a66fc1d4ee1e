"""The plan: hours, GPU-hours, money, storage, calls, the critical path, and how much of it rests on assumptions.

Knows how simulated runs and prices become figures. Does not know how they are shown (`report`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

from artiagent.run_config import ConfigError
from artiagent.scale import demand
from artiagent.scale.asked import Asked
from artiagent.scale.estimate import Estimate
from artiagent.scale.prices import CHECK
from artiagent.scale.rates import CPU, ROOT
from artiagent.scale.records import CallPlan, Plan, Quantiles, RateUsed, StagePlan
from artiagent.scale.simulation import Outcome, simulate
from artiagent.scale.work import Machine, Need, amount, cluster_of, needs, steps_of, tokens_in

GB = 1e9
ENOUGH = 50  # runs, for a correlation


def make_plan(asked: Asked, origin: str) -> Plan:
    """Simulate and count. Raises ConfigError and ValueError for what is missing, before anything is simulated."""
    found = needs(asked)
    for need in found:
        _hourly(asked, need.machine)
    outcome = simulate([step for need in found for step in steps_of(asked, need)], cluster_of(asked, found), asked.seed)
    accounts = {need.stage: account(asked, need, outcome) for need in found}
    ended = np.where(np.isnan(outcome.seconds), np.nan, 1.0)
    calls, called = _calls(asked)
    storage = _storage(asked)
    months = asked.draw("months", asked.rates.assumptions.months)
    by = {
        "GPU": sum(a.money for a in accounts.values() if a.gpus), "CPU": sum(a.cpu_money for a in accounts.values()),
        "storage": sum(storage.values()) * months * asked.prices.storage_gb_month * ended, "API": called * ended,
    }  # fmt: skip
    gpu_hours = sum(a.gpu_hours for a in accounts.values())
    good, path = sum(outcome.paths.values()), max(outcome.paths, key=outcome.paths.__getitem__, default=())
    return Plan(
        config=origin, profile=asked.config.profile, gpus=str(asked.gpus or "none"), pairs=asked.pairs,
        runs=asked.runs, seed=asked.seed, preemption=asked.preemption, retries=asked.config.scale.retries,
        local=asked.local, acceptance=asked.acceptance, amounts=_amounts(asked),
        hours=Quantiles.of(outcome.seconds / 3600), gpu_hours=Quantiles.of(gpu_hours * ended),
        money=Quantiles.of(sum(by.values())), money_by={name: Quantiles.of(v * ended) for name, v in by.items()},
        utilisation=_ratio(sum(a.worked for a in accounts.values() if a.gpus), gpu_hours),
        failed=1 - good / asked.runs, failed_at={step: n / asked.runs for step, n in outcome.failed.items()},
        path=path, path_share=outcome.paths[path] / good if path else 0.0,
        stages=tuple(_stage(asked, need, accounts[need.stage], outcome) for need in found), calls=calls,
        storage_gb={name: Quantiles.of(value) for name, value in storage.items()}, currency=asked.prices.currency,
        prices=f"{_shown(asked.prices.origin)}, as of {asked.prices.as_of}: {asked.prices.note}",
        matters=_matters(asked, {"hours": outcome.seconds, "money": sum(by.values())}), rest=_rest(asked),
        notes=tuple(_notes(asked, found)),
    )  # fmt: skip


def _amounts(asked: Asked) -> dict[str, Quantiles]:
    return {unit: Quantiles.of(np.broadcast_to(value, asked.runs)) for unit, value in asked.amounts.items()}


class Account(NamedTuple):
    """Of a stage, for every run; float64 [runs]. ``gpus``: of a shard."""

    gpus: int
    hours: np.ndarray  # wall time
    node_hours: np.ndarray  # paid, of the shards
    gpu_hours: np.ndarray  # paid
    worked: np.ndarray  # GPU-hours of work that counted, of a CPU stage node-hours
    money: np.ndarray  # shards and joining
    cpu_money: np.ndarray  # of it for machines without a GPU
    interruptions: np.ndarray


def account(asked: Asked, need: Need, outcome: Outcome) -> Account:
    """What a stage took and cost."""
    gpus = need.machine.profile.gpus
    shards = need.stage if need.shards == 1 else f"{need.stage} shards"
    nodes = outcome.paid[shards] / 3600
    own = nodes * _hourly(asked, need.machine)
    joined = 0.0 if shards == need.stage else outcome.paid[need.stage] / 3600 * _hourly(asked, need.joining)
    return Account(
        gpus=gpus,
        hours=(outcome.spans[need.stage][:, 1] - outcome.spans[shards][:, 0]) / 3600,
        node_hours=nodes,
        gpu_hours=nodes * gpus,
        worked=outcome.worked[shards] / 3600 * max(1, gpus),
        money=own + joined,
        cpu_money=(joined if gpus else own + joined) + 0 * nodes,
        interruptions=outcome.interruptions[shards],
    )


def _hourly(asked: Asked, machine: Machine) -> float:
    """Price of a node's hour, or of the part of it that the profile takes."""
    if machine.device == CPU:
        return machine.cores * asked.prices.cpu_hour
    return machine.profile.gpus * asked.prices.gpu(machine.device, machine.spot)


def _stage(asked: Asked, need: Need, spent: Account, outcome: Outcome) -> StagePlan:
    names = {need.stage, f"{need.stage} shards"}
    on_path = sum(n for path, n in outcome.paths.items() if names & set(path)) / max(1, sum(outcome.paths.values()))
    return StagePlan(
        name=need.stage, profile=need.machine.profile.name, device=need.machine.device, gpus=spent.gpus,
        spot=need.machine.spot, shards=need.shards,
        rates=tuple(
            RateUsed(unit=unit, amount=float(np.median(amount(asked, need.stage, unit))), seconds=chosen.seconds)
            for unit, chosen in need.units.items()
        ),
        hours=Quantiles.of(spent.hours), gpu_hours=Quantiles.of(spent.gpu_hours), money=Quantiles.of(spent.money),
        worked=_ratio(spent.worked, spent.node_hours * max(1, spent.gpus)) or 0.0,
        interruptions=_mean(spent.interruptions) or 0.0, on_path=on_path,
    )  # fmt: skip


def _calls(asked: Asked) -> tuple[tuple[CallPlan, ...], np.ndarray]:
    """Calls to servers by task, and what all of them cost, float64 [runs]."""
    planned, total = [], np.zeros(asked.runs)
    assumed = asked.rates.assumptions
    repeated = asked.draw("repeated", assumed.repeated)
    for call in asked.calls:
        if not call.served:
            continue
        made = call.count * repeated
        read = made * tokens_in(asked, call.task)
        written = made * asked.draw(f"answer:{call.task}", assumed.answer_tokens[call.task])
        price = asked.prices.calls(call.vlm)
        money = (read * price.tokens_in + written * price.tokens_out) / 1e6 if price else np.zeros(asked.runs)
        total += money
        planned.append(
            CallPlan(
                stage=call.stage, task=call.task, calls=Quantiles.of(made), tokens_in=Quantiles.of(read),
                tokens_out=Quantiles.of(written), money=Quantiles.of(money),
            )
        )  # fmt: skip
    return tuple(planned), total


def _storage(asked: Asked) -> dict[str, np.ndarray]:
    """10^9 bytes by data set, float64 [runs]."""
    assumed, side = asked.rates.assumptions, asked.config.perception.short_side
    pixels = side**2 * asked.draw("aspect", assumed.aspect)
    sets = demand.stored(asked.amounts, pixels, asked.draw("bytes_per_pixel", assumed.bytes_per_pixel))
    return {name: value / GB for name, value in sets.items()} | {"models": asked.draw("models", _models(asked))}


def _models(asked: Asked) -> Estimate:
    """10^9 bytes of fine-tuned models and checkpoints."""
    vlm = asked.config.inputs.vlm
    if (known := asked.rates.assumptions.model_gb.get(vlm)) is not None:
        return known
    folder = next((p for p in (Path(vlm), ROOT / vlm) if p.is_dir()), None)
    if folder is None:
        raise ConfigError(f"{asked.rates.assumptions.origin}: model_gb has no {vlm}; add the size of what a run leaves")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Estimate(value=4 * size / GB, basis="counted", source=f"four times {vlm}: weights, gradient and moments")


def _matters(asked: Asked, told: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Squared rank correlation of every number that was drawn with what came out: what to measure first."""
    good = ~np.isnan(told["hours"])
    if good.sum() < ENOUGH:
        return {}
    told = {what: values[good] for what, values in told.items()}
    drawn = {name: values[good] for name, values in asked.drawn.items() if np.ptp(values) > 0}
    return {
        name: {what: float(spearmanr(d, v).statistic) ** 2 if np.ptp(v) else 0.0 for what, v in told.items()}
        for name, d in drawn.items()
    }


def _rest(asked: Asked) -> dict[str, Estimate]:
    """What the plan rests on besides the rates."""
    assumed = asked.rates.assumptions
    names = ["aspect", "bytes_per_pixel"]
    if not asked.local:
        names += ["provision", "idle", "checkpoint", "join"]
    if any(call.served for call in asked.calls):
        names += ["image_tokens", "latency", "tokens_per_minute", "repeated", "caption_share"]
    tokens: dict[str, Estimate] = {}
    for task in sorted({call.task for call in asked.calls if call.served}):
        tokens |= {f"prompt tokens, {task}": assumed.text_tokens[task]}
        tokens |= {f"answer tokens, {task}": assumed.answer_tokens[task]}
    setup = {} if asked.local else {f"setup {kind}": estimate for kind, estimate in assumed.setup.items()}
    found = {name: getattr(assumed, name) for name in (*names, "stragglers")}
    named = {"acceptance": asked.acceptance, "scene_share": asked.scene_share, "models in GB": _models(asked)}
    if asked.config.synthesis.variant_tokens == "region":
        named["region"] = assumed.region
    return {**named, **found, **setup, **tokens}


def _notes(asked: Asked, found: Sequence[Need]) -> list[str]:
    """What a reader should know before believing the figures."""
    notes = []
    profiles = {need.machine.profile.name: need for need in found if need.machine.profile.gpus}
    for name, need in profiles.items():
        if need.machine.profile.gpu != asked.gpus.model:
            notes.append(f"profile {name} names {need.machine.profile.gpu}; planned with {asked.gpus.model}")
        places = need.machine.nodes * need.machine.profile.gpus
        if not asked.local and need.shards > 1 and places < asked.gpus.count:
            notes.append(
                f"pool {need.machine.pool} holds {places} GPUs of the {asked.gpus.count}: raise pools."
                f"{need.machine.pool}.most in infra/profiles.yaml"
            )
    for model in sorted({str(c.vlm.model) for c in asked.calls if c.served and asked.prices.calls(c.vlm) is None}):
        notes.append(
            f"calls to {model} are counted as free: set price_in and price_out, or add it under api in "
            f"{asked.prices.origin}; a server of your own needs GPUs that are not in this plan"
        )
    for need in found:
        whole = need.machine.profile.deadline
        expected = float(np.median(steps_of(asked, need)[0].seconds)) / 3600
        if expected > 0.8 * whole:
            notes.append(f"{need.stage}: a shard takes {expected:.1f} h of a deadline of {whole:g} h: cut it into more")
    notes.append(f"prices: {CHECK}")
    return notes


def _shown(path: str) -> str:
    """Below the checkout, without it."""
    place = Path(path)
    return str(place.relative_to(ROOT)) if place.is_relative_to(ROOT) else path


def _mean(values: np.ndarray) -> float | None:
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else None


def _ratio(part: np.ndarray, whole: np.ndarray) -> float | None:
    """Of the sums over all runs that ended."""
    return float(np.nansum(part) / np.nansum(whole)) if np.nansum(whole) else None

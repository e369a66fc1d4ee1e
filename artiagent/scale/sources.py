"""Rates out of what has been run: rehearsals of synthesis and fine-tuning, and finished runs.

Knows the files those leave. Does not know which rate a plan takes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from artiagent.config import Config
from artiagent.run_config import ConfigError, parse_config, read_parameters
from artiagent.scale.demand import units
from artiagent.scale.estimate import Estimate
from artiagent.scale.rates import ANY, CPU, ONCE, UNITS, Rate, RateFile

BACKBONES = {"flux-dev": "black-forest-labs/FLUX.1-dev", "flux-schnell": "black-forest-labs/FLUX.1-schnell",
             "qwen-image": "Qwen/Qwen-Image"}  # fmt: skip
MODELS = {"qwen2.5-vl-7b": "Qwen/Qwen2.5-VL-7B-Instruct", "qwen2.5-vl-3b": "Qwen/Qwen2.5-VL-3B-Instruct",
          "internvl3.5-8b": "OpenGVLab/InternVL3_5-8B-HF", "nano": "data/weights/nano-vl"}  # fmt: skip
EFFECTS = ("publish", "register")  # stages that leave no record of their seconds
CARDS = ("GH200", "GB200", "H200", "H100", "B200", "A100", "L40S", "L4", "A10G", "A10", "V100", "T4", "MI300X")


def read_json(path: Path) -> dict[str, Any]:
    """Raises ConfigError for a file that is not there or holds something else."""
    if not path.exists():
        raise ConfigError(f"{path}: no such file; expected a rate file, a rehearsal's --out or the folder of a run")
    try:
        tree = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected an object, got {type(tree).__name__}")
    return tree


def card(device: str) -> str:
    """The model in a device's name: ``NVIDIA H100 80GB HBM3`` -> ``H100``; the name itself where none is known."""
    return next((model for model in CARDS if model in device.upper().replace("-", " ").split()), device)


def rates_of_rehearsal(report: dict[str, Any], path: Path) -> RateFile:
    """Of synthesis or fine-tuning: seconds on the device it ran on, operations for any other."""
    try:
        rates = _synthesis(report, path) if "synthesis" in report else _finetune(report, path)
    except KeyError as error:
        raise ConfigError(f"{path}: a rehearsal's report without {error}; run 'artiagent rehearse' again") from error
    return RateFile(note=f"rehearsal {path.name}", rates=rates)


def _synthesis(report: dict[str, Any], path: Path) -> tuple[Rate, ...]:
    asked, rows, ahead, compute = (report[key] for key in ("rehearsal", "rows", "projection", "compute"))
    settings = {"perception.short_side": asked["size"], "synthesis.quantize": report["synthesis"]["quantize"]}
    settings["inputs.generator"] = BACKBONES.get(asked["backbone"], asked["backbone"])
    timed = {**settings, "synthesis.compile": report["synthesis"]["compile"]}
    evaluations = rows["evaluations_per_source"] / asked["variants"]
    flops = sum(compute[f"{kind}_call_flops"] * compute[f"{kind}_calls"] for kind in ("inversion", "injection"))
    per_row = flops * ahead["extrapolated_by"] / rows["evaluations_per_source"]
    command = f"artiagent rehearse synthesis --backbone {asked['backbone']} --size {asked['size']}"
    return _timed_and_counted(
        "synthesize", "row", report, path, command, ahead["seconds_per_pair"] / evaluations, per_row, timed, settings
    )


def _finetune(report: dict[str, Any], path: Path) -> tuple[Rate, ...]:
    asked, ahead = report["rehearsal"], report["projection"]
    settings = {
        "inputs.vlm": MODELS.get(asked["model"], asked["model"]), "sft.method": asked["method"],
        "sft.image_pixels": asked["pixels"], "sft.gradient_checkpointing": asked["checkpointing"],
    }  # fmt: skip
    rows, factor = report["tokens"]["rows"], ahead["extrapolated_by"]
    again = report["compute"]["forward_language_flops"] if asked["checkpointing"] else 0  # computed once more
    flops = (report["compute"]["step_model_flops"] + again) * factor / rows
    unit = "whole_sample" if asked["stage"] == "vision" else "frozen_sample"
    options = " ".join(f"--{name} {asked[name]}" for name in ("model", "method", "stage"))
    command = f"artiagent rehearse finetune {options}"
    return _timed_and_counted(
        "finetune", unit, report, path, command, report["seconds"]["sample"] * factor, flops, settings, settings
    )


def _timed_and_counted(
    stage: str, unit: str, report: dict[str, Any], path: Path, command: str, seconds: float, flops: float,
    timed: dict[str, Any], counted: dict[str, Any],
) -> tuple[Rate, ...]:  # fmt: skip
    """Seconds on the device of the rehearsal, measured unless blocks were left out; operations for others."""
    machine, part = report["machine"], report["projection"]["extrapolated_by"] != 1
    device = CPU if machine["type"] == "cpu" else card(machine["device"])
    told = f"{command} on {machine['device']}, {report['date'][:10]}, {path.name}"
    took = Estimate(
        value=seconds, basis="assumed" if part else "measured",
        source=f"{told}{', extrapolated from a part of the blocks' if part else ''}",
    )  # fmt: skip
    high = 1.2 * flops if part else flops  # it scales by weights, and not all weights meet every token
    count = Estimate(value=flops, low=flops, high=high, basis="counted", source=took.source)
    return (
        Rate(stage=stage, unit=unit, device=device, seconds=took, settings=timed),
        Rate(stage=stage, unit=unit, device=ANY, flops=count, settings=counted),
    )


def rates_of_run(folder: Path) -> RateFile:
    """Seconds of the stages of a finished run over what it did; stages that came out of the cache say nothing.

    What the run took beside its measured stages is the report's, so that the whole is the whole. Raises ConfigError for
    a run that did not end, or in which nothing had to be done.
    """
    record, summary = read_json(folder / "run.json"), read_json(folder / "summary.json")
    config = parse_config(read_parameters(folder / "config.yaml")["config"], str(folder / "config.yaml"))
    done = {name: s["seconds"] for name, s in record["stages"].items() if not s["cached"]}
    if not done or not record["finished"]:
        raise ConfigError(f"{folder}: no stage of this run did anything (all cached, or it did not end)")
    amounts, device = units_of_run(config, summary), card(record["machine"])
    if len(done) == len(record["stages"]):
        started, ended = (datetime.fromisoformat(record[key]) for key in ("started", "finished"))
        done |= dict.fromkeys(EFFECTS, 0.0)
        done["report"] = max(0.0, (ended - started).total_seconds() - sum(done.values()))
    source = f"run {record['name']} on {record['machine']}, {record['started'][:10]}"
    rates = []
    for stage, seconds in done.items():
        # Of a stage with several units (frozen and whole samples) each has the mean over all.
        if amount := sum(amounts[unit] for unit in UNITS.get(stage, ONCE)):
            taken = Estimate(value=seconds / amount, basis="run", source=source)
            common = {"device": device if device in CARDS else CPU, "settings": {"profile": config.profile}}
            common |= {"seconds": taken, "amount": amount, "whole": True}
            rates += [Rate(stage=stage, unit=unit, **common) for unit in UNITS.get(stage, ONCE)]
    pairs = summary["pairs"]["scored"]["pairs"]
    told = f"{source}: {pairs['accepted']} of {pairs['tried']} pairs"
    return RateFile(
        note=source, profile=config.profile, rates=tuple(rates),
        acceptance=Estimate(value=pairs["accepted"] / pairs["tried"], basis="run", source=told),
        scene_share=Estimate(value=1, basis="run", source=f"{source}: its images are those that became scenes"),
    )  # fmt: skip


def units_of_run(config: Config, summary: dict[str, Any]) -> dict[str, float]:
    """What the run did, by unit; its accepted pairs and what they took, with unscored sets."""
    groups = [group["pairs"] for name in ("scored", "unscored") if (group := summary["pairs"].get(name))]
    tried, accepted = (sum(group[key] for group in groups) for key in ("tried", "accepted"))
    items = summary["evaluation"]["n"] + sum(other["n"] for other in summary["evaluation"].get("further", ()))
    return units(config, accepted, accepted / tried, 1.0, items, 0.18)


def fitted(files: Sequence[RateFile]) -> list[RateFile]:
    """Runs of one profile and different sizes as one: what every piece begins with, and what a unit takes.

    A single run cannot tell them apart, and overrates a unit the more, the smaller it was. A line is drawn through the
    seconds over the units, neither part below zero. Files of other kinds stay; of several runs the last one's
    acceptance holds.
    """
    runs: dict[str, list[RateFile]] = {}
    for file in files:
        if file.profile:
            runs.setdefault(file.profile, []).append(file)
    others = [file for file in files if not file.profile]
    return [*others, *(_fit(same) if len(same) > 1 else same[0] for same in runs.values())]


def _fit(files: Sequence[RateFile]) -> RateFile:
    points: dict[tuple[str, str, str], list[Rate]] = {}
    for rate in (rate for file in files for rate in file.rates):
        points.setdefault((rate.stage, rate.unit, rate.device), []).append(rate)
    return files[-1].model_copy(update={"rates": tuple(_line(rates) for rates in points.values())})


def _line(rates: Sequence[Rate]) -> Rate:
    amounts = np.array([rate.amount for rate in rates])
    if len(set(amounts)) < 2:
        return rates[-1]
    taken = amounts * [rate.seconds.value for rate in rates]
    (fixed, each), _ = nnls(np.stack([np.ones_like(amounts), amounts], axis=1), taken)
    source = f"{rates[-1].seconds.source}, and {len(rates) - 1} of other sizes"
    told = {name: Estimate(value=v, basis="run", source=source) for name, v in (("seconds", each), ("fixed", fixed))}
    return rates[-1].model_copy(update={**told, "amount": float(amounts.max())})

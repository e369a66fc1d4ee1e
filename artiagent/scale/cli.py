"""``artiagent plan``: what a run will take and cost, before it starts."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from artiagent.orchestration import stage_list

if TYPE_CHECKING:
    from artiagent.config import Config
    from artiagent.scale.asked import Asked
    from artiagent.scale.estimate import Estimate
    from artiagent.scale.rates import Rates

PAIRS = 50_000
EXAMPLES = """examples:
  artiagent plan --config configs/paper.yaml --gpus 64xH100
  artiagent plan --config configs/paper.yaml --gpus 8xH100 --gpus 64xH100 --preemption 0.2
  artiagent plan --config configs/paper.yaml --gpus 64xH100 --rates rehearsal.json --prices my-prices.yaml --out plan/
  artiagent plan --config configs/nano.yaml --local --pairs 510 --rates runs/nano-1a2b3c4d

--rates takes a file of rates, the --out of 'artiagent rehearse synthesis' or 'rehearse finetune', or the folder of a
finished run, whose acceptance rate is then taken, too; two runs of different sizes tell what a stage begins with from
what a unit takes. What nobody measured comes from infra/assumptions.yaml, with
bounds that the simulation draws from, and is marked so. Prices: infra/prices.yaml; check them before you rely on them.
"""


def add_commands(
    commands: argparse._SubParsersAction, add: Callable[..., argparse.ArgumentParser], config_options: Callable
) -> None:
    made = add(commands, "plan", "hours, GPU-hours, money and storage of a run before it starts, simulated", plan)
    made.epilog, made.formatter_class = EXAMPLES, argparse.RawDescriptionHelpFormatter
    config_options(made, "configs/paper.yaml")
    made.add_argument(
        "--gpus", action="append", default=[], metavar="NxMODEL",
        help="all GPUs that there are, e.g. 64xH100; again: alternatives side by side",
    )  # fmt: skip
    made.add_argument("--pairs", type=int, default=PAIRS, help="accepted pairs that are wanted (default %(default)s)")
    made.add_argument(
        "--acceptance", type=float, metavar="SHARE",
        help="of the pairs that curation accepts; default: of the run that --rates names, else assumed",
    )  # fmt: skip
    made.add_argument(
        "--rates", action="append", type=Path, default=[], metavar="PLACE", help="measured rates; repeatable, see below"
    )
    made.add_argument("--prices", type=Path, metavar="FILE", help="default: infra/prices.yaml")
    made.add_argument("--runs", type=int, default=1000, help="simulated runs (default %(default)s)")
    made.add_argument(
        "--preemption", type=float, default=0.1, metavar="CHANCE",
        help="that a spot GPU is taken away within an hour (default %(default)s)",
    )  # fmt: skip
    made.add_argument("--seed", type=int, default=0, help="of everything that is drawn (default %(default)s)")
    made.add_argument(
        "--local", action="store_true", help="one machine, one stage after the other: no pods, no nodes from zero"
    )
    made.add_argument("--json", action="store_true", help="print all of it as JSON")
    made.add_argument("--out", type=Path, metavar="FOLDER", help="write plan.json, plan.txt and charts there")


def plan(arguments: argparse.Namespace) -> int:
    """Plan, print, and write."""
    from artiagent.scale.plan import make_plan
    from artiagent.scale.report import side_by_side, text
    from artiagent.scale.sweep import sweep

    alternatives = _alternatives(arguments)
    plans = [make_plan(asked, str(arguments.config)) for asked in alternatives]
    curves = [sweep(asked) for asked in alternatives]
    told = "\n\n".join(text(each, curve) for each, curve in zip(plans, curves, strict=True))
    if len(plans) > 1:
        told = f"{told}\n\n{side_by_side(plans)}"
    tree = {
        "plans": [
            {**each.model_dump(mode="json"), "shards": [c.model_dump(mode="json") for c in curve]}
            for each, curve in zip(plans, curves, strict=True)
        ]
    }
    print(json.dumps(tree, indent=1) if arguments.json else told)
    if arguments.out:
        from artiagent.scale.charts import charts
        from artiagent.store import write_atomic

        write_atomic(arguments.out / "plan.json", json.dumps(tree, indent=1).encode())
        write_atomic(arguments.out / "plan.txt", f"{told}\n".encode())
        for each, curve in zip(plans, curves, strict=True):
            charts(each, curve, arguments.out / each.gpus if len(plans) > 1 else arguments.out)
    return 0


def _alternatives(arguments: argparse.Namespace) -> list[Asked]:
    """What is asked for each of the ``--gpus``."""
    from artiagent.run_config import ConfigError, load_config
    from artiagent.scale.asked import Asked, Gpus
    from artiagent.scale.prices import FILE, load_prices
    from artiagent.scale.profiles import load_profiles
    from artiagent.scale.rates import Rates, load_rates
    from artiagent.scale.sources import fitted

    config = load_config(arguments.config, arguments.set)
    if config.sft.nodes > 1:
        raise ConfigError(f"sft.nodes is {config.sft.nodes}, a plan counts fine-tuning on one machine; set sft.nodes=1")
    rates = Rates.load(fitted([load_rates(path) for path in arguments.rates]))
    return [
        Asked(
            config=config, stages=stage_list(config), pairs=arguments.pairs, gpus=gpus, declared=load_profiles(),
            rates=rates, prices=load_prices(arguments.prices or FILE), acceptance=_acceptance(arguments, rates, config),
            runs=arguments.runs, preemption=arguments.preemption, seed=arguments.seed, local=arguments.local,
        )
        for gpus in [Gpus.parse(text) for text in arguments.gpus] or [None]
    ]  # fmt: skip


def _acceptance(arguments: argparse.Namespace, rates: Rates, config: Config) -> Estimate:
    """As asked, of a run, or assumed."""
    from artiagent.scale.estimate import Estimate

    if arguments.acceptance is not None:
        if not 0 < arguments.acceptance <= 1:
            raise ValueError(f"--acceptance {arguments.acceptance}: expected more than 0 and at most 1")
        return Estimate(value=arguments.acceptance, source="asked for: --acceptance")
    return rates.known("acceptance", config)

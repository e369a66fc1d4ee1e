"""``artiagent search``: pictures for prompts, searched for with a reward model, and the proof that they got better."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from artiagent.orchestration import open_model, pipelines_command

if TYPE_CHECKING:
    from artiagent.config import Config

NAMES = ("random", "zero_order", "particles")
EXAMPLES = """examples:
  artiagent search                                              # the configured prompts, as a pipeline with a report
  artiagent search --prompts mine.txt --algorithms zero_order
  artiagent search --set search.rounds=4 --set search.limit=8
  artiagent search --generator black-forest-labs/FLUX.1-schnell --set search.size=1024 --set search.window=1
  artiagent search --prompts mine.txt --out found --reward my/reward --model my/tuned    # without ZenML

With --out everything lies in one folder: the best picture of every search in best/, search.html, search.json, and
every candidate with its seed and reward as Parquet. Interrupted, the same command goes on; best/ has what was found.
"""


def add_commands(
    commands: argparse._SubParsersAction, add: Callable[..., argparse.ArgumentParser], config_options: Callable
) -> None:
    made = add(commands, "search", "reward-guided generation: the best of many pictures, and who agrees", search)
    made.epilog, made.formatter_class = EXAMPLES, argparse.RawDescriptionHelpFormatter
    config_options(made)
    made.add_argument("--stack", metavar="NAME", help="ZenML stack to run on; default: the active one")
    made.add_argument("--prompts", metavar="FILE", help="a prompt a line; default: search.prompts")
    made.add_argument("--algorithms", metavar="NAME,NAME", type=_names, help=f"of {', '.join(NAMES)}; default: all")
    made.add_argument("--generator", metavar="FOLDER", help="FluxPipeline folder or hub id; default: inputs.sampler")
    made.add_argument("--reward", help="reward folder or models:/ uri; default: the profile's champion")
    made.add_argument("--model", help="VLM folder or models:/ uri that judges; default: the profile's champion")
    made.add_argument("--out", type=Path, metavar="DIR", help="work there without ZenML; resumes")


def search(arguments: argparse.Namespace) -> int:
    """As a pipeline; with ``--out`` into a folder of one's own."""
    return pipelines_command("search")(arguments) if arguments.out is None else _into(arguments)


def configured(arguments: argparse.Namespace) -> Config:
    """The configuration with what the options say."""
    from artiagent.run_config import load_config

    config = load_config(arguments.config, arguments.set)
    section = {"prompts": arguments.prompts, "algorithms": arguments.algorithms}
    changed = config.search.model_copy(update={key: value for key, value in section.items() if value})
    inputs = config.inputs.model_copy(update={"sampler": arguments.generator} if arguments.generator else {})
    return config.model_copy(update={"search": changed, "inputs": inputs})


def _into(arguments: argparse.Namespace) -> int:
    from artiagent.checkpoints import checkpoint_ref, model_name
    from artiagent.mitigation.prompts import read_prompts
    from artiagent.mitigation.search.records import SearchReport
    from artiagent.mitigation.search.stage import BEST, FIGURES, PAGE
    from artiagent.mitigation.search.stage import search as run

    config = configured(arguments)
    prompts = read_prompts(config.search.prompts, config.search.limit)
    inputs, names = config.inputs, config.registry
    drawn = run(
        config.search, config.evaluation, prompts,
        checkpoint_ref(model_name(inputs.sampler), inputs.sampler),
        open_model(arguments.reward or f"models:/{names.reward_name}@champion"),
        checkpoint_ref("clip", inputs.clip),
        open_model(arguments.model or f"models:/{names.vlm_name}@champion"),
        checkpoint_ref("parser", inputs.parser) if inputs.parser else None,
        arguments.out,
    )  # fmt: skip
    report = SearchReport.model_validate_json((arguments.out / FIGURES).read_text())
    print("\n".join(report.remarks))
    print(f"{drawn.rows} candidates for {report.prompts} prompts\n{arguments.out / BEST}\n{arguments.out / PAGE}")
    return 0


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(filter(None, text.split(","))))
    if unknown := [name for name in names if name not in NAMES]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: expected some of {', '.join(NAMES)}")
    return names

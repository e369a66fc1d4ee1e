"""``artiagent study``: groups of fine-tuning runs, compared on the primary benchmark."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from artiagent.orchestration import pipelines_command

STUDY = """examples:
  artiagent study
  artiagent study --groups scaling,faults
  artiagent study --groups recipe --set study.seeds=[0,1,2]
  artiagent study --set study.scenes.count=60 --set 'study.groups.3.seeds=[0]'
  artiagent study --set study.workers=1 --set sft.threads=8 --set evaluation.batch_size=64     # one GPU

A group is a question, a row is a name and what it sets; see the file. Finished runs stay on disk: the same command
again, with a row, a seed or a group more, or after a kill, makes only what is missing.
"""


def add_commands(
    commands: argparse._SubParsersAction, add: Callable[..., argparse.ArgumentParser], config_options: Callable
) -> None:
    """The command with its options; `add(commands, name, help, command)` makes a parser."""
    made = add(
        commands, "study", "amount and source of data, recipe, turns and stages of fine-tuning: curves, a report",
        pipelines_command("study"),
    )  # fmt: skip
    made.epilog, made.formatter_class = STUDY, argparse.RawDescriptionHelpFormatter
    config_options(made, "configs/nano_study.yaml")
    made.add_argument("--groups", metavar="NAME,NAME", help="only these groups")
    made.add_argument("--stack", metavar="NAME", help="ZenML stack to run on; default: the active one")

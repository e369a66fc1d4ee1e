"""``artiagent promote | rollback | models``: options and messages. What they do lies in the pipelines."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from artiagent.orchestration import pipelines_command

PROMOTE = """examples:
  artiagent promote --dry-run
  artiagent promote
  artiagent promote --version 7
  artiagent promote --set promotion.primary=auroc --set promotion.guarded='[macro_f1, iou]'
  artiagent promote --version 7 --force --reason "champion answers nothing on the new driver"
  artiagent promote --name artiagent-reward-nano
  artiagent promote --set promotion.approval=human
  artiagent promote --approve 7 --by "R. Viewer"

The version with the alias "challenger" takes the place of the "champion" of the same profile when it wins the primary
metric on the primary benchmark (the 95 % interval of the paired difference lies above 0), loses none of the guarded
ones significantly, and the shortcut audit of its training data passed. --dry-run decides and changes nothing, but
counts as a look at the benchmark. Reward models (--name) are judged by the same rule on the rewards of the benchmark's
images, with the metrics promotion.reward_primary and promotion.reward_guarded. --force promotes whatever the gate says,
and keeps both. See docs/promotion.md.
Exit code: 0 promoted, waiting for approval, or champion already; 1 kept; 2 refused, with the reason.
"""
ROLLBACK = """examples:
  artiagent rollback --reason "boxes shifted by one patch in production"
  artiagent rollback --to 6
  artiagent rollback --name artiagent-reward-nano

Champion and previous change places, so a second call undoes the first. With --to a repeated call changes nothing.
"""
MODELS = """examples:
  artiagent models list
  artiagent models card 7
  artiagent models card 7 > MODEL_CARD.md
  artiagent models card champion --name artiagent-reward-nano
"""


def add_commands(
    commands: argparse._SubParsersAction, add: Callable[..., argparse.ArgumentParser], config_options: Callable
) -> None:
    """The three commands; ``add(commands, name, help, command)`` makes a parser."""
    made = add(commands, "promote", "the gate between challenger and champion", pipelines_command("promote"))
    _describe(made, PROMOTE)
    config_options(made)
    _name(made)
    made.add_argument("--version", metavar="N", help="of the registered model; default: the alias challenger")
    made.add_argument("--dry-run", action="store_true", help="decide, and change nothing")
    made.add_argument("--force", action="store_true", help="promote whatever the gate says; needs --reason")
    made.add_argument("--reason", default="", metavar="TEXT", help="of --force; recorded")
    made.add_argument("--approve", metavar="N", help="complete a promotion that waits for a person; needs --by")
    made.add_argument("--by", default="", metavar="NAME", help="who does it; recorded")
    made = add(commands, "rollback", "the previous champion again", pipelines_command("rollback"))
    _describe(made, ROLLBACK)
    config_options(made)
    _name(made)
    made.add_argument("--to", metavar="N", help="only if this version is the previous champion; nothing if it is back")
    made.add_argument("--reason", default="", metavar="TEXT", help="recorded")
    made.add_argument("--by", default="", metavar="NAME", help="who does it; default: the user")
    kinds = commands.add_parser("models", help="registered versions and their cards").add_subparsers(required=True)
    made = add(kinds, "list", "all versions with aliases, scores and verdicts", pipelines_command("list_models"))
    _describe(made, MODELS)
    made = add(kinds, "card", "a version's model card, as Markdown", pipelines_command("model_card"))
    _describe(made, MODELS)
    config_options(made)
    made.add_argument("version", help="number, or an alias such as champion")
    _name(made)


def _name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", help="registered model; default: registry.vlm_name of the configuration")


def _describe(parser: argparse.ArgumentParser, text: str) -> None:
    parser.epilog, parser.formatter_class = text, argparse.RawDescriptionHelpFormatter

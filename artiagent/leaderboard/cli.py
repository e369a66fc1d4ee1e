"""``artiagent leaderboard``: every evaluation side by side. ``artiagent attention``: where models look."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artiagent.orchestration import pipelines_module

if TYPE_CHECKING:
    from artiagent.config import Config
    from artiagent.leaderboard.board import Board, Table
    from artiagent.leaderboard.collect import Truths
    from artiagent.records import Prediction

STRIPPED = 6  # models beside each other in a strip
LEADERBOARD = """examples:
  artiagent leaderboard
  artiagent leaderboard --benchmark drawn --sort auroc
  artiagent leaderboard --strips 24 --out board/
  artiagent leaderboard --no-track --set evaluation.resamples=2000

Reads what 'artiagent evaluate' and pipeline runs left below the project's home, and evaluations in folders of your own
(--evaluation DIR). Rows of different revisions of a benchmark, or of different questions, stand in tables of their own.
Writes leaderboard.html (self-contained), leaderboard.csv (long format) and leaderboard.json; in a checkout also a table
in MLflow.
"""


def add_commands(
    commands: argparse._SubParsersAction, add: Callable[..., argparse.ArgumentParser], config_options: Callable
) -> None:
    board = add(commands, "leaderboard", "all evaluations side by side: terminal, HTML, CSV, MLflow", leaderboard)
    board.epilog, board.formatter_class = LEADERBOARD, argparse.RawDescriptionHelpFormatter
    config_options(board)
    board.add_argument("--benchmark", metavar="NAME", help="only the tables of this one; default: all")
    board.add_argument(
        "--sort", metavar="METRIC", help="e.g. macro_f1, auroc, iou, rouge_l (default: macro_f1, or iou)"
    )
    board.add_argument(
        "--evaluation", type=Path, action="append", default=[], metavar="DIR", help="an --out folder of 'artiagent "
        "evaluate' to include; repeatable",
    )  # fmt: skip
    board.add_argument("--out", type=Path, help="folder for the files; default: leaderboard below the project's home")
    board.add_argument("--strips", type=int, default=12, metavar="N", help="images shown per benchmark (default 12)")
    board.add_argument("--no-track", action="store_true", help="no table in MLflow")


def leaderboard(arguments: argparse.Namespace) -> int:
    """Collect, print and write; exit code 2 without any evaluation."""
    from artiagent.evaluation.found import evaluations
    from artiagent.leaderboard.board import METRICS, assemble
    from artiagent.leaderboard.collect import Truths, collect
    from artiagent.leaderboard.table import text
    from artiagent.report.leaderboard import PAGE, write_leaderboard
    from artiagent.run_config import load_config
    from artiagent.store import home

    if arguments.sort not in (None, *METRICS):
        raise ValueError(f"--sort {arguments.sort!r}: expected one of {', '.join(METRICS)}")
    if arguments.strips < 0:
        raise ValueError(f"--strips {arguments.strips}: expected 0 or more")
    config = load_config(arguments.config, arguments.set)
    sources, notes = collect([*arguments.evaluation, *evaluations()])
    if not sources:
        told = "".join(f"\n  {note}" for note in notes)
        raise ValueError(f"{home()}: no evaluation and no run with scores there; 'artiagent evaluate' makes one{told}")
    truths = Truths([*config.inputs.benchmarks, *(b for source in sources for b in source.benchmarks)])
    board = assemble(sources, truths, config.evaluation, arguments.benchmark, arguments.sort, notes)
    out = arguments.out or home() / "leaderboard"
    write_leaderboard(out, board, _galleries(board, truths, arguments.strips))
    print(text(board))
    print(out / PAGE)
    if not arguments.no_track:
        _track(config, board, out)
    return 0


def _galleries(board: Board, truths: Truths, count: int) -> dict[str, dict[str, Any]]:
    """Strips of each table whose benchmark and predictions lie here, of its first ``STRIPPED`` models."""
    from artiagent.report.strips import gallery

    found = {}
    for table in board.tables if count else ():
        benchmark, answers = truths.find(table.benchmark_sha256), _answers(table, truths)
        if benchmark is not None and answers:
            named = benchmark.model_copy(update={"name": table.benchmark})
            found[table.key] = gallery(named, answers, count, limit=table.n)
    return found


def _answers(table: Table, truths: Truths) -> dict[str, list[Prediction]]:
    """Model -> predictions, best first, where they are at hand."""
    from artiagent.leaderboard.collect import read_predictions

    items = truths.items(table.benchmark_sha256, table.n) or []
    found: dict[str, list[Prediction]] = {}
    for row in table.models:
        if row.predictions is not None and items and len(found) < STRIPPED:
            rows = read_predictions(row.predictions, table.benchmark, items, row.sha256, table.prompt_hash)
            found |= {row.model: rows} if rows else {}
    return found


def _track(config: Config, board: Board, folder: Path) -> None:
    """A run in MLflow that holds the table and the files; none where there is no checkout."""
    from artiagent.leaderboard.table import columns
    from artiagent.store import checkout

    if checkout() is None:
        print("not tracked in MLflow: this is no checkout of the repository")
        return
    pipelines_module()
    from steps.tracking import connect, log_leaderboard, tracking_uri

    run = log_leaderboard(connect(), config.profile, columns(board), folder)
    print(f"MLflow run {run} ({tracking_uri().partition(':')[0]})")

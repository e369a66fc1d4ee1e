"""``artiagent leaderboard``: every evaluation side by side. ``artiagent attention``: where models look."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artiagent.orchestration import REGISTERED, open_model, pipelines_module

if TYPE_CHECKING:
    import numpy as np

    from artiagent.config import BenchmarkSet, Config
    from artiagent.leaderboard.board import Board, Table
    from artiagent.leaderboard.collect import Truths
    from artiagent.records import CheckpointRef, Prediction

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
ATTENTION = """examples:
  artiagent attention --model data/weights/nano-vl --model models:/artiagent-vlm-nano@champion \\
    --benchmark drawn --out maps/
  artiagent attention --model base/ --model tuned/ --image picture.png --image other.jpg --out maps/
  artiagent attention --model tuned/ --benchmark drawn --items 24 --layers 4 --set evaluation.limit=200 --out maps/

The first model is what the others are compared with. --benchmark measures all its items (evaluation.limit of them) and
shows some; --image shows pictures of your own, without ground truth and so without figures.
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
    maps = add(commands, "attention", "where models look when they answer, beside the ground truth", attention)
    maps.epilog, maps.formatter_class = ATTENTION, argparse.RawDescriptionHelpFormatter
    config_options(maps)
    maps.add_argument("--model", action="append", required=True, help="folder, hub id or models:/ uri; repeatable")
    what = maps.add_mutually_exclusive_group(required=True)
    what.add_argument("--image", type=Path, action="append", help="a picture of your own; repeatable")
    what.add_argument("--benchmark", metavar="NAME", help="of inputs.benchmarks")
    maps.add_argument("--items", type=int, default=10, metavar="K", help="benchmark images shown (default 10)")
    maps.add_argument("--layers", type=int, metavar="N", help="last layers averaged over (default: half of them)")
    maps.add_argument("--out", type=Path, required=True, help="folder for attention.html and attention.json")


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


def attention(arguments: argparse.Namespace) -> int:
    """Draw and, on a benchmark, measure the maps of one or more models."""
    from artiagent.report.attention import PAGE
    from artiagent.run_config import load_config

    config = load_config(arguments.config, arguments.set)
    known = {benchmark.name: benchmark for benchmark in config.inputs.benchmarks}
    if arguments.benchmark is not None and arguments.benchmark not in known:
        raise ValueError(f"--benchmark {arguments.benchmark!r}: expected one of inputs.benchmarks ({', '.join(known)})")
    if arguments.items < 1:
        raise ValueError(f"--items {arguments.items}: expected 1 or more")
    models = [_named(open_model(location), location) for location in arguments.model]
    if arguments.image:
        _own_maps(arguments, models, config)
    else:
        _benchmark_maps(arguments, models, known[arguments.benchmark], config)
    print(arguments.out / PAGE)
    return 0


def _named(model: CheckpointRef, location: str) -> CheckpointRef:
    from artiagent.checkpoints import model_name

    name = location.removeprefix(REGISTERED) if location.startswith(REGISTERED) else model_name(location)
    return model.model_copy(update={"name": name})


def _benchmark_maps(
    arguments: argparse.Namespace, models: list[CheckpointRef], benchmark: BenchmarkSet, config: Config
) -> None:
    from artiagent.evaluation.attention import PAIRED, attend
    from artiagent.evaluation.benchmarks import read_items, read_truth
    from artiagent.report.attention import pictures, write_attention
    from artiagent.report.strips import choose
    from artiagent.report.summary import interval_text

    section = config.evaluation
    report, gazes = attend(models, benchmark, section, arguments.layers)
    chosen = [item.item_id for item in choose(read_truth(benchmark, section.limit), arguments.items)]
    shown = {item.item_id: (item, image) for item, image in read_items(benchmark, section.limit)}
    write_attention(arguments.out, report, pictures([shown[name] for name in chosen], gazes, report))
    for variant, by_model in [*report.localization.items(), *report.differences.items()]:
        for model, figures in by_model.items():
            told = [f"{name} {interval_text(figures[name].model_dump())}" for name in PAIRED if name in figures]
            print(f"{variant:<10} {model:<26} {'  '.join(told)}")


def _own_maps(arguments: argparse.Namespace, models: list[CheckpointRef], config: Config) -> None:
    from artiagent.evaluation.attention import GazeReader
    from artiagent.images import encode
    from artiagent.report.attention import own_pictures, write_attention

    images = {path.name: _pixels(path) for path in arguments.image}
    if len(images) < len(arguments.image):
        raise ValueError("--image: two files have one name; expected distinct names")
    readers = ((model.name, GazeReader(model, config.evaluation, arguments.layers)) for model in models)
    gazes = {name: dict(zip(images, reader.read(list(images.values())), strict=True)) for name, reader in readers}
    drawn = {name: (encode(image), image.shape[1], image.shape[0]) for name, image in images.items()}
    write_attention(arguments.out, None, own_pictures(drawn, gazes))


def _pixels(path: Path) -> np.ndarray:
    """The upright image, uint8 [H, W, 3]."""
    from artiagent.inspection.pictures import to_picture

    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected an image")
    if (picture := to_picture(path.name, path.read_bytes())).pixels is None:
        raise ValueError(f"{path}: {picture.reason}")
    return picture.pixels

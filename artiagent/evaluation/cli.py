"""``artiagent evaluate``: a model's answers on benchmarks, and their scores beside trivial baselines."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from artiagent.orchestration import open_model


def add_commands(
    commands: argparse._SubParsersAction, add: Callable[..., argparse.ArgumentParser], config_options: Callable
) -> None:
    judge = add(commands, "evaluate", "a vision-language model on the benchmarks", evaluate)
    config_options(judge)
    judge.add_argument("--model", required=True, help="model folder, hub id, or models:/NAME@ALIAS of the registry")
    judge.add_argument(
        "--benchmark",
        action="append",
        default=[],
        metavar="NAME",
        help="of inputs.benchmarks; repeatable; default: all",
    )
    judge.add_argument("--out", type=Path, help="folder for predictions and evaluation.json; default: in the store")


def evaluate(arguments: argparse.Namespace) -> int:
    """Predict and score one model; prints its scores beside the trivial baselines."""
    from artiagent.evaluation.benchmarks import benchmark_sha256
    from artiagent.evaluation.stage import REPORT, predict, score
    from artiagent.report.summary import interval_text
    from artiagent.run_config import load_config
    from artiagent.store import dataset_dir

    config = load_config(arguments.config, arguments.set)
    model = open_model(arguments.model)
    known = {benchmark.name: benchmark for benchmark in config.inputs.benchmarks}
    if unknown := sorted(set(arguments.benchmark) - set(known)):
        raise ValueError(f"--benchmark {unknown[0]!r}: expected a name of inputs.benchmarks ({', '.join(known)})")
    benchmarks = [known[name] for name in arguments.benchmark or known]
    revisions = [benchmark_sha256(benchmark) for benchmark in benchmarks]
    out = arguments.out or dataset_dir("evaluate", config.evaluation.digest(), model.sha256, *revisions)
    predictions = predict(config.evaluation, model, benchmarks, out / "predictions", "model")
    report = score(config.evaluation, benchmarks, [predictions], out)
    for part in (report, *report.further):
        print(f"{part.benchmark}: {part.n} images, {part.n_faulty} faulty")
        for name, scores in part.scores.items():
            shown = "  ".join(f"{metric} {interval_text(found.model_dump())}" for metric, found in scores.items())
            print(f"{name:<16} {shown}")
    print(out / REPORT)
    return 0

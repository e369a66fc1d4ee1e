"""``artiagent evaluate``: a model's answers on benchmarks, and their scores beside trivial baselines."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from artiagent.orchestration import REGISTERED, open_model

if TYPE_CHECKING:
    from artiagent.config import BenchmarkSet, Config
    from artiagent.evaluation.found import EvaluatedModel
    from artiagent.records import CheckpointRef, DatasetRef

CSV, THRESHOLDS = "scores.csv", "thresholds.json"
EXAMPLES = """examples:
  artiagent evaluate --model models:/artiagent-vlm-nano@champion
  artiagent evaluate --model data/weights/nano-vl --benchmark drawn --benchmark generated
  artiagent evaluate --model Qwen/Qwen2.5-VL-7B-Instruct --config configs/single_gpu.yaml \\
      --set evaluation.prompts=defined
  artiagent evaluate --model openai:gpt-4o --set evaluation.prompts=defined \\
      --set evaluation.vlm.base_url=https://api.openai.com/v1 --set evaluation.vlm.concurrency=32
  artiagent evaluate --predictions heat-maps/ --name DiffDoctor --threshold 0.3
  artiagent evaluate --predictions answers.jsonl --name LEGION

--set evaluation.prompts=defined asks a model that was not trained here: what an artifact is comes first, answers are
JSON. The key of a server stands in an environment variable (evaluation.vlm.api_key_env, OPENAI_API_KEY). Interrupted
runs go on where they stopped; paid answers are kept. 'artiagent leaderboard' shows all evaluations side by side.
"""


def add_commands(
    commands: argparse._SubParsersAction, add: Callable[..., argparse.ArgumentParser], config_options: Callable
) -> None:
    judge = add(
        commands, "evaluate", "any vision-language model, or predictions from files, on the benchmarks", evaluate
    )
    judge.epilog, judge.formatter_class = EXAMPLES, argparse.RawDescriptionHelpFormatter
    config_options(judge)
    who = judge.add_mutually_exclusive_group(required=True)
    who.add_argument(
        "--model", help="model folder, hub id, models:/NAME@ALIAS of the registry, or openai:NAME behind a server"
    )
    who.add_argument(
        "--predictions", type=Path, metavar="PATH", help="folder of heat maps named by item, or JSON lines or Parquet"
    )
    judge.add_argument("--name", help="how the model is called in tables; default: from --model")
    judge.add_argument(
        "--benchmark", action="append", default=[], metavar="NAME",
        help="of inputs.benchmarks; repeatable; the first is the primary one; default: all",
    )  # fmt: skip
    judge.add_argument("--threshold", type=float, help="of heat maps scaled to 0..1 (default 0.3)")
    judge.add_argument("--out", type=Path, help="folder for all that is written; default: in the store")


def evaluate(arguments: argparse.Namespace) -> int:
    """Predict and score one model; prints its scores beside the trivial baselines."""
    from artiagent.evaluation.found import REPORT, write_model
    from artiagent.evaluation.stage import score
    from artiagent.evaluation.tables import report_csv, text_table
    from artiagent.run_config import load_config
    from artiagent.store import write_atomic

    config = load_config(arguments.config, arguments.set)
    benchmarks = _chosen(config, arguments.benchmark)
    who, predictions, out = (_from_files if arguments.predictions else _from_model)(arguments, config, benchmarks)
    report = score(config.evaluation, benchmarks, [predictions], out)
    write_atomic(out / CSV, report_csv(report).encode())
    write_model(out, who)
    for part in (report, *report.further):
        print(text_table(part), end="\n\n")
    if arguments.predictions and arguments.predictions.is_dir():
        print(*_sensitivity(config, benchmarks, arguments.predictions, out), sep="\n", end="\n\n")
    print(*_account(predictions), out / REPORT, out / CSV, sep="\n")
    return 0


def _chosen(config: Config, names: list[str]) -> list[BenchmarkSet]:
    known = {benchmark.name: benchmark for benchmark in config.inputs.benchmarks}
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"--benchmark {unknown[0]!r}: expected a name of inputs.benchmarks ({', '.join(known)})")
    return [known[name] for name in dict.fromkeys(names or known)]


def _from_model(
    arguments: argparse.Namespace, config: Config, benchmarks: list[BenchmarkSet]
) -> tuple[EvaluatedModel, DatasetRef, Path]:
    from artiagent.evaluation.stage import predict

    who, model = _opened(arguments.model, arguments.name, config)
    out = arguments.out or _store(config, benchmarks, model.sha256, who.name)
    return who, predict(config.evaluation, model, benchmarks, out / "predictions", who.name), out


def _from_files(
    arguments: argparse.Namespace, config: Config, benchmarks: list[BenchmarkSet]
) -> tuple[EvaluatedModel, DatasetRef, Path]:
    from artiagent.evaluation.files import THRESHOLD, predict_from_files
    from artiagent.evaluation.found import EvaluatedModel
    from artiagent.store import content_sha256

    place = arguments.predictions
    threshold = THRESHOLD if arguments.threshold is None else arguments.threshold
    if arguments.name is None:
        raise ValueError(f"--predictions {place}: --name is missing; give the name of the model that made them")
    if not place.exists():
        raise ValueError(f"--predictions {place}: no such file or folder; expected heat maps or a table of answers")
    who = EvaluatedModel(
        name=_checked(arguments.name), kind="files", location=str(place.resolve()), sha256=content_sha256(place),
        prompts="files", date=_now(),
    )  # fmt: skip
    out = arguments.out or _store(config, benchmarks, who.sha256, who.name, str(threshold))
    return who, predict_from_files(benchmarks, who.name, place, threshold, out / "predictions"), out


def _sensitivity(config: Config, benchmarks: list[BenchmarkSet], maps: Path, out: Path) -> Iterator[str]:
    """What another threshold of the heat maps would have given; also as ``thresholds.json``."""
    from artiagent.evaluation.benchmarks import read_truth
    from artiagent.evaluation.files import threshold_table
    from artiagent.report.summary import interval_text
    from artiagent.store import write_atomic

    section, tables = config.evaluation, {}
    for benchmark in benchmarks:
        if any(item.localizable for item in read_truth(benchmark)):
            found = threshold_table(benchmark, maps, resamples=section.resamples, seed=section.seed)
            tables[benchmark.name] = {t: {k: i.model_dump() for k, i in row.items()} for t, row in found.items()}
    write_atomic(out / THRESHOLDS, json.dumps(tables, indent=1).encode())
    for name, table in tables.items():
        yield f"{name + ', threshold':<24}{'IoU':>22}{'pixel F1':>22}"
        for threshold, row in table.items():
            yield f"{threshold:<24}{interval_text(row['iou']):>22}{interval_text(row['pixel_f1']):>22}"


def _opened(location: str, name: str | None, config: Config) -> tuple[EvaluatedModel, CheckpointRef]:
    from artiagent.evaluation.found import EvaluatedModel
    from artiagent.evaluation.runners import SERVED, served_ref

    section, place = config.evaluation, location
    if location.startswith(SERVED):
        kind, model = "server", served_ref(section, location)
        place = f"{location} {section.vlm.base_url}"
    else:
        model = open_model(location)
        kind = "registry" if location.startswith(REGISTERED) else "folder" if Path(location).is_dir() else "hub"
    called = name or (model.name.replace("/", "@") if kind == "registry" else model.name)
    who = EvaluatedModel(
        name=_checked(called), kind=kind, location=place, sha256=model.sha256, prompts=section.prompts, date=_now(),
        data_digest="" if kind == "server" else _trained_on(Path(model.uri)),
    )  # fmt: skip
    return who, model


def _trained_on(folder: Path) -> str:
    """Digest of the conversations that a folder of ours was fine-tuned on; "" where it does not say."""
    told = folder / "finetune.json"
    try:
        return str(json.loads(told.read_text())["data"]["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _checked(name: str) -> str:
    from artiagent.evaluation.baselines import BASELINES

    if name in BASELINES or "/" in name or not name.strip():
        raise ValueError(f"--name {name!r}: expected a name without '/', other than {', '.join(BASELINES)}")
    return name


def _store(config: Config, benchmarks: list[BenchmarkSet], *identity: str) -> Path:
    """The evaluation's folder in the store: another model, setting, benchmark revision or code is another one."""
    from artiagent import __version__
    from artiagent.evaluation.benchmarks import benchmark_sha256
    from artiagent.evaluation.found import KIND
    from artiagent.lineage import stage_digest
    from artiagent.store import checkout, dataset_dir

    root = checkout()
    code = stage_digest("artiagent.evaluation.stage", root) if root else __version__
    revisions = [f"{benchmark.name}={benchmark_sha256(benchmark)}" for benchmark in benchmarks]
    return dataset_dir(KIND, config.evaluation.digest(), code, *identity, *revisions)


def _account(predictions: DatasetRef) -> list[str]:
    """What the calls to a server came to; nothing where none was asked."""
    found = predictions.summary
    if "vlm_calls" not in found:
        return []
    lines = [
        f"{found['vlm_calls']} calls, {found['vlm_cached']} from the cache, {found['vlm_failed']} without an answer; "
        f"{found['vlm_tokens_in']} tokens in, {found['vlm_tokens_out']} out; cost {found['vlm_cost']:.4f}"
    ]
    if found["vlm_failed"]:
        lines.append(f"to ask those without an answer again, delete {predictions.uri} and repeat the command")
    return lines


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

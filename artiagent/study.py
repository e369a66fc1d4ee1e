"""Studies: one base model fine-tuned in several ways, each with several seeds, compared on one benchmark.

Knows how variants are run side by side and how their scores are averaged over seeds. Does not know what a variant
Runs that are on disk are not repeated, so that another benchmark costs its answers only;
``BENCHMARK.json`` and ``BENCHMARK.md`` hold its table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from artiagent.config import BenchmarkSet, EvaluationSection, SftSection
from artiagent.evaluation.benchmarks import BenchmarkItem, read_truth
from artiagent.evaluation.bootstrap import Statistic, difference, draw_weights, interval
from artiagent.evaluation.scoring import Score, scores_by_fault, scores_of
from artiagent.evaluation.stage import predict
from artiagent.learning.sft import finetune
from artiagent.parallel import ordered_map
from artiagent.records import CheckpointRef, DatasetRef, Interval, Prediction
from artiagent.store import read_rows, write_atomic

COLUMNS = ("macro_f1", "auroc", "recall_at_10", "iou", "rouge_l")
LABELS = {
    "macro_f1": "macro-F1", "auroc": "AUROC", "recall_at_10": "recall at 10 % false alarms", "iou": "IoU",
    "rouge_l": "ROUGE-L",
}  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """A way to fine-tune: which conversations and which settings. The seed is set by the study."""

    name: str
    conversations: DatasetRef
    section: SftSection


@dataclass(frozen=True)
class _Run:
    variant: Variant
    seed: int
    out: Path


def study(
    variants: Sequence[Variant],
    seeds: Sequence[int],
    base: CheckpointRef,
    benchmark: BenchmarkSet,
    evaluation: EvaluationSection,
    out: Path,
    *,
    workers: int = 2,
) -> dict[str, Any]:
    """Fine-tune and measure every variant with every seed; returns what the JSON table below ``out`` holds.

    Scores are means over the seeds; intervals resample the benchmark's images, differences against the first variant
    and the base in pairs. With more than one worker every run has one thread. Raises ValueError for two variants of a
    name.
    """
    if len({variant.name for variant in variants}) != len(variants) or not variants or not seeds:
        raise ValueError(
            f"variants {[v.name for v in variants]}, seeds {list(seeds)}: expected distinct names and at least one seed"
        )
    runs = [_Run(variant, seed, out / f"{variant.name}-{seed}") for seed in seeds for variant in variants]
    predicted = {"base": [predict(evaluation, base, [benchmark], out / f"base-{benchmark.name}", "base")]}
    arguments = (base, benchmark, evaluation, 1 if workers > 1 else evaluation.threads)
    finished = ordered_map(_prepare, arguments, runs, workers)
    for run, ref in zip(runs, tqdm(finished, "study", total=len(runs), unit="run"), strict=True):
        predicted.setdefault(run.variant.name, []).append(ref)
    table = _table(predicted, read_truth(benchmark, evaluation.limit), evaluation)
    table |= {
        "seeds": list(seeds),
        "variants": {v.name: {**v.section.model_dump(mode="json"), "data": v.conversations.digest} for v in variants},
    }
    write_atomic(out / f"{benchmark.name}.json", json.dumps(table, indent=1).encode())
    write_atomic(out / f"{benchmark.name}.md", markdown(table).encode())
    return table


def _prepare(
    base: CheckpointRef, benchmark: BenchmarkSet, evaluation: EvaluationSection, threads: int
) -> Callable[[_Run], DatasetRef]:
    def run(one: _Run) -> DatasetRef:
        section = one.variant.section.model_copy(update={"seed": one.seed, "threads": threads})
        tuned = finetune(section, one.variant.conversations, base, one.out / "model")
        asked = evaluation.model_copy(update={"threads": threads})
        return predict(asked, tuned, [benchmark], one.out / benchmark.name, f"{one.variant.name}-{one.seed}")

    return run


def _table(
    predicted: Mapping[str, Sequence[DatasetRef]], items: list[BenchmarkItem], evaluation: EvaluationSection
) -> dict[str, Any]:
    weights = draw_weights(len(items), evaluation.resamples, evaluation.seed)
    scores: dict[str, dict[str, Score]] = {}
    faults: dict[str, dict[str, dict[str, Score]]] = {}
    seeds: dict[str, dict[str, list[float]]] = {}
    for name, refs in predicted.items():
        rows = [{row.record.item_id: row.record for row in read_rows(ref, Prediction)} for ref in refs]
        answers = [[found[item.item_id] for item in items] for found in rows]
        each = [scores_of(items, one, evaluation.tasks) for one in answers]
        scores[name] = _averaged(each)
        seeds[name] = {metric: [_plain(one[metric], len(items)) for one in each] for metric in scores[name]}
        by_fault = [scores_by_fault(items, one, evaluation.tasks) for one in answers]
        faults[name] = {fault: _averaged([one[fault] for one in by_fault]) for fault in by_fault[0]}
    first = next(name for name in scores if name != "base")
    return {
        "n": len(items),
        "scores": {name: _intervals(row, weights) for name, row in scores.items()},
        "seed_values": seeds,
        "by_fault": {
            name: {fault: _intervals(row, weights) for fault, row in rows.items()} for name, rows in faults.items()
        },
        "differences": {
            f"{name} - {other}": {
                metric: difference(
                    scores[name][metric].statistic, scores[other][metric].statistic, weights
                ).model_dump()
                for metric in COLUMNS
                if metric in scores[name] and metric in scores[other]
            }
            for name in scores
            for other in ("base", first)
            if name not in ("base", other)
        },
    }


def _averaged(rows: Sequence[dict[str, Score]]) -> dict[str, Score]:
    """Mean over the seeds of every metric that all of them have."""
    shared = [metric for metric in rows[0] if all(metric in row for row in rows)]
    return {metric: Score(_mean([row[metric].statistic for row in rows]), rows[0][metric].n) for metric in shared}


def _mean(statistics: Sequence[Statistic]) -> Statistic:
    return lambda weights: np.mean([statistic(weights) for statistic in statistics], axis=0)


def _plain(score: Score, n: int) -> float:
    return round(float(score.statistic(np.ones((1, n), dtype=np.float32))[0]), 4)


def _intervals(row: dict[str, Score], weights: np.ndarray) -> dict[str, dict[str, float]]:
    return {metric: interval(score.statistic, weights, score.n).model_dump() for metric, score in row.items()}


def markdown(table: Mapping[str, Any]) -> str:
    """The table for people: a row per variant, then recall per fault type."""
    shown = [metric for metric in COLUMNS if any(metric in row for row in table["scores"].values())]
    lines = [
        f"{table['n']} images, means over {len(table['seeds'])} seeds with 95 % bootstrap intervals over images.",
        "",
        "| | " + " | ".join(LABELS[metric] for metric in shown) + " |",
        "|---" * (len(shown) + 1) + "|",
    ]
    for name, row in table["scores"].items():
        lines.append(f"| {name} | " + " | ".join(_cell(row.get(metric)) for metric in shown) + " |")
    faults = next(iter(table["by_fault"].values()))
    lines += ["", "| recall at 10 % false alarms | " + " | ".join(faults) + " |", "|---" * (len(faults) + 1) + "|"]
    for name, rows in table["by_fault"].items():
        lines.append(f"| {name} | " + " | ".join(_cell(rows[fault].get("recall_at_10")) for fault in faults) + " |")
    return "\n".join(lines) + "\n"


def _cell(value: Mapping[str, float] | None) -> str:
    if value is None:
        return "-"
    found = Interval.model_validate(value)
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"

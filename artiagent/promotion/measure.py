"""Predictions of a vision-language model on a benchmark -> one side of the gate; trivial answers where there is none.

Knows benchmark items, stamped predictions and metrics. Does not resample and knows no registry.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from artiagent.config import BenchmarkSet, EvaluationSection, PromotionSection
from artiagent.evaluation.baselines import BASELINES
from artiagent.evaluation.benchmarks import BenchmarkItem, benchmark_sha256, read_truth
from artiagent.evaluation.scoring import Score, scores_of
from artiagent.promotion.gate import Measured, Rule
from artiagent.records import DatasetRef, Prediction
from artiagent.store import read_rows

REVISION = "benchmark_sha256"  # in the summary of the predictions that the gate asked for
TRIVIAL = "trivial answers"


def rule_of(section: PromotionSection) -> Rule:
    """The configured rule."""
    return Rule(section.primary, tuple(section.guarded), section.audit == "required")


def measure(
    section: EvaluationSection, benchmark: BenchmarkSet, predictions: DatasetRef, sha256: str, label: str
) -> Measured:
    """One model's statistics on the benchmark as it is now.

    Raises ValueError for predictions of other weights, of several prompts, on another revision, or that are not about
    exactly the benchmark's items.
    """
    revision = benchmark_sha256(benchmark)
    asked = predictions.summary.get(REVISION, revision)
    if asked != revision:
        raise ValueError(
            f"{benchmark.path}: changed while the gate ran: {label} answered revision {str(asked)[:12]}, the files are "
            f"{revision[:12]} now; run again"
        )
    items = read_truth(benchmark, section.limit)
    rows = _aligned(items, benchmark.name, predictions, sha256)
    return Measured(
        label=label, sha256=sha256, revision=revision, prompts=rows[0].prompt_hash,
        units=tuple(item.item_id for item in items),
        statistics=scores_of(items, rows, section.tasks, section.sentence_encoder),
    )  # fmt: skip


def trivial(section: EvaluationSection, benchmark: BenchmarkSet, prompts: str) -> Measured:
    """The best trivial answer by metric, of every task: what a first champion has to beat.

    ``prompts`` is the other side's: trivial answers hear none.
    """
    items = read_truth(benchmark, section.limit)
    best: dict[str, Score] = {}
    for task, baseline in BASELINES.values():
        found = scores_of(items, [baseline(item) for item in items], (task,), section.sentence_encoder)
        best |= {name: score for name, score in found.items() if name not in best or _higher(score, best[name], items)}
    return Measured(
        label=TRIVIAL, sha256="trivial", revision=benchmark_sha256(benchmark), prompts=prompts,
        units=tuple(item.item_id for item in items), statistics=best,
    )  # fmt: skip


def measurable(answers: Measured) -> frozenset[str]:
    """Metrics that a benchmark has a ground truth for, of its trivial answers. What a side lacks of these is missing,
    also where its task was not asked or the sentence encoder of CSS is not configured.
    """
    return frozenset(answers.statistics) | ({"css"} if "rouge_l" in answers.statistics else set())


def _higher(score: Score, other: Score, items: Sequence[BenchmarkItem]) -> bool:
    once = np.ones((1, len(items)), dtype=np.float32)
    return bool(score.statistic(once)[0] > other.statistic(once)[0])


def _aligned(items: Sequence[BenchmarkItem], benchmark: str, predictions: DatasetRef, sha256: str) -> list[Prediction]:
    """Predictions in the order of the items."""
    rows = {r.record.item_id: r.record for r in read_rows(predictions, Prediction) if r.record.benchmark == benchmark}
    if foreign := {row.model_sha256 for row in rows.values()} - {sha256}:
        raise ValueError(
            f"{predictions.uri}: answers of other weights ({', '.join(sorted(f[:12] for f in foreign))}, expected "
            f"{sha256[:12]}); delete the folder"
        )
    if len(prompts := {row.prompt_hash for row in rows.values()}) > 1:
        raise ValueError(f"{predictions.uri}: answers to {len(prompts)} different prompts in one set; predict again")
    known = {item.item_id for item in items}
    missing, unknown = sorted(known - rows.keys()), sorted(rows.keys() - known)
    if missing or unknown:
        raise ValueError(
            f"{predictions.uri}: not about the items of benchmark {benchmark!r}: {len(missing)} without an answer, "
            f"{len(unknown)} unknown (first: {(missing or unknown)[0]}); the benchmark or evaluation.limit changed"
        )
    return [rows[item.item_id] for item in items]

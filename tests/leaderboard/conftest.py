"""Evaluations as ``artiagent evaluate`` leaves them, of models whose answers are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artiagent.config import BenchmarkSet, EvaluationSection
from artiagent.evaluation.baselines import BASELINES
from artiagent.evaluation.benchmarks import benchmark_sha256, read_truth
from artiagent.evaluation.bootstrap import draw_weights, interval
from artiagent.evaluation.found import REPORT, EvaluatedModel, write_model
from artiagent.evaluation.scoring import Score, scores_by_fault, scores_of
from artiagent.images import encode
from artiagent.instruction import prompts
from artiagent.records import Box, EvaluationReport, Interval, Prediction
from artiagent.store import DatasetWriter, Row, write_atomic

SIZE, COUNT = 64, 24
SECTION = EvaluationSection(resamples=200, threads=1)
FAULTS = ("duplication", "omission")


def write_benchmark(path: Path, count: int = COUNT, seed: int = 0) -> BenchmarkSet:
    """Clean and faulty in turn, the faults in turn as well; one box each."""
    rng = np.random.default_rng(seed)
    rows = [
        {
            "id": f"item-{k:02d}",
            "image": encode(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)),
            "has_artifacts": faulty,
            "bboxes": [[8, 8, 40, 40]] if faulty else [],
            "fault": FAULTS[k // 2 % 2] if faulty else "",
            "entity": "dog" if faulty else "",
            "part": "ear" if faulty else "",
            "label": "<ear> extra" if faulty else "",
            "explanation": "The dog has an extra ear." if faulty else "",
        }
        for k, faulty in enumerate(k % 2 == 0 for k in range(count))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return BenchmarkSet(name="drawn", path=str(path))


def report_of(
    benchmark: BenchmarkSet, model: str, rows: Sequence[Row[Prediction]], section: EvaluationSection
) -> EvaluationReport:
    """Scores of the answers, and the trivial baseline always_yes beside them."""
    items, answers = read_truth(benchmark, section.limit), [row.record for row in rows]
    weights = draw_weights(len(items), section.resamples, section.seed)

    def measured(found: Mapping[str, Score]) -> dict[str, Interval]:
        return {metric: interval(score.statistic, weights, score.n) for metric, score in found.items()}

    yes = [BASELINES["always_yes"][1](item) for item in items]
    by_fault = scores_by_fault(items, answers, section.tasks)
    return EvaluationReport(
        benchmark=benchmark.name, benchmark_sha256=benchmark_sha256(benchmark), prompt_hash=answers[0].prompt_hash,
        n=len(items), n_faulty=sum(item.faulty for item in items), models={model: answers[0].model_sha256},
        scores={
            model: measured(scores_of(items, answers, section.tasks)),
            "always_yes": measured(scores_of(items, yes, ("detection",))),
        },
        breakdown={f"{model}/{fault}": measured(found) for fault, found in by_fault.items()},
        statuses={model: {"detection:ok": len(items), "localization:unparsable": sum(not a.verdict for a in answers)}},
    )  # fmt: skip


@pytest.fixture
def benchmark(tmp_path: Path) -> BenchmarkSet:
    return write_benchmark(tmp_path / "bench" / "drawn.parquet")


@pytest.fixture
def evaluated(tmp_path: Path) -> Callable[..., Path]:
    """Makes a finished evaluation of a model that errs on every ``wrong``-th image; returns its folder."""

    def make(benchmark: BenchmarkSet, model: str, wrong: int, section: EvaluationSection = SECTION) -> Path:
        asked = [prompts.BINARY, prompts.LOCATE_ARTIFACTS, prompts.DESCRIBE_ARTIFACTS][: len(section.tasks)]
        sha256 = f"{sum(map(ord, model)):064x}"
        rows = []
        for k, item in enumerate(read_truth(benchmark, section.limit)):
            verdict = item.faulty != (k % wrong == 0)
            answer = Prediction(
                benchmark=benchmark.name, item_id=item.item_id, model=model, model_sha256=sha256,
                prompt_hash=prompts.prompt_hash(*asked), verdict=verdict, score=0.9 if verdict else 0.1,
                boxes=(Box(8, 8, 8 + 4 * wrong, 40),) if verdict else (),
                explanation="The dog has a <b>third</b> ear." if item.faulty else "",
                status={"detection": "ok", "localization": "ok" if verdict else "unparsable"},
            )  # fmt: skip
            rows.append(Row(f"{benchmark.name}/{item.item_id}", answer))
        folder = tmp_path / "evaluations" / f"{model}-{len(list(tmp_path.glob('evaluations/*')))}"
        writer: DatasetWriter[Prediction] = DatasetWriter(folder / "predictions", "predictions")
        writer.write("all", rows)
        writer.finish()
        write_atomic(folder / REPORT, report_of(benchmark, model, rows, section).model_dump_json().encode())
        named = EvaluatedModel(
            name=model, kind="folder", location=f"models/{model}", sha256=sha256, prompts="trained", date="2026-11-27"
        )
        write_model(folder, named)
        return folder

    return make

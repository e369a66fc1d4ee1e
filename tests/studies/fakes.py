"""A benchmark without pictures of interest and predictions of a known quality: what a study's scores are made from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from artiagent.config import BenchmarkSet
from artiagent.images import encode
from artiagent.records import Box, CheckpointRef, DatasetRef, Prediction
from artiagent.store import DatasetWriter, Row
from artiagent.studies.records import StudyRun, StudyRuns
from artiagent.studies.rows import RunsSection

FAULTS = ("omission", "duplication")


def write_benchmark(folder: Path, count: int = 80) -> BenchmarkSet:
    """Every second image is faulty, with one box."""
    folder.mkdir(parents=True, exist_ok=True)
    image = encode(np.zeros((32, 32, 3), np.uint8))
    rows = [
        {
            "id": f"i{k}", "image": image, "has_artifacts": k % 2 == 0,
            "bboxes": [[4, 4, 20, 20]] if k % 2 == 0 else [],
            "explanation": "the dog lacks an ear" if k % 2 == 0 else "",
            "fault": FAULTS[k // 2 % 2] if k % 2 == 0 else "",
        }
        for k in range(count)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), folder / "bench.parquet")
    return BenchmarkSet(name="bench", path=str(folder / "bench.parquet"))


def predictions(folder: Path, quality: float, seed: int, count: int = 80) -> DatasetRef:
    """Scores of faulty images lie ``quality`` standard deviations above those of clean ones."""
    rng = np.random.default_rng(seed)
    margins = rng.normal(0, 1, count) + np.where(np.arange(count) % 2 == 0, quality, 0)
    scores = 1 / (1 + np.exp(-(margins - quality / 2)))
    writer: DatasetWriter[Prediction] = DatasetWriter(folder, "predictions")
    rows = [
        Row(
            f"bench/i{k}",
            Prediction(
                item_id=f"i{k}", benchmark="bench", model="m", model_sha256="s", prompt_hash="p",
                verdict=bool(score > 0.5), score=float(score), boxes=(Box(4, 4, 20, 20),) if quality > 1 else (),
                explanation="the dog lacks an ear" if quality > 1 else "a dog",
            ),
        )
        for k, score in enumerate(scores)
    ]  # fmt: skip
    writer.write("a", rows)
    return writer.finish({})


def study_runs(folder: Path, planned: RunsSection, quality: dict[tuple[str, int], float]) -> StudyRuns:
    """Runs as planned; ``quality`` of (data, pairs), the same for both seeds but for their noise."""
    model = CheckpointRef(name="tuned", uri=str(folder / "model"), sha256="0" * 64)
    runs = []
    for number, spec in enumerate(planned.runs):
        pairs = spec.instruction.pairs or 0
        answers = predictions(folder / f"run-{number}", quality[spec.data, pairs], 10 * pairs + spec.sft.seed)
        model = model.model_copy(update={"sha256": f"{number:064d}"})
        runs.append(
            StudyRun(
                pairs=pairs, sources=pairs // 2, conversations=answers, model=model, predictions=answers, seconds=2.0,
                curve=({"stage": "all", "step": 1, "loss": 0.5},),
            )
        )  # fmt: skip
    return StudyRuns(base=predictions(folder / "base", 0.0, 99), runs=tuple(runs))

"""The base model's answers on the benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from artiagent.config import EvaluationSection
from artiagent.records import CheckpointRef, DatasetRef
from steps.stage import cached_step, out_dir


def run(
    section: EvaluationSection, model: CheckpointRef, benchmark: DatasetRef
) -> Annotated[DatasetRef, "predictions_base"]:
    from artiagent.evaluation.stage import predict

    out = out_dir("predictions-base", __name__, section, model, benchmark)
    return predict(section, model, Path(benchmark.uri), out, "base")


evaluate_base = cached_step(run)

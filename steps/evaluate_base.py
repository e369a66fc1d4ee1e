"""The base model's answers on the benchmarks."""

from __future__ import annotations

from typing import Annotated

from artiagent.config import EvaluationSection
from artiagent.records import CheckpointRef, DatasetRef
from steps.stage import cached_step, out_dir


def run(
    section: EvaluationSection, model: CheckpointRef, benchmarks: DatasetRef
) -> Annotated[DatasetRef, "predictions_base"]:
    from artiagent.evaluation.stage import predict
    from artiagent.inputs import read_benchmarks

    out = out_dir("predictions-base", __name__, section, model, benchmarks)
    return predict(section, model, read_benchmarks(benchmarks), out, "base")


evaluate_base = cached_step(run)

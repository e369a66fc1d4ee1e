"""The base model's answers on the benchmarks, in one piece or in shards."""

from __future__ import annotations

from typing import Annotated

from artiagent.config import EvaluationSection
from artiagent.records import CheckpointRef, DatasetRef
from artiagent.shards import Shard
from steps.stage import cached_step, out_dir


def run(
    section: EvaluationSection, model: CheckpointRef, benchmarks: DatasetRef
) -> Annotated[DatasetRef, "predictions_base"]:
    return _predict(section, model, benchmarks, None)


def run_shard(
    section: EvaluationSection, model: CheckpointRef, benchmarks: DatasetRef, shard: str
) -> Annotated[DatasetRef, "part"]:
    return _predict(section, model, benchmarks, Shard.parse(shard))


def _predict(
    section: EvaluationSection, model: CheckpointRef, benchmarks: DatasetRef, shard: Shard | None
) -> DatasetRef:
    from artiagent.evaluation.stage import predict
    from artiagent.inputs import read_benchmarks

    out = out_dir("predictions-base", __name__, section, model, benchmarks)
    return predict(section, model, read_benchmarks(benchmarks), out, "base", shard)


evaluate_base = cached_step(run)
evaluate_base_shard = cached_step(run_shard, name="evaluate_base_shard")

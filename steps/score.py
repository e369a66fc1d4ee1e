"""Predictions of the base and the fine-tuned model -> scores with intervals, trivial baselines beside them."""

from __future__ import annotations

from typing import Annotated

from artiagent.config import EvaluationSection
from artiagent.records import DatasetRef, EvaluationReport
from steps.stage import cached_step, out_dir


def run(
    section: EvaluationSection, benchmarks: DatasetRef, base: DatasetRef, tuned: DatasetRef
) -> Annotated[EvaluationReport, "evaluation"]:
    from artiagent.evaluation.stage import score
    from artiagent.inputs import read_benchmarks

    out = out_dir("evaluation", __name__, section, benchmarks, base, tuned)
    return score(section, read_benchmarks(benchmarks), [base, tuned], out)


score = cached_step(run)

"""Predictions of the base and the fine-tuned model -> scores with intervals, trivial baselines beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from artiagent.config import EvaluationSection
from artiagent.records import DatasetRef, EvaluationReport
from steps.stage import cached_step, out_dir


def run(
    section: EvaluationSection, benchmark: DatasetRef, base: DatasetRef, tuned: DatasetRef
) -> Annotated[EvaluationReport, "evaluation"]:
    from artiagent.evaluation.stage import score

    out = out_dir("evaluation", __name__, section, benchmark, base, tuned)
    return score(section, Path(benchmark.uri), [base, tuned], out)


score = cached_step(run)

"""The primary benchmark's images through the correction loop, judged by who had no say in it."""

from __future__ import annotations

from typing import Annotated

from artiagent.config import CorrectionSection, EvaluationSection
from artiagent.records import CheckpointRef, DatasetRef
from steps.stage import cached_step, out_dir


def run(
    section: CorrectionSection,
    evaluation: EvaluationSection,
    benchmarks: DatasetRef,
    inpainter: CheckpointRef,
    reward: CheckpointRef,
    vlm: CheckpointRef,
    parser: CheckpointRef | None = None,
) -> Annotated[DatasetRef, "corrected"]:
    from artiagent.inputs import read_benchmarks
    from artiagent.mitigation.correction.stage import correct

    used = [ref for ref in (inpainter, reward, vlm, parser) if ref is not None]
    out = out_dir("corrected", __name__, section, evaluation, benchmarks, *used)
    return correct(section, evaluation, read_benchmarks(benchmarks)[0], inpainter, reward, vlm, parser, out)


correct = cached_step(run)

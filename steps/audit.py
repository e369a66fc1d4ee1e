"""Images of generators -> how often they hold artifacts, and which; figures and page lie beside the reference."""

from __future__ import annotations

from typing import Annotated

from artiagent.config import AuditSection, EvaluationSection
from artiagent.records import CheckpointRef, DatasetRef
from steps.stage import cached_step, out_dir


def run(
    section: AuditSection,
    evaluation: EvaluationSection,
    vlm: CheckpointRef,
    parser: CheckpointRef | None,
    benchmarks: DatasetRef,
) -> Annotated[DatasetRef, "audit"]:
    """``section`` is settled (`audit.sources.settled`): it names generators and prompts by digest."""
    from artiagent.inputs import read_benchmarks
    from artiagent.mitigation.audit.sources import place_refs, prompts_of
    from artiagent.mitigation.audit.stage import audit as stage

    out = out_dir("audit", __name__, section, evaluation, vlm, *([parser] if parser else []), benchmarks)
    generators = place_refs(section.generators)
    return stage(section, evaluation, prompts_of(section), generators, vlm, parser, out, read_benchmarks(benchmarks))


audit = cached_step(run)

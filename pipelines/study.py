"""Groups of rows that fine-tune one base in different ways: one curated set, all their runs, one report."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from zenml import pipeline
from zenml.enums import ExecutionMode

from artiagent.lineage import stage_digest
from artiagent.records import stable_hash
from artiagent.studies.rows import Study, StudySection
from pipelines.placement import placed
from pipelines.runs import write_run_config
from steps.alerts import on_failure
from steps.curate import curate
from steps.draw_pairs import draw_pairs
from steps.ingest import ingest
from steps.perceive import perceive
from steps.plan import plan
from steps.render_scenes import render_scenes
from steps.synthesize import synthesize
from steps.tabulate_study import tabulate_study
from steps.train_study import train_study

CACHED = ("ingest", "render_scenes", "perceive", "plan", "synthesize", "curate", "draw_pairs", "train_study")


@pipeline(
    name="artiagent_study", execution_mode=ExecutionMode.FAIL_FAST, enable_pipeline_logs=False, on_failure=on_failure
)
def study(config: dict[str, Any], study: StudySection, digests: dict[str, str]) -> None:
    """``config`` is a configuration as written, so that rows can change what is not given."""
    planned = Study(config, study)
    shared = planned.shared()
    runs, places = planned.plan()
    on = partial(placed, config=shared)
    inputs, generator, vlm, _, benchmarks = ingest(shared.inputs, digests)
    if study.scenes is not None:
        inputs = on(render_scenes)(study.scenes)
    scenes = on(perceive)(shared.perception, inputs, vlm)
    jobs = on(plan)(shared.planning, scenes, shared.perception.patch)
    pairs = on(synthesize)(shared.synthesis, scenes, jobs, generator)
    curated = on(curate)(shared.curation, pairs, scenes, vlm)
    drawn = on(draw_pairs)(runs.drawn, generator) if runs.drawn else (None, None)
    trained = on(train_study)(runs, vlm, benchmarks, curated, scenes, *drawn)
    tabulate_study(study, runs, shared.profile, places, trained, benchmarks)


def open_study(planned: Study, digests: dict[str, str], document: dict[str, Any], root: Path) -> str:
    """Write ``config.yaml`` into the folder of a run and return its name, ``study-<8 hex>``: equal for equal runs,
    inputs and stage sources.

    Args:
        planned: the groups and what they share.
        digests: content digests of the inputs.
        document: the ZenML run configuration as read; its ``parameters`` are replaced by the effective ones.
        root: the checkout.
    """
    sources = [stage_digest(f"steps.{stage}", root) for stage in CACHED]
    settings = [planned.section.digest(), planned.shared().digest(), planned.plan()[0].digest()]
    inputs = (f"{name}={digest}" for name, digest in sorted(digests.items()))
    name = f"study-{stable_hash(*settings, *inputs, *sources, length=8)}"
    parameters = {"config": planned.tree, "study": planned.section.model_dump(mode="json"), "digests": digests}
    write_run_config(name, document, parameters, root)
    return name

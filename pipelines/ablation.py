"""Many variants of one chain: every row of an ablation takes the steps that its settings change, the rest is shared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from zenml import pipeline
from zenml.enums import ExecutionMode
from zenml.steps import BaseStep
from zenml.steps.entrypoint_function_utils import StepArtifact

from artiagent.ablation.rows import Ablation, AblationSection
from artiagent.config import Section
from artiagent.lineage import stage_digest
from artiagent.records import stable_hash
from pipelines.placement import placed
from pipelines.runs import write_run_config
from steps.alerts import on_failure
from steps.curate import curate
from steps.evaluate_base import evaluate_base
from steps.evaluate_tuned import evaluate_tuned
from steps.finetune import finetune
from steps.ingest import ingest
from steps.instruct import instruct
from steps.perceive import perceive
from steps.plan import plan
from steps.reconstruct import reconstruct
from steps.synthesize import synthesize
from steps.tabulate import tabulate

CACHED = (
    "ingest", "perceive", "reconstruct", "plan", "synthesize", "curate", "instruct", "finetune", "evaluate_base",
    "evaluate_tuned",
)  # fmt: skip


@pipeline(
    name="artiagent_ablation", execution_mode=ExecutionMode.FAIL_FAST, enable_pipeline_logs=False, on_failure=on_failure
)
def ablation(config: dict[str, Any], ablation: AblationSection, digests: dict[str, str]) -> None:
    """``config`` is a configuration without defaults, so that a row's preset can fill in what is not given."""
    varied = Ablation(config, ablation)
    shared = varied.shared()
    inputs, generator, vlm, _, benchmarks = ingest(shared.inputs, digests)
    on = partial(placed, config=shared)
    scenes = on(perceive)(shared.perception, inputs, vlm)
    reconstructions = on(reconstruct)(ablation.reconstruction, shared.synthesis, shared.curation, scenes, generator)
    branches = Branches()  # of rows with equal settings only the first takes a step
    for row, own in zip(ablation.rows, varied.configs().values(), strict=True):
        take = branches.of(row.name)
        jobs = take("jobs", on(plan), own.planning, scenes, own.perception.patch)
        pairs = take("pairs", on(synthesize), own.synthesis, scenes, jobs, generator)
        curated = take("curated", on(curate), own.curation, pairs, scenes, vlm)
        if row.detect:
            conversations = take("conversations", on(instruct), own.instruction, curated, scenes)
            tuned = take("tuned", on(finetune), own.sft, conversations, vlm)
            take("predictions", on(evaluate_tuned), shared.evaluation, tuned, benchmarks)
    base = on(evaluate_base)(shared.evaluation, vlm, benchmarks) if any(row.detect for row in ablation.rows) else None
    lists = {kind: branches.outputs[kind] for kind in ("jobs", "pairs", "curated", "conversations", "predictions")}
    tabulate(
        ablation, shared.evaluation, shared.profile, dict(branches.places), **lists, base=base, benchmarks=benchmarks,
        reconstructions=reconstructions,
    )  # fmt: skip


def open_ablation(varied: Ablation, digests: dict[str, str], document: dict[str, Any], root: Path) -> str:
    """Write ``config.yaml`` into the folder of a run and return its name, ``ablation-<8 hex>``: equal for equal rows,
    inputs and stage sources.

    Args:
        varied: the rows and what they share.
        digests: content digests of the inputs.
        document: the ZenML run configuration as read; its ``parameters`` are replaced by the effective ones.
        root: the checkout.
    """
    sources = [stage_digest(f"steps.{stage}", root) for stage in CACHED]
    settings = [varied.section.digest(), *(config.digest() for config in varied.configs().values())]
    inputs = (f"{name}={digest}" for name, digest in sorted(digests.items()))
    name = f"ablation-{stable_hash(*settings, *inputs, *sources, length=8)}"
    parameters = {"config": varied.tree, "ablation": varied.section.model_dump(mode="json"), "digests": digests}
    write_run_config(name, document, parameters, root)
    return name


class Branches:
    """Takes a step once for equal settings and inputs, and remembers where in ``outputs`` which row finds its own."""

    def __init__(self) -> None:
        self.outputs: dict[str, list[StepArtifact]] = defaultdict(list)
        self.places: dict[str, dict[str, int]] = defaultdict(dict)
        self._known: dict[tuple, int] = {}

    def of(self, row: str) -> Callable[..., StepArtifact]:
        """``take(kind, step, section, *inputs)`` for a row."""
        return partial(self._take, row)

    def _take(self, row: str, kind: str, step: BaseStep, section: Section, *inputs: StepArtifact | int) -> StepArtifact:
        made = (value.invocation_id if isinstance(value, StepArtifact) else value for value in inputs)
        key = (kind, section.digest(), *made)
        if key not in self._known:
            self._known[key] = len(self.outputs[kind])
            self.outputs[kind].append(step(section, *inputs, id=f"{step.name}-{row}"))
        self.places[row][kind] = self._known[key]
        return self.outputs[kind][self._known[key]]

"""Search, correction and audit as pipelines: models and benchmarks as references, one cached stage, its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zenml import pipeline
from zenml.enums import ExecutionMode

from artiagent.config import Config
from artiagent.lineage import stage_digest
from artiagent.records import CheckpointRef, stable_hash
from pipelines.placement import placed
from pipelines.runs import write_run_config
from steps.alerts import on_failure
from steps.audit import audit as audit_stage
from steps.correct import correct
from steps.report_mitigation import Kind, report_mitigation
from steps.resolve_benchmarks import resolve_benchmarks
from steps.resolve_model import resolve_model
from steps.search import search as search_stage

STAGES: dict[Kind, str] = {"search": "search", "correction": "correct", "audit": "audit"}
Models = dict[str, CheckpointRef]  # role -> as given


@pipeline(
    name="artiagent_search", execution_mode=ExecutionMode.FAIL_FAST, enable_pipeline_logs=False, on_failure=on_failure
)
def search(config: Config, models: Models, prompts: list[str]) -> None:
    """Pictures for prompts, searched for with the reward model."""
    given = _resolved(models)
    found = placed(search_stage, config)(config.search, config.evaluation, prompts, **given)
    report_mitigation(config, "search", found, models)


@pipeline(
    name="artiagent_correction", execution_mode=ExecutionMode.FAIL_FAST, enable_pipeline_logs=False,
    on_failure=on_failure,
)  # fmt: skip
def correction(config: Config, models: Models, digests: dict[str, str]) -> None:
    """The primary benchmark's images through the loop."""
    benchmarks = resolve_benchmarks(list(config.inputs.benchmarks[:1]), digests)
    found = placed(correct, config)(config.correction, config.evaluation, benchmarks, **_resolved(models))
    report_mitigation(config, "correction", found, models)


@pipeline(
    name="artiagent_audit", execution_mode=ExecutionMode.FAIL_FAST, enable_pipeline_logs=False, on_failure=on_failure
)
def audit(config: Config, models: Models, digests: dict[str, str]) -> None:
    """What generators draw; ``config.audit`` is settled, with generators and prompts by digest."""
    benchmarks = resolve_benchmarks(list(config.inputs.benchmarks), digests)
    found = placed(audit_stage, config)(config.audit, config.evaluation, **_resolved(models), benchmarks=benchmarks)
    report_mitigation(config, "audit", found, models)


def _resolved(models: Models) -> dict[str, Any]:
    """Role -> output of its step; None for the parser where there is none."""
    return {"parser": None} | {role: resolve_model(ref, id=f"resolve_{role}") for role, ref in models.items()}


def open_mitigation(
    kind: Kind, config: Config, models: Models, parameters: dict[str, Any], document: dict[str, Any], root: Path
) -> str:
    """Write ``config.yaml`` into the folder of a run and return its name, ``<kind>-<8 hex>``: equal for equal settings,
    models, inputs and stage sources.

    Args:
        kind: which pipeline.
        config: effective configuration.
        models: role -> model.
        parameters: further ones of the pipeline: prompts, or digests of benchmarks.
        document: the ZenML run configuration as read; its ``parameters`` are replaced by the effective ones.
        root: the checkout.
    """
    weights = (f"{role}={ref.sha256}" for role, ref in sorted(models.items()))
    settings = (getattr(config, kind).digest(), config.evaluation.digest())
    inputs = (f"{name}={value}" for name, value in sorted(parameters.items()))
    source = stage_digest(f"steps.{STAGES[kind]}", root)
    name = f"{kind}-{stable_hash(*settings, *weights, *inputs, source, length=8)}"
    given = {role: ref.model_dump(mode="json") for role, ref in models.items()}
    everything = {"config": config.model_dump(mode="json"), "models": given, **parameters}
    write_run_config(name, document, everything, root)
    return name

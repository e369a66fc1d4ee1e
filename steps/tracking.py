"""One MLflow run per pipeline run, one nested run per stage that it executed; found again by tag, never duplicated.

Knows MLflow. Does not know how anything was computed: it reads references, their summaries and ``training.json``.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mlflow import MlflowClient
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from artiagent.ablation.table import AblationTable, RowResult
from artiagent.config import Config, Section
from artiagent.records import CheckpointRef, DatasetRef, EvaluationReport, Interval, stable_hash
from artiagent.store import home
from artiagent.studies.records import StudyRuns
from artiagent.studies.rows import RunsSection
from artiagent.studies.table import StudyTable
from artiagent.vlm.calls import CALLS
from steps.stage import Ref
from steps.system import metrics as system_metrics
from steps.system import samples_path
from steps.traces import log_calls

RUN, STAGE = "artiagent.run", "artiagent.stage"
SECTION_OF_STAGE = {
    "ingest": "inputs", "perceive": "perception", "plan": "planning", "synthesize": "synthesis", "curate": "curation",
    "instruct": "instruction", "finetune": "sft", "evaluate_base": "evaluation", "evaluate_tuned": "evaluation",
    "score": "evaluation", "train_reward": "reward",
}  # fmt: skip
REPORT = "report.html"  # of curation, beside its data set
PARAM_LIMIT = 6000
BATCH = 900


class TrackedRun(NamedTuple):
    """Ids of the pipeline's MLflow run and of the nested runs by stage."""

    experiment_id: str
    parent: str
    stages: dict[str, str]


def tracking_uri() -> str:
    """``MLFLOW_TRACKING_URI`` when set (a cluster's server), else SQLite below the project's home."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"


def connect() -> MlflowClient:
    """Client of tracking and registry; creates the database on first use."""
    home().mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=tracking_uri(), registry_uri=tracking_uri())


def experiment(client: MlflowClient, profile: str) -> str:
    """Id of the profile's experiment; created on first use."""
    name = f"artiagent-{profile}"
    if (found := client.get_experiment_by_name(name)) is not None:
        return found.experiment_id
    local = tracking_uri().startswith("sqlite")
    return client.create_experiment(name, artifact_location=(home() / "mlartifacts").as_uri() if local else None)


def log_run(client: MlflowClient, config: Config, name: str, refs: dict[str, Ref]) -> TrackedRun:
    """Record a pipeline run: parameters, costs, scores, curves, data digests and agent calls. Idempotent."""
    experiment_id, parent = open_parent(config, name, client)
    if client.get_run(parent).info.status == "RUNNING":
        _log(client, parent, params={}, metrics=_headline(refs))
        _tag_origins(client, parent, name, refs)
        _log_inputs(client, parent, refs)
        client.set_terminated(parent)
    logged = {stage: log_stage(config, name, stage, ref, client) for stage, ref in refs.items()}
    return TrackedRun(experiment_id, parent, {stage: run for stage, run in logged.items() if run is not None})


def open_parent(config: Config, name: str, client: MlflowClient | None = None) -> tuple[str, str]:
    """Ids of the experiment and of the pipeline's MLflow run, which is created on first use and runs until `log_run`.

    One process calls this before several do.
    """
    client = client or connect()
    experiment_id = experiment(client, config.profile)
    parent = find_run(client, experiment_id, name, "pipeline")
    if parent is None:
        parent = _create(client, experiment_id, name, "pipeline", {})
        _log(client, parent, params={"profile": config.profile, "config": config.digest()}, metrics={})
    return experiment_id, parent


def log_stage(config: Config, name: str, stage: str, ref: Ref, client: MlflowClient | None = None) -> str | None:
    """Record one stage, as soon as it has ended, below its pipeline's run. Idempotent.

    Returns the id of its MLflow run; None where there is nothing to record: another run made the output.
    """
    if stage not in SECTION_OF_STAGE or origin(ref) != name:
        return None
    client = client or connect()
    experiment_id, parent = open_parent(config, name, client)
    run = _log_stage(client, experiment_id, parent, config, name, stage, ref)
    if config.registry.trace_calls and isinstance(ref, DatasetRef):
        log_calls(client, run, Path(ref.uri) / CALLS)
    return run


def find_run(client: MlflowClient, experiment_id: str, name: str, stage: str) -> str | None:
    """Id of the MLflow run of a pipeline run's stage ("pipeline" for the whole), or None."""
    found = client.search_runs(
        [experiment_id], f"tags.`{RUN}` = '{name}' and tags.`{STAGE}` = '{stage}'", max_results=1
    )
    return found[0].info.run_id if found else None


def log_files(client: MlflowClient, config: Config, name: str, folder: Path) -> None:
    """Keep the report and the summary beside the pipeline's run."""
    run = find_run(client, experiment(client, config.profile), name, "pipeline")
    for file in ("report.html", "curation.html", "summary.json"):
        if run is not None and (folder / file).is_file():
            client.log_artifact(run, str(folder / file))


def log_ablation(client: MlflowClient, profile: str, table: AblationTable, folder: Path) -> str:
    """Record an ablation: one run, with a nested run for every row, and the files of ``folder``. Idempotent.

    Returns the id of the run.
    """
    experiment_id = experiment(client, profile)
    parent = find_run(client, experiment_id, table.name, "ablation")
    if parent is None:
        parent = _create(client, experiment_id, table.name, "ablation", {}, title=table.name)
        params = {"reference": table.reference, "sources": str(table.sources), "images": str(table.images)}
        _log(client, parent, params=params | table.provenance, metrics=_flat(table.base, "base/"))
    for row in table.rows:
        if find_run(client, experiment_id, table.name, f"row {row.name}") is None:
            _log_row(client, experiment_id, parent, table, row)
    client.set_terminated(parent)
    client.log_artifacts(parent, str(folder))
    return parent


def log_leaderboard(client: MlflowClient, profile: str, table: dict[str, list[Any]], folder: Path) -> str:
    """Record a leaderboard: its figures as an MLflow table (``leaderboard-table.json``) and the files of ``folder``.

    ``table`` is column -> values. Idempotent: the same figures are one run. Returns the id of the run.
    """
    experiment_id = experiment(client, profile)
    name = f"leaderboard-{stable_hash(json.dumps(table), length=8)}"
    if (known := find_run(client, experiment_id, name, "leaderboard")) is not None:
        return known
    run = _create(client, experiment_id, name, "leaderboard", {}, title=name)
    client.log_table(run, table, "leaderboard-table.json")
    client.log_artifacts(run, str(folder))
    client.set_terminated(run)
    return run


def _log_row(client: MlflowClient, experiment_id: str, parent: str, table: AblationTable, row: RowResult) -> None:
    tags = {MLFLOW_PARENT_RUN_ID: parent, "artiagent.group": row.group, "mlflow.note.content": row.note}
    run = _create(client, experiment_id, table.name, f"row {row.name}", tags, row.seconds or 0.0, row.name)
    counts = {
        "accepted_pairs": row.accepted,
        **row.model_dump(include={"planned", "replanned", "trained_on", "seconds"}),
    }
    metrics = {key: float(value) for key, value in counts.items() if value is not None}
    metrics |= _flat(row.figures) | _flat(row.differences, f"minus {table.reference}/")
    _log(client, run, {key: str(value) for key, value in row.set.items()}, metrics, {"audit": row.audit})
    client.set_terminated(run)


def _flat(figures: dict[str, Interval], prefix: str = "") -> dict[str, float]:
    return {
        f"{prefix}{metric}{suffix}": bound
        for metric, found in figures.items()
        for suffix, bound in (("", found.value), (".low", found.low), (".high", found.high))
    }


def log_study(
    client: MlflowClient, profile: str, table: StudyTable, planned: RunsSection,
    places: Mapping[str, Mapping[str, Sequence[int]]], runs: StudyRuns, folder: Path,
) -> str:  # fmt: skip
    """Record a study: one run, with a nested run for every model, and the files of ``folder``. Idempotent.

    A model that several rows share is one run, named by the first of them. Returns the id of the study's run.
    """
    experiment_id = experiment(client, profile)
    parent = find_run(client, experiment_id, table.name, "study")
    if parent is None:
        parent = _create(client, experiment_id, table.name, "study", {}, title=table.name)
        params = {"benchmark": table.benchmark, "images": str(table.images), "machine": table.machine}
        _log(client, parent, params=params | table.provenance, metrics=_flat(table.base, "base/"))
    for index, (spec, run) in enumerate(zip(planned.runs, runs.runs, strict=True)):
        rows = [
            (group, row, places[group.name][row.name].index(index))
            for group in table.groups
            for row in group.rows
            if index in places[group.name][row.name]
        ]
        names = [f"{group.name}/{row.name}" for group, row, _ in rows]
        title = f"{names[0]} seed {spec.sft.seed}"
        if find_run(client, experiment_id, table.name, f"model {title}") is not None:
            continue
        tags = {MLFLOW_PARENT_RUN_ID: parent, "artiagent.rows": " ".join(names)}
        made = _create(client, experiment_id, table.name, f"model {title}", tags, run.seconds or 0.0, title)
        metrics = {metric: values[k] for _, row, k in rows for metric, values in row.seeds.items()}
        facts = {"pairs": run.pairs, "sources": run.sources}
        facts |= {"seconds": run.seconds} if run.seconds is not None else {}
        _log(client, made, flatten(spec.model_dump(mode="json")), metrics | facts, {"model": run.model.sha256})
        for batch in _batches(_points(run.curve)):
            client.log_batch(made, metrics=batch)
        _log_inputs(client, made, {"conversations": run.conversations})
        client.set_terminated(made)
    client.set_terminated(parent)
    client.log_artifacts(parent, str(folder))
    return parent


def origin(ref: Ref) -> str:
    """Name of the run that made the output."""
    return str(ref.summary.get("lineage.run", ""))


def scores(report: EvaluationReport, model: str) -> dict[str, float]:
    """One model's scores with their bounds as flat metrics."""
    return _flat(report.scores.get(model, {}))


def _log_stage(
    client: MlflowClient, experiment_id: str, parent: str, config: Config, name: str, stage: str, ref: Ref
) -> str:
    if (known := find_run(client, experiment_id, name, stage)) is not None:
        return known
    seconds = float(ref.summary.get("seconds", 0.0))
    run = _create(client, experiment_id, name, stage, {MLFLOW_PARENT_RUN_ID: parent}, seconds)
    section: Section = getattr(config, SECTION_OF_STAGE[stage])
    metrics = {k: float(v) for k, v in ref.summary.items() if isinstance(v, (int, float))}
    if isinstance(ref, EvaluationReport):
        metrics |= {f"{m}/{k}": v for m in ref.scores for k, v in scores(ref, m).items()}
        for part in ref.further:
            metrics |= {f"{part.benchmark}/{m}/{k}": v for m in part.scores for k, v in scores(part, m).items()}
    tags = {k: str(v) for k, v in ref.summary.items() if isinstance(v, str)}
    _log(client, run, params=flatten(section.model_dump(mode="json")), metrics=metrics, tags=tags)
    for batch in _batches(itertools.chain(_curves(ref), _machine(ref))):
        client.log_batch(run, metrics=batch)
    _log_inputs(client, run, {stage: ref})
    if stage == "curate" and (page := Path(ref.uri) / REPORT).is_file():
        client.log_artifact(run, str(page))
    client.set_terminated(run)
    return run


def _create(
    client: MlflowClient, experiment_id: str, name: str, stage: str, tags: dict[str, str], seconds: float = 0.0,
    title: str | None = None,
) -> str:  # fmt: skip
    title = title or (name if stage == "pipeline" else stage)
    start = int((time.time() - seconds) * 1000)
    tags = {**tags, RUN: name, STAGE: stage}
    return client.create_run(experiment_id, start_time=start, tags=tags, run_name=title).info.run_id


def _log(
    client: MlflowClient,
    run: str,
    params: dict[str, str],
    metrics: dict[str, float],
    tags: dict[str, str] | None = None,
) -> None:
    now = int(time.time() * 1000)
    client.log_batch(
        run,
        metrics=[Metric(metric_name(k), v, now, 0) for k, v in metrics.items()],
        params=[Param(k, v[:PARAM_LIMIT]) for k, v in params.items()],
        tags=[RunTag(k, v) for k, v in (tags or {}).items()],
    )


def _tag_origins(client: MlflowClient, parent: str, name: str, refs: dict[str, Ref]) -> None:
    for stage, ref in refs.items():
        if origin(ref) != name:
            client.set_tag(parent, f"cached.{stage}", origin(ref))


def _headline(refs: dict[str, Ref]) -> dict[str, float]:
    report = refs.get("score")
    if not isinstance(report, EvaluationReport):
        return {}
    return {f"{model}/{k}": v for model in report.models for k, v in scores(report, model).items()}


def _log_inputs(client: MlflowClient, run: str, refs: dict[str, Ref]) -> None:
    sets = [ref for ref in refs.values() if isinstance(ref, DatasetRef)]
    client.log_inputs(run, [_as_input(ref) for ref in sets])


def _as_input(ref: DatasetRef) -> DatasetInput:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # MLflow registers its source of local files twice and says so
        source = resolve_dataset_source(ref.uri)
    # MLflow cuts digests to 36 characters; the whole one travels as a tag.
    data = MetaDataset(source, name=ref.kind, digest=ref.digest[:32])
    return DatasetInput(
        data._to_mlflow_entity(), tags=[InputTag("digest", ref.digest), InputTag("rows", str(ref.rows))]
    )


def _curves(ref: Ref) -> Iterator[Metric]:
    path = Path(ref.uri) / "training.json" if isinstance(ref, CheckpointRef) else None
    if path is None or not path.is_file():
        return
    yield from _points(json.loads(path.read_text()))


def _points(rows: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    now = int(time.time() * 1000)
    for row in rows:
        prefix = f"{row['stage']}/" if "stage" in row else ""
        values = {k: v for k, v in row.items() if k != "step" and isinstance(v, (int, float))}
        for key, value in values.items():
            yield Metric(metric_name(f"{prefix}{key}"), float(value), now, int(row.get("step", 0)))


def _machine(ref: Ref) -> Iterator[Metric]:
    """What the machine did while a model was trained, as it was sampled."""
    return system_metrics(samples_path(Path(ref.uri))) if isinstance(ref, CheckpointRef) else iter(())


def _batches(metrics: Iterator[Metric]) -> Iterator[list[Metric]]:
    everything = list(metrics)
    for start in range(0, len(everything), BATCH):
        yield everything[start : start + BATCH]


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values as dotted parameters: ``{"a": {"b": 1}}`` -> ``{"a.b": "1"}``."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat


def metric_name(name: str) -> str:
    """MLflow's alphabet for names."""
    return re.sub(r"[^\w\-. /:]", "_", name)

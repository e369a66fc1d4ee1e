"""What a search, a correction or an audit found -> ``runs/<name>`` and MLflow: page, figures with intervals, settings.

Knows where the stages leave their page and their JSON. Does not know what the figures mean: wherever the JSON holds an
interval, there is a metric; a list of intervals is a curve.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from artiagent.config import Config, Section
from artiagent.records import CheckpointRef, DatasetRef, Interval
from artiagent.store import runs_dir, write_atomic
from steps.stage import effect_step, run_name
from steps.tracking import BATCH, PARAM_LIMIT, RUN, STAGE, connect, experiment, find_run, flatten, metric_name

Kind = Literal["search", "correction", "audit"]
INTERVAL = {"value", "low", "high"}


def run(config: Config, kind: Kind, found: DatasetRef, models: dict[str, CheckpointRef]) -> None:
    name = run_name()
    figures = keep_files(runs_dir() / name, kind, found)
    log_figures(connect(), config, name, kind, found, models, figures, runs_dir() / name)


def files_of(kind: Kind) -> tuple[str, str]:
    """Names of the page and of the figures, beside the data set and in the run's folder."""
    return f"{kind}.html", f"{kind}.json"


def keep_files(folder: Path, kind: Kind, found: DatasetRef) -> dict[str, Any]:
    """Copy page and figures into the run's folder; returns the figures."""
    for name in files_of(kind):
        write_atomic(folder / name, (Path(found.uri) / name).read_bytes())
    return json.loads((folder / files_of(kind)[1]).read_text())


def log_figures(
    client: MlflowClient, config: Config, name: str, kind: Kind, found: DatasetRef, models: dict[str, CheckpointRef],
    figures: dict[str, Any], folder: Path,
) -> str:  # fmt: skip
    """Record a run with settings, metrics and files. Idempotent. Returns the id of the MLflow run."""
    experiment_id = experiment(client, config.profile)
    if (known := find_run(client, experiment_id, name, kind)) is not None:
        return known
    section: Section = getattr(config, kind)
    params = flatten(section.model_dump(mode="json")) | {f"model.{role}": ref.name for role, ref in models.items()}
    tags = {f"sha256.{role}": ref.sha256 for role, ref in models.items()} | {"digest": found.digest}
    tags |= {key: str(value) for key, value in found.summary.items() if isinstance(value, str)}
    made = client.create_run(
        experiment_id, tags={RUN: name, STAGE: kind}, run_name=name,
        start_time=int((time.time() - float(found.summary.get("seconds", 0))) * 1000),
    ).info.run_id  # fmt: skip
    client.log_batch(
        made,
        params=[Param(key, value[:PARAM_LIMIT]) for key, value in params.items()],
        tags=[RunTag(key, value) for key, value in tags.items()],
    )
    points = list(metrics_of(figures, found))
    for start in range(0, len(points), BATCH):
        client.log_batch(made, metrics=points[start : start + BATCH])
    for file in files_of(kind):
        client.log_artifact(made, str(folder / file))
    client.set_terminated(made)
    return made


def metrics_of(figures: dict[str, Any], found: DatasetRef) -> Iterator[Metric]:
    """Value and bounds of every interval, curves by step, and the plain numbers of the reference's summary."""
    now = int(time.time() * 1000)
    for path, step, interval in intervals(figures):
        for suffix, bound in (("", interval.value), (".low", interval.low), (".high", interval.high)):
            yield Metric(metric_name(path + suffix), bound, now, step)
    for key, value in found.summary.items():
        if isinstance(value, (int, float)):
            yield Metric(metric_name(f"summary/{key}"), float(value), now, 0)


def intervals(tree: Any, path: str = "", step: int = 0) -> Iterator[tuple[str, int, Interval]]:
    """(path, step, interval) of a JSON tree; the places of a list are the steps of a curve, from 1."""
    if isinstance(tree, dict) and tree.keys() >= INTERVAL:
        yield path, step, Interval.model_validate({"n": 0, **tree})
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from intervals(value, f"{path}/{key}".lstrip("/"), step)
    elif isinstance(tree, list):
        for place, value in enumerate(tree, 1):
            yield from intervals(value, path, place)


report_mitigation = effect_step(run)

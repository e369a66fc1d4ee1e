"""Model folders in MLflow's registry: one version per weights, moved by aliases.

A version is identified by the sha256 of its weights: registering the same weights again changes nothing. ``challenger``
is the newest candidate; the first version a name ever gets becomes ``champion`` too, so that there is one to beat.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from artiagent.checkpoints import checkpoint_ref
from artiagent.records import CheckpointRef
from steps.tracking import connect, metric_name, tracking_uri

SHA, MODEL_ID = "weights_sha256", "logged_model_id"
CHALLENGER, CHAMPION = "challenger", "champion"


class Registered(NamedTuple):
    """A registered version; ``created`` is False when these weights were known."""

    name: str
    version: str
    aliases: tuple[str, ...]
    model_id: str
    sha256: str
    created: bool


def register(
    client: MlflowClient,
    name: str,
    model: CheckpointRef,
    experiment_id: str,
    run_id: str,
    metrics: dict[str, float],
    tags: dict[str, str],
) -> Registered:
    """Register a model folder under ``name`` and make it the challenger. Idempotent by weights.

    Args:
        client: from ``tracking.connect``.
        name: registered model; profiles have names of their own.
        model: folder in its standard on-disk format, copied into MLflow's store.
        experiment_id: experiment of the logged model.
        run_id: MLflow run that made it; ``metrics`` attach to both.
        metrics: benchmark scores.
        tags: provenance.
    """
    _ensure_name(client, name)
    known = find_version(client, name, model.sha256)
    version = known or _create_version(client, name, model, experiment_id, run_id, metrics, tags)
    aliases = _aliases(client, name)
    if aliases.get(CHALLENGER) != str(version.version):
        client.set_registered_model_alias(name, CHALLENGER, version.version)
    if CHAMPION not in aliases:
        client.set_registered_model_alias(name, CHAMPION, version.version)
    own = tuple(sorted(a for a, v in _aliases(client, name).items() if v == str(version.version)))
    return Registered(name, str(version.version), own, version.tags[MODEL_ID], model.sha256, known is None)


def find_version(client: MlflowClient, name: str, sha256: str) -> ModelVersion | None:
    """The version of ``name`` that holds these weights, or None."""
    found = client.search_model_versions(f"name='{name}' and tags.{SHA}='{sha256}'", max_results=1)
    return found[0] if found else None


def download(uri: str) -> CheckpointRef:
    """Model folder behind ``models:/name@alias`` or ``models:/name/version``. Raises ValueError when there is none."""
    connect()
    mlflow.set_tracking_uri(tracking_uri())
    target = Path(tempfile.mkdtemp(prefix="artiagent-model-"))
    try:
        folder = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(target))
    except MlflowException as error:
        raise ValueError(f"{uri}: no such registered model ({error.message}); see 'artiagent runs list'") from error
    return checkpoint_ref(uri.removeprefix("models:/"), folder)


def _aliases(client: MlflowClient, name: str) -> dict[str, str]:
    return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}


def _ensure_name(client: MlflowClient, name: str) -> None:
    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        client.create_registered_model(name)


def _create_version(
    client: MlflowClient,
    name: str,
    model: CheckpointRef,
    experiment_id: str,
    run_id: str,
    metrics: dict[str, float],
    tags: dict[str, str],
) -> ModelVersion:
    tags = {**tags, SHA: model.sha256}
    logged = client.create_logged_model(experiment_id, name=name, source_run_id=run_id, tags=tags)
    client.log_model_artifacts(logged.model_id, model.uri)
    client.finalize_logged_model(logged.model_id, "READY")
    for key, value in metrics.items():
        client.log_metric(run_id, metric_name(key), value, model_id=logged.model_id)
    return client.create_model_version(
        name,
        logged.artifact_location,
        run_id=run_id,
        tags={**tags, MODEL_ID: logged.model_id},
        model_id=logged.model_id,
    )

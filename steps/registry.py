"""Model folders in MLflow's registry: one version per weights, moved by aliases.

A version is identified by the sha256 of its weights: registering the same weights again changes nothing. ``challenger``
is the newest candidate; the first version a name ever gets becomes ``champion`` too, so that there is one to beat.
What is known of a version beside its weights (``Evidence``) lies on the MLflow run that made it, in brief in its tags.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import NamedTuple

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from artiagent.checkpoints import checkpoint_ref
from artiagent.promotion.card import model_card, newcomer
from artiagent.promotion.evidence import Evidence
from artiagent.records import CheckpointRef, stable_hash
from artiagent.store import home
from steps.tracking import connect, metric_name, tracking_uri

SHA, MODEL_ID = "weights_sha256", "logged_model_id"
EVIDENCE_DIGEST = "evidence_digest"
CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"


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
    evidence: Evidence | None = None,
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
        evidence: kept on ``run_id``; of a known version it replaces what was there, e.g. scores on another revision.
    """
    _ensure_name(client, name)
    known = find_version(client, name, model.sha256)
    facts = tags | (evidence.tags() if evidence else {})
    version = known or _create_version(client, name, model, experiment_id, run_id, metrics, facts)
    if evidence is not None:
        _keep_evidence(client, version, evidence)
    aliases = aliases_of(client, name)
    if aliases.get(CHALLENGER) != str(version.version):
        client.set_registered_model_alias(name, CHALLENGER, version.version)
    if CHAMPION not in aliases:
        client.set_registered_model_alias(name, CHAMPION, version.version)
    own = tuple(sorted(a for a, v in aliases_of(client, name).items() if v == str(version.version)))
    return Registered(name, str(version.version), own, version.tags[MODEL_ID], model.sha256, known is None)


def find_version(client: MlflowClient, name: str, sha256: str) -> ModelVersion | None:
    """The version of ``name`` that holds these weights, or None."""
    found = client.search_model_versions(f"name='{name}' and tags.{SHA}='{sha256}'", max_results=1)
    return found[0] if found else None


def download(uri: str) -> CheckpointRef:
    """Model folder behind ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``, kept below the project's home by weights.

    Raises ValueError for another form and when there is no such version.
    """
    version = _resolve(connect(), uri)
    folder = home() / "downloads" / version.tags[SHA][:16]
    if not folder.is_dir():
        partial = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        partial.mkdir(parents=True, exist_ok=True)
        mlflow.set_tracking_uri(tracking_uri())
        mlflow.artifacts.download_artifacts(f"models:/{version.tags[MODEL_ID]}", dst_path=str(partial))
        partial.replace(folder)
    return checkpoint_ref(uri.removeprefix("models:/"), str(folder))


def _resolve(client: MlflowClient, uri: str) -> ModelVersion:
    if (parts := re.fullmatch(r"models:/([^/@]+)(?:@([\w-]+)|/(\d+))", uri)) is None:
        raise ValueError(f"{uri}: expected models:/NAME@ALIAS or models:/NAME/VERSION")
    name, alias, number = parts.groups()
    try:
        return client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, number)
    except MlflowException as error:
        raise ValueError(f"{uri}: no such registered model; 'make run' registers the first") from error


def aliases_of(client: MlflowClient, name: str) -> dict[str, str]:
    """Alias -> version."""
    return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}


def read_evidence(client: MlflowClient, version: ModelVersion) -> Evidence | None:
    """What is known of a version; None when it was registered without."""
    if EVIDENCE_DIGEST not in version.tags:
        return None
    with tempfile.TemporaryDirectory() as folder:
        file = client.download_artifacts(version.run_id, _evidence_file(version), folder)
        return Evidence.model_validate_json(Path(file).read_text())


def _keep_evidence(client: MlflowClient, version: ModelVersion, evidence: Evidence) -> None:
    text = evidence.model_dump_json(indent=1)
    tags = {**evidence.tags(), EVIDENCE_DIGEST: stable_hash(text)}
    if version.tags.get(EVIDENCE_DIGEST) != tags[EVIDENCE_DIGEST]:
        number, place = str(version.version), _evidence_file(version)
        card = model_card(version.name, number, version.tags[SHA], (), evidence)
        client.log_text(version.run_id, card, place.replace(".json", ".md"))
        client.log_text(version.run_id, text, place)
    if "promotion.state" not in version.tags:
        client.update_model_version(version.name, version.version, newcomer(evidence))
    for key, value in tags.items():
        if version.tags.get(key) != value:
            client.set_model_version_tag(version.name, version.version, key, value)


def _evidence_file(version: ModelVersion) -> str:
    return f"evidence/{version.tags[SHA][:16]}.json"


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

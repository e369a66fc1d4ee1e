"""Registry -> the two versions that the gate compares."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from artiagent.promotion.gate import UNRECORDED
from artiagent.promotion.records import Candidate, Candidates, Order
from steps.champion import locked, repair
from steps.registry import CHALLENGER, CHAMPION, SHA, aliases_of
from steps.stage import effect_step
from steps.tracking import connect


def run(order: Order) -> Candidates:
    return resolve(connect(), order)


def resolve(client: MlflowClient, order: Order) -> Candidates:
    """Finish what a crash left, then read both sides.

    Raises ValueError when there is no such name, no challenger or no such version.
    """
    aliases = known_aliases(client, order.name)
    with locked(order.name):
        repair(client, order.name)
    aliases = aliases_of(client, order.name)
    number = order.version or aliases.get(CHALLENGER)
    if number is None:
        raise ValueError(f"{order.name}: no version has the alias {CHALLENGER!r}; 'artiagent run' registers one")
    champion = aliases.get(CHAMPION)
    return Candidates(
        challenger=_candidate(find(client, order.name, number)),
        champion=_candidate(find(client, order.name, champion)) if champion else None,
    )


def known_aliases(client: MlflowClient, name: str) -> dict[str, str]:
    """Alias -> version. Raises ValueError when nothing is registered under the name."""
    try:
        return aliases_of(client, name)
    except MlflowException as error:
        raise ValueError(f"{name}: no such registered model; 'artiagent run' registers the first version") from error


def find(client: MlflowClient, name: str, version: str) -> ModelVersion:
    """A version. Raises ValueError naming those that exist."""
    known = {str(v.version): v for v in client.search_model_versions(f"name='{name}'")}
    if version not in known:
        raise ValueError(f"{name}: no version {version!r}; known: {', '.join(sorted(known, key=int)) or 'none'}")
    return known[version]


def _candidate(version: ModelVersion) -> Candidate:
    tags = version.tags
    return Candidate(
        version=str(version.version), sha256=tags[SHA], kind=tags.get("kind", "vlm"),
        revision=tags.get("benchmark_sha256", ""), audit=tags.get("audit", UNRECORDED),
        predictions=tags.get("predictions", ""), predictions_code=tags.get("predictions_code", ""),
        run=tags.get("lineage.run", ""),
    )  # fmt: skip


resolve_candidates = effect_step(run)

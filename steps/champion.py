"""Moves the aliases of a registered model: one champion at any time, nothing half-done for long, every act recorded.

An act is a ``Promotion`` that lies as ``promotion.json`` on its MLflow run before anything moves. It is carried out in
steps that may be repeated: journal, alias "previous", alias "champion", evidence in the version's tags and description,
ZenML's stage, end of the journal. Who finds a journal carries it out first: that mends a crash.

Two acts at once: on one machine a file lock orders them; everywhere an act expects the champion that it was decided
against, and claims the journal before it writes. The registry has no compare-and-set: two machines that write within
the same few milliseconds can both pass that check. The aliases are read again at the end and the act says so when
another one won; there is one champion in any case, as an alias has one value.
"""

from __future__ import annotations

import fcntl
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from artiagent.promotion.card import description, model_card
from artiagent.promotion.records import Promotion
from artiagent.store import home
from steps.registry import CHAMPION, PREVIOUS, SHA, aliases_of, read_evidence

JOURNAL = "promotion.pending"  # tag of the registered model: {"run", "token"} of the act under way
RECORD, DECISION, CARD = "promotion.json", "decision.json", "card.md"
AWAITING = "promotion.awaiting"  # tag of a version: MLflow run of the decision that waits for a person
ZENML_MODEL = "artiagent"
PATIENCE = 120.0  # seconds that an act waits for another one on this machine


class ConflictError(ValueError):
    """Another act moved the aliases since this one was decided."""


@contextmanager
def locked(name: str, patience: float = PATIENCE) -> Iterator[None]:
    """Hold the registered model's lock of this machine. Raises ConflictError when another act keeps it too long."""
    path = home() / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        end = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as busy:
                if time.monotonic() > end:
                    raise ConflictError(f"{path}: another promotion has held it for {patience:.0f} s") from busy
                time.sleep(0.05)
        yield


def act(client: MlflowClient, promotion: Promotion) -> Promotion:
    """Carry out a promotion, forced promotion or rollback whose record lies on its MLflow run.

    Raises ConflictError, with nothing changed, when the champion is not ``promotion.previous`` any more.
    """
    with locked(promotion.name):
        repair(client, promotion.name)
        found = aliases_of(client, promotion.name).get(CHAMPION, "")
        if found != promotion.previous:
            raise ConflictError(
                f"{promotion.name}: champion is {_told(found)} now, this was decided against "
                f"{_told(promotion.previous)}; run the command again"
            )
        _claim(client, promotion)
        _carry_out(client, promotion)
    return promotion


def repair(client: MlflowClient, name: str) -> Promotion | None:
    """Finish the act that a crash left half-done and return it; None when there is none. Needs the lock."""
    journal = client.get_registered_model(name).tags.get(JOURNAL)
    if not journal:
        return None
    promotion = read_record(client, json.loads(journal)["run"])
    if aliases_of(client, name).get(CHAMPION, "") not in (promotion.previous, promotion.version):
        client.delete_registered_model_tag(name, JOURNAL)  # somebody set the alias by hand since: theirs holds
        return None
    _carry_out(client, promotion)
    return promotion


def read_record(client: MlflowClient, run: str) -> Promotion:
    """The act that an MLflow run keeps."""
    with tempfile.TemporaryDirectory() as folder:
        return Promotion.model_validate_json(Path(client.download_artifacts(run, RECORD, folder)).read_text())


def keep_record(client: MlflowClient, promotion: Promotion) -> None:
    """Write the act, its decision and the version's card as artifacts of its MLflow run."""
    client.log_text(promotion.run, promotion.model_dump_json(indent=1), RECORD)
    if promotion.decision is not None:
        client.log_text(promotion.run, promotion.decision.model_dump_json(indent=1), DECISION)
    version = client.get_model_version(promotion.name, promotion.version)
    client.log_text(promotion.run, card_of(client, version, promotion), CARD)


def card_of(client: MlflowClient, version: ModelVersion, promotion: Promotion | None = None) -> str:
    """Markdown card of a version; ``promotion`` defaults to the last act that its tags name."""
    if promotion is None and (run := version.tags.get("promotion.run")):
        promotion = read_record(client, run)
    number = str(version.version)
    own = [alias for alias, v in aliases_of(client, version.name).items() if v == number]
    return model_card(version.name, number, version.tags[SHA], own, read_evidence(client, version), promotion)


def note_verdict(client: MlflowClient, promotion: Promotion) -> None:
    """Evidence in the version's tags and description, also of a verdict that moved nothing."""
    decision = promotion.decision
    tags = {
        "promotion.state": promotion.state, "promotion.action": promotion.action, "promotion.run": promotion.run,
        "promotion.at": promotion.at, "promotion.by": promotion.by, "promotion.reason": promotion.reason,
    }  # fmt: skip
    if decision is not None:
        primary = decision.result(decision.primary)
        gap = primary.difference if primary else None
        tags |= {
            "gate.verdict": decision.verdict, "gate.against": decision.champion, "gate.decision": decision.digest,
            "gate.benchmark_sha256": decision.revision, "gate.audit": decision.audit,
            "gate.count": str(decision.gating_count), "gate.reasons": " | ".join(decision.reasons)[:4000],
            f"gate.{decision.primary}": f"{gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]" if gap else "",
        }  # fmt: skip
    known = client.get_model_version(promotion.name, promotion.version).tags
    for key, value in tags.items():
        if value:
            client.set_model_version_tag(promotion.name, promotion.version, key, value)
        elif key in known:
            client.delete_model_version_tag(promotion.name, promotion.version, key)
    client.update_model_version(promotion.name, promotion.version, description(promotion))


def mirror_stage(champion_run: str, previous_run: str) -> str:
    """ZenML's stages after MLflow's aliases: the new champion's model version in production, the old one archived.

    Returns a note where ZenML does not know the run that made the champion. ZenML has one production stage for all
    profiles: it shows the last promotion.
    """
    from zenml.client import Client
    from zenml.enums import ModelStages

    for run, stage in ((previous_run, ModelStages.ARCHIVED), (champion_run, ModelStages.PRODUCTION)):
        try:
            version = Client().get_model_version(ZENML_MODEL, run) if run else None
        except KeyError:
            version = None
        if version is not None and version.stage != stage.value:
            version.set_stage(stage, force=True)
    known = champion_run and version is not None
    return "" if known else f"ZenML knows no run {champion_run or '(unknown)'}: its stage was left alone"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _claim(client: MlflowClient, promotion: Promotion) -> None:
    journal = json.dumps({"run": promotion.run, "token": token_hex(8)})
    client.set_registered_model_tag(promotion.name, JOURNAL, journal)
    if client.get_registered_model(promotion.name).tags.get(JOURNAL) != journal:
        raise ConflictError(f"{promotion.name}: another promotion began at the same moment; run the command again")


def _carry_out(client: MlflowClient, promotion: Promotion) -> None:
    """Every line may run again."""
    name = promotion.name
    if promotion.previous:
        client.set_registered_model_alias(name, PREVIOUS, promotion.previous)
    client.set_registered_model_alias(name, CHAMPION, promotion.version)
    if (found := aliases_of(client, name).get(CHAMPION)) != promotion.version:
        raise ConflictError(f"{name}: another promotion made {_told(found or '')} the champion at the same moment")
    note_verdict(client, promotion)
    version = client.get_model_version(name, promotion.version)
    if AWAITING in version.tags:
        client.delete_model_version_tag(name, promotion.version, AWAITING)
    if version.tags.get("kind", "vlm") == "vlm":
        mirror_stage(version.tags.get("lineage.run", ""), _run_of(client, name, promotion.previous))
    client.delete_registered_model_tag(name, JOURNAL)


def _run_of(client: MlflowClient, name: str, version: str) -> str:
    try:
        return client.get_model_version(name, version).tags.get("lineage.run", "") if version else ""
    except MlflowException:  # deleted by hand
        return ""


def _told(version: str) -> str:
    return f"version {version}" if version else "nobody"

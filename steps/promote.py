"""The gate's intention -> aliases, evidence and alerts; also the acts that need no gate: approval and rollback."""

from __future__ import annotations

from typing import Annotated

from mlflow import MlflowClient

from artiagent.promotion.records import Promotion
from steps.alerts import announce
from steps.champion import AWAITING, ConflictError, act, keep_record, locked, note_verdict, now, read_record, repair
from steps.registry import CHAMPION, PREVIOUS, aliases_of
from steps.resolve_candidates import find, known_aliases
from steps.stage import effect_step
from steps.tracking import RUN, STAGE, connect, experiment


def run(promotion: Promotion) -> Annotated[Promotion, "promotion_done"]:
    return fulfil(connect(), promotion)


def fulfil(client: MlflowClient, promotion: Promotion) -> Promotion:
    """Do what the gate intends. A dry run leaves its MLflow run and its place in the count, and nothing else.

    Raises ConflictError when another promotion came first.
    """
    keep_record(client, promotion)
    try:
        if promotion.state == "done":
            act(client, promotion)
            announce("promotion", promotion.summary, {"model": promotion.name, "version": promotion.version})
        elif promotion.state != "dry run":
            note_verdict(client, promotion)
        if promotion.state == "awaiting approval":
            client.set_model_version_tag(promotion.name, promotion.version, AWAITING, promotion.run)
            waits = f"{promotion.name}: version {promotion.version} passed the gate and waits for approval"
            announce("approval", waits, {"model": promotion.name, "version": promotion.version})
    except ConflictError as error:
        keep_record(client, promotion.model_copy(update={"state": "refused", "note": str(error)}))
        client.set_terminated(promotion.run, "FAILED")
        raise
    client.set_terminated(promotion.run)
    return promotion


def approve(client: MlflowClient, name: str, version: str, by: str) -> Promotion:
    """Complete a promotion that waits for a person. Idempotent: a champion stays one.

    Raises ValueError when nothing waits, or the champion is not the one that the version was compared with.
    """
    if not by.strip():
        raise ValueError("--approve needs --by NAME: who approves is part of the record")
    with locked(name):
        repair(client, name)
    waiting = find(client, name, version).tags.get(AWAITING)
    if waiting is None and known_aliases(client, name).get(CHAMPION) == version:
        return Promotion(
            name=name, profile="", action="promote", state="nothing to do", version=version,
            note=f"version {version} is the champion already",
        )  # fmt: skip
    if waiting is None:
        raise ValueError(f"{name}: version {version} does not wait for approval; 'artiagent promote' asks the gate")
    approved = read_record(client, waiting).model_copy(update={"state": "done", "by": by, "at": now()})
    return fulfil(client, approved)


def roll_back(client: MlflowClient, name: str, profile: str, *, reason: str, by: str, to: str | None) -> Promotion:
    """Champion and previous change places. A second call changes them back; with ``to`` it changes nothing.

    A rollback that a crash left half-done is finished, and that is all this call does then.
    """
    known_aliases(client, name)
    with locked(name):
        repaired = repair(client, name)
    if repaired is not None and repaired.action == "rollback":
        return repaired.model_copy(update={"note": "an interrupted rollback was completed"})
    aliases = aliases_of(client, name)
    champion, previous = aliases.get(CHAMPION, ""), aliases.get(PREVIOUS)
    if to is not None and to == champion:
        return Promotion(
            name=name, profile=profile, action="rollback", state="nothing to do", version=champion,
            note=f"version {champion} is the champion already",
        )  # fmt: skip
    if previous is None or previous == champion:
        raise ValueError(f"{name}: no version has the alias {PREVIOUS!r}, there is nothing to roll back to")
    if to not in (None, previous):
        raise ValueError(f"{name}: --to {to}: only the previous champion, version {previous}, can be rolled back to")
    find(client, name, previous)
    tags = {RUN: name, STAGE: "rollback"}
    title = f"roll back to version {previous}"
    made = client.create_run(experiment(client, profile), tags=tags, run_name=title).info.run_id
    return fulfil(
        client,
        Promotion(
            name=name, profile=profile, action="rollback", state="done", version=previous, previous=champion,
            reason=reason, by=by, at=now(), run=made,
        ),
    )  # fmt: skip


promote = effect_step(run)

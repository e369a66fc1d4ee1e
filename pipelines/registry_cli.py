"""What ``artiagent promote | rollback | models`` do and print. Knows the registry through steps; decides nothing."""

from __future__ import annotations

import argparse

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from artiagent.promotion.card import interval_text
from artiagent.promotion.gate import Decision, luck
from artiagent.promotion.records import Order, Promotion
from artiagent.run_config import load_config

CODES = {"promoted": 0, "kept": 1, "refused": 2}


def promote(arguments: argparse.Namespace) -> int:
    """Ask the gate, or complete what waits for a person; the exit code says how it went."""
    reason = arguments.reason.strip()
    if arguments.force and not reason:
        raise ValueError("--force needs --reason TEXT: why the gate is overruled is part of the record")
    if reason and not arguments.force:
        raise ValueError("--reason belongs to --force; without it the gate gives the reasons")
    if arguments.approve and (arguments.force or arguments.dry_run or arguments.version):
        raise ValueError("--approve completes a promotion that waits; it goes with --by only")
    config = load_config(arguments.config, arguments.set)

    from pipelines.promotion import approve_version, ask_gate, person

    name = arguments.name or config.registry.vlm_name
    if arguments.approve:
        return show(approve_version(name, arguments.approve, arguments.by))
    by = arguments.by or (person() if arguments.force else "")
    order = Order(name=name, version=arguments.version, dry_run=arguments.dry_run, reason=reason, by=by)
    return show(ask_gate(config, order))


def rollback(arguments: argparse.Namespace) -> int:
    """Champion and previous change places."""
    config = load_config(arguments.config, arguments.set)

    from pipelines.promotion import roll_back_champion

    name = arguments.name or config.registry.vlm_name
    return show(roll_back_champion(config, name, reason=arguments.reason.strip(), by=arguments.by, to=arguments.to))


def show(promotion: Promotion) -> int:
    """Print what was decided and done; returns the exit code."""
    if promotion.decision is not None:
        print(decision_text(promotion.decision))
    print(_outcome(promotion))
    if promotion.note:
        print(promotion.note)
    if promotion.run:
        card = f"artiagent models card {promotion.version} --name {promotion.name}"
        print(f"decision and card: MLflow run {promotion.run} ('make ui'); {card}")
    if promotion.state in ("done", "nothing to do", "awaiting approval") or promotion.decision is None:
        return 0
    return CODES[promotion.decision.verdict]


def decision_text(decision: Decision) -> str:
    """The gate's table and reasons."""
    looks = decision.gating_count
    lines = [
        f"challenger {decision.challenger} against {decision.champion} on {decision.benchmark}: {decision.n} images, "
        f"revision {decision.revision[:12] or 'unknown'}, {decision.resamples} resamples"
    ]
    if decision.metrics:
        lines.append(f"\n{'metric':<18}{'':<10}{'challenger':<24}{'champion':<24}{'difference':<27}")
    for found in decision.metrics:
        sides = f"{interval_text(found.challenger):<24}{interval_text(found.champion):<24}"
        lines.append(
            f"{found.metric:<18}{found.role:<10}{sides}{interval_text(found.difference, '+'):<27}{found.outcome}"
        )
    required = "required" if decision.audit_required else "reported only"
    lines.append(f"\nshortcut audit of the challenger's data: {decision.audit} ({required})")
    if looks:
        lines.append(
            f"looks at this revision for gating: {looks}; with so many, a challenger no better than its champion is "
            f"promoted by luck with a chance of up to {100 * luck(looks):.0f} %"
        )
    return "\n".join([*lines, f"\ngate: {decision.verdict}", *(f"  - {reason}" for reason in decision.reasons)])


def list_models(arguments: argparse.Namespace) -> int:
    """Every version of every registered model of the project, newest first."""
    from steps.tracking import connect

    client = connect()
    models = client.search_registered_models(order_by=["name ASC"])
    if not models:
        print("no registered models yet; 'artiagent run' registers the first")
    for model in models:
        aliases = {alias: str(version) for alias, version in model.aliases.items()}
        gated = {key.removeprefix("gating."): n for key, n in model.tags.items() if key.startswith("gating.")}
        looks = "; ".join(f"revision {revision} gated {n} times" for revision, n in sorted(gated.items()))
        print(f"{model.name}{f'   ({looks})' if looks else ''}")
        found = client.search_model_versions(f"name='{model.name}'")
        for version in sorted(found, key=lambda v: int(v.version), reverse=True):
            print(_line(version, aliases))
    return 0


def model_card(arguments: argparse.Namespace) -> int:
    """Print the card of a version, as it stands now."""
    from steps.champion import card_of
    from steps.resolve_candidates import find, known_aliases
    from steps.tracking import connect

    client: MlflowClient = connect()
    name = arguments.name or load_config(arguments.config, arguments.set).registry.vlm_name
    number = known_aliases(client, name).get(arguments.version, arguments.version)
    print(card_of(client, find(client, name, number)), end="")
    return 0


def _outcome(promotion: Promotion) -> str:
    version, decision = f"version {promotion.version}", promotion.decision
    if promotion.state == "done":
        return promotion.summary
    if promotion.state == "dry run":
        done = "would be promoted" if decision.verdict == "promoted" else "would not be promoted"
        forced = ", but --force would" if promotion.reason and decision.verdict != "promoted" else ""
        return f"dry run, nothing was changed: {version} {done}{forced}"
    if promotion.state == "awaiting approval":
        how = f"artiagent promote --name {promotion.name} --approve {promotion.version} --by NAME"
        return f"{version} waits for a person: {how}"
    if promotion.state == "nothing to do":
        return "nothing to do"
    champion = f"version {promotion.previous} stays" if promotion.previous else "there is still no"
    return f"{version} was not promoted; {champion} champion"


def _line(version: ModelVersion, aliases: dict[str, str]) -> str:
    number, tags = str(version.version), version.tags
    own = ", ".join(sorted(alias for alias, v in aliases.items() if v == number))
    state = tags.get("promotion.state", "not judged")
    if state == "done":
        state = {"force": "forced", "rollback": "rolled back to"}.get(tags.get("promotion.action", ""), "promoted")
    judged = f"{state} {tags.get('promotion.at', '')[:16]}".strip()
    return (
        f"  {number:>4}  {own or '-':<32} {tags.get('weights_sha256', '')[:12]:<13} audit {tags.get('audit', '-'):<14} "
        f"{judged:<28} {tags.get('lineage.run', '')}"
    )

"""Challenger against champion: both answer the primary benchmark, the gate decides, aliases follow. Never cached."""

from __future__ import annotations

import getpass
from uuid import uuid4

from zenml import pipeline
from zenml.enums import ExecutionMode

from artiagent.config import Config
from artiagent.promotion.records import Order, Promotion
from pipelines.placement import placed
from steps.alerts import on_failure
from steps.gate import gate
from steps.predict_candidate import predict_candidate
from steps.promote import approve, promote, roll_back
from steps.resolve_candidates import resolve, resolve_candidates
from steps.tracking import connect


@pipeline(
    name="artiagent_promotion", enable_cache=False, execution_mode=ExecutionMode.FAIL_FAST,
    enable_pipeline_logs=False, on_failure=on_failure,
)  # fmt: skip
def promotion(config: Config, order: Order) -> None:
    """One order: see ``artiagent promote``."""
    candidates = resolve_candidates(order)
    predict = placed(predict_candidate, config)
    challenger = predict(config, order.name, candidates, "challenger")
    champion = predict(config, order.name, candidates, "champion")
    promote(gate(config, order, candidates, challenger, champion))


def ask_gate(config: Config, order: Order) -> Promotion:
    """Run the pipeline, unless the challenger holds the place already.

    Raises ValueError for an unknown model or version, RuntimeError when a step fails or another promotion came first.
    """
    found = resolve(connect(), order)
    if found.champion is not None and found.champion.version == found.challenger.version:
        return Promotion(
            name=order.name, profile=config.profile, action="promote", state="nothing to do",
            version=found.challenger.version, note=f"{found.challenger.label} is the champion already",
        )  # fmt: skip
    title = f"promote-{order.name}-{found.challenger.version}-{uuid4().hex[:8]}"
    finished = promotion.with_options(run_name=title)(config=config, order=order)
    if finished is None or not finished.status.is_successful:
        raise RuntimeError(f"{title}: {finished.status.value if finished else 'not started'}; see it with 'make ui'")
    return finished.steps["promote"].outputs["promotion_done"][0].load()


def approve_version(name: str, version: str, by: str) -> Promotion:
    """The second half of a promotion that waits for a person."""
    return approve(connect(), name, version, by)


def roll_back_champion(config: Config, name: str, *, reason: str, by: str, to: str | None) -> Promotion:
    """Champion and previous of a registered model change places."""
    return roll_back(connect(), name, config.profile, reason=reason, by=by or person(), to=to)


def person() -> str:
    """Who is at the keyboard, for the record."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no such user in the container
        return "unknown"

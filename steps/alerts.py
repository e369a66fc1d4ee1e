"""Tells people about failures and promotions: through the stack's alerter, and through a webhook.

The webhook's address is a secret, as it lets anybody post: it comes from the environment variable
``ARTIAGENT_ALERT_WEBHOOK`` and never reaches a log, a record or an error. Nothing here fails a run.
"""

from __future__ import annotations

import json
import logging
import os
import urllib.request
from collections.abc import Mapping
from typing import Literal, Protocol

logger = logging.getLogger("artiagent.alerts")
WEBHOOK = "ARTIAGENT_ALERT_WEBHOOK"
TIMEOUT = 5.0  # seconds
LIMIT = 500  # characters of an error's text

Event = Literal["failure", "promotion", "approval"]


class Alerter(Protocol):
    """What ZenML's alerters have in common."""

    def post(self, message: str) -> bool: ...


def on_failure(exception: BaseException) -> None:
    """Hook of pipelines: one message for the step that failed."""
    from zenml import get_step_context

    try:
        context = get_step_context()
        where = {
            "pipeline": context.pipeline.name, "run": context.pipeline_run.name, "step": context.step_run.name,
        }  # fmt: skip
    except RuntimeError:  # the pipeline failed outside its steps
        where = {}
    text = f"{type(exception).__name__}: {str(exception)[:LIMIT]}"
    at = f" of {where['run']}, step {where['step']}" if where else ""
    announce("failure", f"artiagent: failure{at}: {text}", where)


def announce(event: Event, text: str, fields: Mapping[str, str], alerter: Alerter | None = None) -> None:
    """Post to the alerter (default: the active stack's, if it has one) and to the webhook, if one is set."""
    channels = {"alerter": alerter or _stack_alerter(), "webhook": os.environ.get(WEBHOOK)}
    posts = {"alerter": lambda to: to.post(text), "webhook": lambda to: _post(to, event, text, fields)}
    for name, channel in channels.items():
        try:
            if channel:
                posts[name](channel)
        except Exception as error:  # noqa: BLE001  (an alert must never fail a run, whatever a third party's alerter raises)
            logger.warning("alert not delivered by the %s (%s)", name, type(error).__name__)


def _stack_alerter() -> Alerter | None:
    try:
        from zenml.client import Client

        return Client().active_stack.alerter
    except Exception as error:  # noqa: BLE001  (no store, no stack, a flavour whose package is missing)
        logger.warning("the stack's alerter cannot be reached (%s)", type(error).__name__)
        return None


def _post(url: str, event: Event, text: str, fields: Mapping[str, str]) -> None:
    """``text`` is what Slack, Mattermost and Teams show; the other keys are for machines."""
    if not url.startswith(("https://", "http://")):
        raise ValueError("expected an http(s) address")
    body = json.dumps({"text": text, "event": event, **fields}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310  (checked above)
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310
        answer.read(0)

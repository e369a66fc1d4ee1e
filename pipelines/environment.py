"""An isolated, quiet ZenML below the project's home; must be prepared before zenml is imported.

Settings that are already in the environment win: a remote ZenML or MLflow server is used where one is configured.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from artiagent.store import checkout, home

SETTINGS = {
    "ZENML_ANALYTICS_OPT_IN": "false",
    "ZENML_LOGGING_VERBOSITY": "CRITICAL",
    "ZENML_ENABLE_RICH_TRACEBACK": "false",
    "ZENML_ENABLE_REPO_INIT_WARNINGS": "false",
    "ZENML_DISABLE_PIPELINE_LOGS_STORAGE": "true",
    "ZENML_DISABLE_STEP_LOGS_STORAGE": "true",
    "ZENML_DISABLE_STEP_NAMES_IN_LOGS": "true",
    "AUTO_OPEN_DASHBOARD": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "ZENML_PARAMETER_SIZE_THRESHOLD": "1000000",  # bytes; larger parameters would become artifacts, anew in every run
    "DO_NOT_TRACK": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GIT_PYTHON_REFRESH": "quiet",
    "TOKENIZERS_PARALLELISM": "false",
}


def prepare(verbose: bool = False) -> Path:
    """Point ZenML at ``<home>/zenml`` and the checkout's sources; returns the checkout.

    Raises RuntimeError outside a checkout. ``verbose`` leaves ZenML's log on.
    """
    if (root := checkout()) is None:
        raise RuntimeError("pipelines run from a checkout of the repository; clone it and run 'make setup'")
    os.environ.setdefault("ZENML_CONFIG_PATH", str(home() / "zenml"))
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("artiagent").setLevel(logging.WARNING)  # ZenML's level is the root's, and would silence ours
    if verbose:
        os.environ["ZENML_LOGGING_VERBOSITY"] = "INFO"
    else:
        logging.getLogger("alembic").setLevel(logging.ERROR)
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)

    from zenml.utils import source_utils

    source_utils.set_custom_source_root(str(root))
    return root


def know_step_operator(flavor: str, source: str) -> None:
    """Register one of our flavors of step operators by the path of its class, where ZenML does not know it yet."""
    from zenml.client import Client
    from zenml.enums import StackComponentType

    client, kind = Client(), StackComponentType.STEP_OPERATOR
    if not any(known.source == source for known in client.list_flavors(name=flavor, type=kind)):
        client.create_flavor(source, kind)


@contextmanager
def active_stack(name: str | None) -> Iterator[None]:
    """Run on the named stack, then activate the one from before. Raises ValueError naming the known stacks."""
    if name is None:
        yield
        return
    from zenml.client import Client

    client = Client()
    known = [stack.name for stack in client.list_stacks(size=100)]
    if name not in known:
        raise ValueError(f"--stack {name}: no such ZenML stack (known: {', '.join(sorted(known))}); see infra/stacks/")
    before = client.active_stack_model.name
    client.activate_stack(name)
    try:
        yield
    finally:
        client.activate_stack(before)

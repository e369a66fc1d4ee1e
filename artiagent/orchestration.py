"""The one door from the library's command line up to pipelines and registry; opened when asked, never on import.

Knows that a checkout holds the packages ``pipelines`` and ``steps``. Does not know ZenML or MLflow.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from artiagent.config import Config
    from artiagent.records import CheckpointRef

REGISTERED = "models:/"


def pipelines_command(name: str) -> Callable[[argparse.Namespace], int]:
    """The function ``name`` of ``pipelines.cli`` as a command, imported when it is called."""

    def command(arguments: argparse.Namespace) -> int:
        return getattr(pipelines_module(), name)(arguments)

    return command


def pipelines_module() -> ModuleType:
    """``pipelines.cli``, its environment prepared. Raises RuntimeError outside a checkout."""
    from artiagent.store import checkout

    if checkout() is None:
        raise RuntimeError("this command needs a checkout of the repository: clone it and run 'make setup' there")
    import pipelines.cli

    pipelines.cli.prepare()
    return pipelines.cli


def stage_list(config: Config) -> tuple[Any, ...]:
    """The list that every orchestrator walks: names only, no ZenML. Raises RuntimeError outside a checkout."""
    from artiagent.store import checkout

    if checkout() is None:
        raise RuntimeError("this command needs a checkout of the repository: clone it and run 'make setup' there")
    from pipelines.stages import stages

    return stages(config)


def open_model(location: str) -> CheckpointRef:
    """A model folder, hub id, or ``models:/NAME@ALIAS`` of the registry, downloaded once."""
    if location.startswith(REGISTERED):
        pipelines_module()
        from steps.registry import download

        return download(location)
    from artiagent.checkpoints import checkpoint_ref

    return checkpoint_ref(Path(location).name, location)

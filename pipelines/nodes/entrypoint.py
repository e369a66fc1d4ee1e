"""What every pod executes once it has the code: the first one the step, the others what the first one asks of them.

Knows what Kubernetes and ZenML call a pod's place. ZenML hears of the first pod alone.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from uuid import UUID

from zenml.client import Client
from zenml.integrations.kubernetes.constants import (
    ENV_ZENML_KUBERNETES_MAIN_ADDRESS,
    ENV_ZENML_KUBERNETES_MAIN_PORT,
)
from zenml.step_operators.step_operator_entrypoint_configuration import (
    STEP_RUN_ID_OPTION,
    StepOperatorEntrypointConfiguration,
)
from zenml.utils import env_utils

from artiagent.learning.nodes import ADDRESS, PORT, RANK, Place, place_here
from pipelines.environment import prepare

INDEX = "JOB_COMPLETION_INDEX"  # Kubernetes sets it in the pods of an indexed Job
NAMES = {RANK: INDEX, ADDRESS: ENV_ZENML_KUBERNETES_MAIN_ADDRESS, PORT: ENV_ZENML_KUBERNETES_MAIN_PORT}
BOOTSTRAP = Path(__file__).with_name("bootstrap.py")


class NodeEntrypoint(StepOperatorEntrypointConfiguration):
    """Its command brings the code; then `main` runs it."""

    @classmethod
    def get_entrypoint_command(cls) -> list[str]:
        return ["python", "-c", BOOTSTRAP.read_text()]

    def prepare_code_environment(self) -> None:
        """Nothing: the code is here."""

    def follow(self, place: Place) -> None:
        """With the step's variables and secrets, as the first pod has them. Raises as `artiagent.learning.launch`."""
        from artiagent.learning.launch import follow

        step_run = Client().zen_store.get_run_step(UUID(self.entrypoint_args[STEP_RUN_ID_OPTION]))
        with env_utils.temporary_runtime_environment(step_run.config, Client().active_stack):
            follow(place)


def main(arguments: list[str]) -> None:
    """Raises SystemExit, with the reason, in a pod that follows and cannot go on."""
    prepare()  # a process without a file has no root from which ZenML would import sources
    os.environ.update(named(os.environ))
    place = place_here()
    entrypoint = NodeEntrypoint(arguments)
    if place.index == 0:
        entrypoint.run()
        return
    signal.signal(signal.SIGTERM, _stop)  # the first process of a container has no handler, and would be deaf
    try:
        entrypoint.follow(place)
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"node {place.index}: {error}")


def _stop(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def named(environment: Mapping[str, str]) -> dict[str, str]:
    """The pod's place under the names that fine-tuning knows."""
    return {name: environment[theirs] for name, theirs in NAMES.items() if theirs in environment}

"""What a step's process executes: one step of a run that exists, as ZenML's own entry point does it.

Its imports are what the `supervisor` has ready for every step.
"""

from __future__ import annotations

import zenml.artifact_stores.local_artifact_store
import zenml.log_stores
import zenml.orchestrators.local.local_orchestrator
import zenml.orchestrators.step_runner
import zenml.zen_stores.sql_zen_store  # noqa: F401
from sqlalchemy.orm import configure_mappers
from zenml.entrypoints import entrypoint
from zenml.step_operators.step_operator_entrypoint_configuration import StepOperatorEntrypointConfiguration

import materializers  # noqa: F401
import pipelines.pinned.operator  # noqa: F401
import steps.stage  # noqa: F401
from pipelines.environment import prepare

configure_mappers()  # else every process would, with its first query


class PinnedEntrypoint(StepOperatorEntrypointConfiguration):
    """For a checkout instead of a container with ``/app``.

    ZenML would import every integration that is installed, PyTorch and scikit-learn among them, for their
    materializers; the steps' own are registered when the steps are imported.
    """

    def run(self) -> None:
        self._run_step(step=self.step, snapshot=self.snapshot)


def main() -> None:
    """Execute the step that ``sys.argv`` names."""
    prepare()
    entrypoint.main()

"""What a step's process executes: one step of a run that exists, by ZenML's own entry point."""

from __future__ import annotations

from zenml.entrypoints.entrypoint import main
from zenml.step_operators.step_operator_entrypoint_configuration import StepOperatorEntrypointConfiguration

from pipelines.environment import prepare


class PinnedEntrypoint(StepOperatorEntrypointConfiguration):
    """ZenML's changes to ``/app``, as in a container; here the code is the checkout."""

    def prepare_code_environment(self) -> None:
        prepare()


__all__ = ["PinnedEntrypoint", "main"]

"""The step operator: ZenML's own for Kubernetes, which starts several pods, with an ordinary step in them.

Knows what ZenML refuses and writes into manifests. What the pods do: `entrypoint`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zenml.client import Client
from zenml.integrations.kubernetes.constants import KUBERNETES_SECRET_TOKEN_KEY_NAME
from zenml.integrations.kubernetes.pod_settings import KubernetesPodSettings
from zenml.integrations.kubernetes.step_operators import KubernetesStepOperator

if TYPE_CHECKING:
    from zenml.config.base_settings import BaseSettings
    from zenml.config.step_run_info import StepRunInfo
    from zenml.models import ResourceRequestResponse

    from pipelines.nodes.entrypoint import NodeEntrypoint

TOKEN = "ZENML_STORE_API_TOKEN"  # name of the variable with which a pod reports to the server


class NodesOperator(KubernetesStepOperator):
    """Several pods for one step."""

    @property
    def entrypoint_config_class(self) -> type[NodeEntrypoint]:
        from pipelines.nodes.entrypoint import NodeEntrypoint

        return NodeEntrypoint

    def submit_with_allocation(
        self,
        info: StepRunInfo,
        entrypoint_command: list[str],
        environment: dict[str, str],
        allocated_resource_request: ResourceRequestResponse | None,
    ) -> None:
        """Create the Job and its headless service.

        ZenML refuses more than one pod for what is no command: each would repeat the step. Ours does not, so the step
        is given out as the command that it is anyhow.
        """
        config = info.config.model_copy(update={"command": entrypoint_command})
        if _secret(info):
            environment = {name: value for name, value in environment.items() if name != TOKEN}
        super().submit_with_allocation(
            info.model_copy(update={"config": config}), entrypoint_command, environment, allocated_resource_request
        )

    def get_settings(self, container: Any) -> BaseSettings:
        """The step's; with the token that the orchestrator keeps for the run, where it keeps one."""
        settings = super().get_settings(container)
        if (secret := _secret(container)) is None:
            return settings
        reference = {"secretKeyRef": {"name": secret, "key": KUBERNETES_SECRET_TOKEN_KEY_NAME}}
        pod = settings.pod_settings or KubernetesPodSettings()
        variables = [*pod.env, {"name": TOKEN, "valueFrom": reference}]
        return settings.model_copy(update={"pod_settings": pod.model_copy(update={"env": variables})})


def _secret(info: Any) -> str | None:
    """Name of the Kubernetes secret with the run's token; None where there is none."""
    orchestrator = Client().active_stack.orchestrator
    if not getattr(orchestrator.config, "pass_zenml_token_as_secret", False):
        return None
    return orchestrator.get_token_secret_name(info.snapshot.id)

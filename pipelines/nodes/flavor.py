"""The ZenML flavor: ZenML's Kubernetes step operator, for steps that several pods do together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zenml.integrations.kubernetes.flavors import KubernetesStepOperatorConfig
from zenml.step_operators import BaseStepOperatorFlavor

from pipelines.nodes.placing import FLAVOR

if TYPE_CHECKING:
    from pipelines.nodes.operator import NodesOperator

SOURCE = f"{__name__}.NodesFlavor"


class NodesFlavor(BaseStepOperatorFlavor):
    """Registered by its source path, `SOURCE`."""

    @property
    def name(self) -> str:
        return FLAVOR

    @property
    def config_class(self) -> type[KubernetesStepOperatorConfig]:
        return KubernetesStepOperatorConfig

    @property
    def implementation_class(self) -> type[NodesOperator]:
        from pipelines.nodes.operator import NodesOperator

        return NodesOperator

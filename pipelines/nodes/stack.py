"""``artiagent stack nodes NAME``: gives a stack on Kubernetes the step operator that starts several pods."""

from __future__ import annotations


def register(name: str) -> str:
    """Make ZenML know the flavor, and give the stack a step operator like its orchestrator; returns its name.

    May be repeated. Raises ValueError for a stack that is not there, or not on Kubernetes.
    """
    from zenml.client import Client
    from zenml.enums import StackComponentType

    from pipelines.environment import know_step_operator
    from pipelines.nodes.flavor import FLAVOR, SOURCE
    from pipelines.placement import KUBERNETES

    client, kind = Client(), StackComponentType.STEP_OPERATOR
    stack = next((found for found in client.list_stacks(name=name, hydrate=True) if found.name == name), None)
    if stack is None:
        raise ValueError(f"{name}: no such ZenML stack; zenml stack list")
    (orchestrator,) = stack.components[StackComponentType.ORCHESTRATOR]
    if orchestrator.flavor_name != KUBERNETES:
        raise ValueError(f"{name}: its orchestrator is {orchestrator.flavor_name!r}, not {KUBERNETES!r}")
    know_step_operator(FLAVOR, SOURCE)
    own = f"{name}-nodes"
    copied = ("incluster", "kubernetes_context", "kubernetes_namespace", "api_request_timeout")
    configuration = {key: orchestrator.configuration[key] for key in copied if key in orchestrator.configuration}
    if not any(found.name == own for found in client.list_stack_components(type=kind, name=own)):
        client.create_stack_component(own, FLAVOR, kind, configuration)
    connector = orchestrator.connector.id if orchestrator.connector else None
    operator = client.update_stack_component(own, kind, configuration=configuration, connector_id=connector)
    others = [found.id for found in stack.components.get(kind, ()) if found.id != operator.id]
    client.update_stack(name, component_updates={kind: [*others, operator.id]})
    return own

"""Where fine-tuning on several machines runs, and why it cannot.

Knows the step operator of a stack and its settings. What a pod is like: `pipelines.placement`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from artiagent.config import Config
from artiagent.learning.nodes import place_here
from artiagent.scale.profiles import Declared, Profile, profile_name
from pipelines import placement

if TYPE_CHECKING:
    from zenml.integrations.kubernetes.pod_settings import KubernetesPodSettings
    from zenml.stack import Stack, StackComponent

FLAVOR = "nodes"  # of the step operator
STAGE = "finetune"
LABEL = "artiagent.io/nodes"  # of pods that may connect to each other (infra/kubernetes/network.yaml)
STOP_SECONDS = 120  # for a pod that is told to go


def spread(stage: str, config: Config) -> bool:
    """Whether the stage runs on several machines."""
    return stage == STAGE and config.sft.nodes > 1


def operator_of(stack: Stack) -> StackComponent | None:
    """The stack's step operator for steps on several pods."""
    return next((found for found in stack.step_operators.values() if found.flavor == FLAVOR), None)


def options(config: Config, profile: Profile, stack: Stack) -> dict[str, Any]:
    """Arguments of ``BaseStep.with_options`` for the stage: so many pods of the profile, all of them or none.

    Raises ConfigError when the stack cannot.
    """
    from zenml.integrations.kubernetes.flavors import KubernetesStepOperatorSettings

    from artiagent.run_config import ConfigError

    operator = operator_of(stack)
    if operator is None:
        raise ConfigError(_no_operator(config, stack))
    settings = KubernetesStepOperatorSettings(
        pod_settings=_pod(profile),
        pod_count=config.sft.nodes,
        service_account_name=stack.orchestrator.config.step_pod_service_account_name,
        active_deadline_seconds=round(profile.deadline * 3600),
        ttl_seconds_after_finished=stack.orchestrator.config.ttl_seconds_after_finished,
    )
    key = f"{operator.type.value}:{operator.name}"
    return {
        "step_operator": operator.name,
        "settings": {key: settings, "docker": placement.docker_settings(profile, stack)},
    }


def problems(config: Config, declared: Declared, stack: Stack, stages: Collection[str]) -> Iterator[str]:
    """What a submission knows to go wrong with ``sft.nodes``. A line each, with the remedy."""
    count = config.sft.nodes
    if count == 1:
        return
    if "train_study" in stages:
        yield f"train_study: sft.nodes is {count}, and studies train on one machine; set sft.nodes to 1"
    if STAGE not in stages:
        return
    if stack.orchestrator.flavor != placement.KUBERNETES:
        yield from _by_hand(config, stack)
        return
    if operator_of(stack) is None:
        yield _no_operator(config, stack)
    if not os.environ.get("ARTIAGENT_VOLUME"):
        yield (
            f"sft.nodes {count}: nodes need a folder that all of them share; set ARTIAGENT_VOLUME to a "
            "PersistentVolumeClaim (ReadWriteMany), or sft.nodes to 1"
        )
    name = profile_name(STAGE, config.scale)
    if (profile := declared.profiles.get(name)) and (pools := declared.pools_for(profile)):
        largest = max(pools, key=lambda pool: pool.most)
        if largest.most < count:
            yield (
                f"sft.nodes {count}: pool {largest.name!r} of infra/profiles.yaml has at most {largest.most} nodes for "
                f"profile {name!r}, and all must be there at once; raise its 'most', or lower sft.nodes"
            )


def _by_hand(config: Config, stack: Stack) -> Iterator[str]:
    """Elsewhere a person starts the other nodes; this process must know where they meet."""
    if stack.step_operator is not None:
        yield (
            f"sft.nodes {config.sft.nodes}: stack {stack.name} gives a stage devices of one machine; set sft.nodes to 1"
        )
        return
    try:
        place_here()
    except ValueError as error:
        yield (
            f"sft.nodes {config.sft.nodes}: stack {stack.name} starts no machines. Set sft.nodes to 1, take a stack on "
            f"Kubernetes, or start the other nodes yourself: {error}"
        )


def _no_operator(config: Config, stack: Stack) -> str:
    return (
        f"sft.nodes {config.sft.nodes}: stack {stack.name} has no step operator that starts several pods; "
        f"artiagent stack nodes {stack.name}"
    )


def _pod(profile: Profile) -> KubernetesPodSettings:
    """As every pod of the profile, with work under way on the volume that all share."""
    pod = placement.pod_settings(profile)
    for variable in pod.env:
        if variable["name"] == "ARTIAGENT_HOME":
            variable["value"] = f"{placement.SHARED}/artiagent"
    pod.labels[LABEL] = "true"
    pod.additional_pod_spec_args["automount_service_account_token"] = False  # it asks nothing of the cluster
    pod.additional_pod_spec_args["termination_grace_period_seconds"] = STOP_SECONDS
    return pod

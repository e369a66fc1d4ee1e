"""Where a stage runs: the one place that turns a profile into pod settings, KFP task settings or a number of devices.

Knows ZenML's Kubernetes settings, kfp and the layout of a pod. Knows neither a stage's work nor a cluster's address.
Nothing secret passes through here: pods get secrets from ZenML while they run, KFP tasks by reference.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import artiagent
from artiagent.config import Config
from artiagent.run_config import ConfigError
from artiagent.scale.profiles import DEFAULT, GPU, Declared, Profile, Toleration, load_profiles, profile_name
from pipelines.environment import SETTINGS

if TYPE_CHECKING:
    from kfp.dsl import PipelineTask
    from zenml.config import DockerSettings
    from zenml.integrations.kubernetes.flavors.kubernetes_orchestrator_flavor import KubernetesOrchestratorSettings
    from zenml.integrations.kubernetes.pod_settings import KubernetesPodSettings
    from zenml.stack import Stack, StackComponent
    from zenml.steps import BaseStep

KUBERNETES = "kubernetes"  # flavor of an orchestrator whose stages are pods
PINNED = "pinned"  # flavor of the step operator that gives a stage devices of this machine
ORCHESTRATOR = "orchestrator"  # profile of the pod that starts the others
QUEUE = "kueue.x-k8s.io/queue-name"
# In a pod: its own disk, where ZenML puts the code, the volume of $ARTIAGENT_VOLUME.
WORK, CODE, SHARED = "/scratch", "/app", "/shared"
USER = 1000  # of the images; a pod may not run as root
PRIORITY = "artiagent-run"  # class of the pod that starts the others (infra/kubernetes/limits.yaml)
# Of whoever submits, handed to every pod; never a secret. The pod that starts the others hands them on.
PASSED = (
    "ARTIAGENT_DVC_REMOTE", "ARTIAGENT_IMAGE_CPU", "ARTIAGENT_IMAGE_CUDA", "ARTIAGENT_STORE", "ARTIAGENT_VOLUME",
    "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "HF_ENDPOINT", "MLFLOW_TRACKING_URI",
)  # fmt: skip
VERBOSE = {"ZENML_LOGGING_VERBOSITY": "INFO"}  # the cluster keeps what pods print
# A node that is taken away is no failure of the stage: its pod starts again by itself. ZenML's own rules for steps look
# at the exit code first, and a pod that was told to go has one. A failure ends the Job; ZenML then retries the stage.
FAILURES = {
    "rules": [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Count", "onExitCodes": {"containerName": "main", "operator": "NotIn", "values": [0]}},
    ]
}


@cache
def declared() -> Declared:
    """The checkout's profiles and pools. Raises ConfigError."""
    return load_profiles()


def profile_of(stage: str, config: Config) -> Profile:
    """The profile of a stage, or of its shards (``<stage>_shard``). Raises ConfigError naming the nearest.

    A sharded stage itself only joins what its shards made and loads no model: it has the default profile.
    """
    joins = config.scale.shards.get(stage, 1) > 1
    return declared().profile(profile_name(DEFAULT if joins else stage.removesuffix("_shard"), config.scale))


def options(stage: str, config: Config) -> dict[str, Any]:
    """Arguments of ``BaseStep.with_options`` for a stage or its shards (``<stage>_shard``) on the active stack.

    Retries on every stack. Pod settings where stages are pods, a number of devices where a step operator pins them; on
    a plain local stack no settings. Raises ConfigError for a profile that is not declared.
    """
    from zenml.client import Client
    from zenml.config.retry_config import StepRetryConfig

    from pipelines.nodes import placing

    stack = Client().active_stack
    arguments: dict[str, Any] = {}
    if config.scale.retries:
        arguments["retry"] = StepRetryConfig(max_retries=config.scale.retries)
    if stack.orchestrator.flavor == KUBERNETES:
        profile = profile_of(stage, config)
        if placing.spread(stage, config):
            return arguments | placing.options(config, profile, stack)
        account = stack.orchestrator.config.step_pod_service_account_name  # ZenML forgets it in dynamic pipelines
        settings = orchestrator_settings(profile, account)
        arguments["settings"] = {_component(stack.orchestrator): settings, "docker": docker_settings(profile, stack)}
    elif (operator := stack.step_operator) is not None and operator.flavor == PINNED:
        profile = profile_of(stage, config)
        arguments["step_operator"] = operator.name
        arguments["settings"] = {_component(operator): {"devices": devices(profile), "hours": profile.deadline}}
    return arguments


def placed(step: BaseStep, config: Config) -> BaseStep:
    """The step with what its profile asks for on the active stack."""
    return step.with_options(**options(step.name, config))


def pipeline_settings(config: Config) -> dict[str, Any]:
    """Argument ``settings`` of ``Pipeline.with_options`` on the active stack: the pod that starts the others."""
    from zenml.client import Client

    stack = Client().active_stack
    if stack.orchestrator.flavor != KUBERNETES:
        return {}
    from zenml.integrations.kubernetes.flavors.kubernetes_orchestrator_flavor import KubernetesOrchestratorSettings

    profile = declared().profile(ORCHESTRATOR)
    pod = pod_settings(profile)
    pod.additional_pod_spec_args["priority_class_name"] = PRIORITY
    settings = KubernetesOrchestratorSettings(orchestrator_pod_settings=pod, active_deadline_seconds=_seconds(profile))
    return {_component(stack.orchestrator): settings, "docker": docker_settings(profile, stack)}


def orchestrator_settings(profile: Profile, account: str | None = None) -> KubernetesOrchestratorSettings:
    """A step's settings of ZenML's Kubernetes orchestrator; its Job ends at the profile's deadline at the latest.

    ``account`` is the service account of its pod; None: the orchestrator's.
    """
    from zenml.integrations.kubernetes.flavors.kubernetes_orchestrator_flavor import KubernetesOrchestratorSettings

    pod = pod_settings(profile)
    pod.additional_pod_spec_args["automount_service_account_token"] = False  # a step asks nothing of the cluster
    more = {"service_account_name": account} if account else {}
    return KubernetesOrchestratorSettings(
        pod_settings=pod, active_deadline_seconds=_seconds(profile), pod_failure_policy=FAILURES, **more
    )


def pod_settings(profile: Profile) -> KubernetesPodSettings:
    """The pod of a profile, as ZenML takes it.

    Requests are the limits: nothing is overcommitted, and a GPU stage does not lose its node to a neighbour's memory.
    """
    from zenml.integrations.kubernetes.pod_settings import KubernetesPodSettings

    volumes, mounts = _volumes(profile)
    amounts = resources(profile)
    return KubernetesPodSettings(
        resources={"requests": dict(amounts), "limits": dict(amounts)},
        node_selectors=dict(profile.selector),
        tolerations=[_toleration(toleration) for toleration in profile.tolerations],
        volumes=volumes,
        volume_mounts=mounts,
        labels={QUEUE: profile.queue} if profile.queue else {},
        annotations={"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"},
        env=[{"name": name, "value": value} for name, value in environment().items()],
        container_security_context={"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        additional_pod_spec_args={
            "security_context": {
                "runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
                "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"},
            }
        },
    )  # fmt: skip


def resources(profile: Profile) -> dict[str, str]:
    """Kubernetes resource name -> amount. Without GPUs none are named."""
    amounts = {
        "cpu": _cores(profile.cpu), "memory": _gib(profile.memory), "ephemeral-storage": _gib(profile.disk),
    }  # fmt: skip
    return amounts | ({GPU: str(profile.gpus)} if profile.gpus else {})


def environment() -> dict[str, str]:
    """What pods and tasks find in their environment. Raises ConfigError for an address with a password in it."""
    passed = {name: value for name in PASSED if (value := os.environ.get(name))}
    for name, value in passed.items():
        if "@" in urlsplit(value).netloc and "IMAGE" not in name:
            raise ConfigError(
                f"{name}: has a user or password in it, which every pod's manifest would show; "
                "take it out and put it into the stack's ZenML secret (docs/kubernetes.md)"
            )
    place = SHARED if "ARTIAGENT_VOLUME" in passed else WORK
    home = WORK if "ARTIAGENT_STORE" in passed else place
    own = {"ARTIAGENT_HOME": f"{home}/artiagent", "HF_HOME": f"{place}/huggingface", "HOME": WORK}
    return {k: v for k, v in SETTINGS.items() if k != "ZENML_ENABLE_REPO_INIT_WARNINGS"} | VERBOSE | passed | own


def place_task(task: PipelineTask, profile: Profile) -> PipelineTask:
    """Give a KFP task the machine of a profile; returns the task.

    KFP has no limit for a container's disk: the pod's own disk is a volume of that size instead.
    """
    from kfp import kubernetes

    if profile.gpus:
        task.set_accelerator_type(GPU).set_accelerator_limit(profile.gpus)
    task.set_cpu_request(_cores(profile.cpu)).set_cpu_limit(_cores(profile.cpu))
    task.set_memory_request(_gib(profile.memory)).set_memory_limit(_gib(profile.memory))
    for key, value in profile.selector.items():
        kubernetes.add_node_selector(task, key, value)
    for toleration in profile.tolerations:
        kubernetes.add_toleration(
            task, toleration.key, toleration.operator, toleration.value or None, toleration.effect
        )  # fmt: skip
    if profile.shm:
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=_gib(profile.shm))
    kubernetes.empty_dir_mount(task, "work", WORK, size_limit=_gib(profile.disk))
    if claim := os.environ.get("ARTIAGENT_VOLUME"):
        kubernetes.mount_pvc(task, claim, SHARED)
    if profile.queue:
        kubernetes.add_pod_label(task, QUEUE, profile.queue)
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    kubernetes.set_timeout(task, _seconds(profile))
    # At once: kfp's set_env_variable walks the whole call stack for every variable of every task.
    task.container_spec.env = {**(task.container_spec.env or {}), **environment()}
    return task


def devices(profile: Profile) -> int:
    """How many devices of this machine a stage holds while it runs; 0: it needs none of its own."""
    return profile.gpus


def image(profile: Profile, registry: str) -> str:
    """Of a profile's pods: the CUDA image for those with GPUs, else the CPU image.

    ``$ARTIAGENT_IMAGE_CUDA`` and ``$ARTIAGENT_IMAGE_CPU`` name others, best by digest. ``registry`` has no scheme.
    """
    kind = "cuda" if profile.gpus else "cpu"
    return os.environ.get(f"ARTIAGENT_IMAGE_{kind.upper()}") or f"{registry}/artiagent/{kind}:{artiagent.__version__}"


def docker_settings(profile: Profile, stack: Stack) -> DockerSettings:
    """The image by reference: nothing is built. The code comes from the artifact store, and no secret is in either."""
    from zenml.config import DockerSettings

    if stack.container_registry is None:
        raise ConfigError(f"stack {stack.name}: has no container registry, from which its pods would take their image")
    return DockerSettings(
        parent_image=image(profile, stack.container_registry.config.uri),
        skip_build=True,
        install_stack_requirements=False,
        allow_including_files_in_images=False,
        allow_download_from_code_repository=False,
        allow_download_from_artifact_store=True,
    )


def _volumes(profile: Profile) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Volumes and where they are mounted: the pod's disk, shared memory, and the shared volume where there is one."""
    volumes: list[dict[str, Any]] = [
        {"name": "work", "emptyDir": {"sizeLimit": _gib(profile.disk)}}, {"name": "code", "emptyDir": {}}
    ]  # fmt: skip
    mounts = [{"name": "work", "mountPath": WORK}, {"name": "code", "mountPath": CODE}]
    if profile.shm:
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": _gib(profile.shm)}})
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    if claim := os.environ.get("ARTIAGENT_VOLUME"):
        volumes.append({"name": "shared", "persistentVolumeClaim": {"claimName": claim}})
        mounts.append({"name": "shared", "mountPath": SHARED})
    return volumes, mounts


def _toleration(toleration: Toleration) -> dict[str, str]:
    return {name: value for name, value in toleration.model_dump().items() if value}


def _seconds(profile: Profile) -> int:
    return round(profile.deadline * 3600)


def _cores(cores: float) -> str:
    return f"{cores:g}" if cores == int(cores) else f"{round(cores * 1000)}m"


def _gib(size: float) -> str:
    return f"{size:g}Gi" if size == int(size) else f"{round(size * 1024)}Mi"


def _component(component: StackComponent) -> str:
    """Key of its settings. By name, as ZenML has it in compiled pipelines: by flavor it would be there twice."""
    return f"{component.type.value}:{component.name}"

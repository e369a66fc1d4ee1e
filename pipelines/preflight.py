"""What would fail, or hang, later: asked before anything starts, one line each, with the remedy.

Knows what a configuration needs of the stack it is submitted to. How servers are asked: `probes`. Where stages run:
`placement`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artiagent.config import Config, VlmSection
from artiagent.run_config import ConfigError
from artiagent.scale.profiles import Profile, name_problems, need_problems
from artiagent.store import checkout
from pipelines import placement, probes
from pipelines.nodes import placing
from pipelines.placement import KUBERNETES, ORCHESTRATOR, SHARED
from pipelines.probes import Wanted
from pipelines.stages import OTHERS, stages

if TYPE_CHECKING:
    from zenml.stack import Stack

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Models that the hub hands out only to those who accepted their terms; beginnings of hub ids.
GATED = (
    "black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.1-Fill-dev", "black-forest-labs/FLUX.1-Kontext-dev",
    "black-forest-labs/FLUX.2-dev", "facebook/sam3", "google/gemma-", "google/paligemma", "meta-llama/",
    "stabilityai/stable-diffusion-3",
)  # fmt: skip
ADD = "zenml secret update artiagent --{0}=... (docs/kubernetes.md)"


@dataclass(frozen=True)
class Surroundings:
    """What stages find where they run: plain variables, secrets beside them, and whether that is another machine."""

    remote: bool
    variables: Mapping[str, str]
    secrets: Mapping[str, str] = field(repr=False)

    def has(self, name: str) -> bool:
        return bool(self.secrets.get(name) or (not self.remote and self.variables.get(name)))

    @property
    def everything(self) -> dict[str, str]:
        return {**self.variables, **self.secrets}


def server() -> None:
    """Whether the ZenML server that is configured answers; before anything asks it for a stack. Raises ConfigError."""
    from zenml.config.global_config import GlobalConfiguration

    url = GlobalConfiguration().store_configuration.url
    if url.startswith("http") and (problem := probes.zenml_server(url)):
        raise ConfigError(problem)


def check(config: Config, stack: Stack, names: Collection[str] = ()) -> None:
    """Everything that a submission can know to go wrong. Raises ConfigError, a line for each problem.

    ``names`` are the stages that will run; none: those of the chain, and others that have a profile.

    On every stack: names of profiles, keys of agents, gated models, the tracking server and the object stores. On a
    stack whose stages are pods also whether profiles suit stages and pools, and whether pods reach what they need; on
    one with pinned devices whether there are enough.
    """
    from pipelines.pinned.stack import device_problems

    chain = [stage.name for stage in stages(config)]
    names = names or [*chain, *(name for name in OTHERS if name in config.scale.profiles)]
    problems = name_problems(config.scale, placement.declared(), (*chain, *OTHERS))
    remote = stack.orchestrator.flavor == KUBERNETES and not stack.orchestrator.config.is_local
    if remote and not problems:
        problems += need_problems(config, placement.declared(), names)
        problems += _pool_problems(config, names)
    if not problems:
        problems += device_problems(config, stack, names)
    problems += placing.problems(config, placement.declared(), stack, names)
    try:
        around = surroundings(stack, remote)
    except ConfigError as error:  # of what is around nothing more can be said
        _refuse([*problems, str(error)])
        raise
    problems += _missing_secrets(config, around)
    if remote:
        problems += _out_of_reach(config, stack, around)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda ask: ask(), list(_questions(config, stack, around, names))):
            problems += found
    _refuse(problems)


def _refuse(problems: list[str]) -> None:
    if told := list(dict.fromkeys(filter(None, problems))):
        raise ConfigError("\n".join(told))


def surroundings(stack: Stack, remote: bool) -> Surroundings:
    """What stages will find. Raises ConfigError for a secret of the stack that cannot be read."""
    if not remote:
        return Surroundings(False, dict(os.environ), {})
    from zenml.client import Client

    variables: dict[str, str] = {}
    secrets: dict[str, str] = {}
    for owner in (*stack.all_components, stack):
        variables |= {name: str(value) for name, value in owner.environment.items()}
        for reference in owner.secrets:
            try:
                secrets |= Client().get_secret(reference).secret_values
            except Exception as error:  # whatever the store of secrets raises
                raise ConfigError(
                    f"stack {stack.name}: its secret {reference} cannot be read ({type(error).__name__}); "
                    f"zenml stack update {stack.name} --remove-secret {reference} --secret artiagent"
                ) from error
    return Surroundings(True, variables | placement.environment(), secrets)


def _pool_problems(config: Config, stages: Collection[str]) -> Iterator[str]:
    """Of the profiles that no stage names: of the pod that starts the others, and of joining shards."""
    declared = placement.declared()
    named = {placement.profile_name(stage, config.scale) for stage in stages}
    for name in {ORCHESTRATOR, placement.profile_name(placement.DEFAULT, config.scale)} - named:
        yield declared.why_none(declared.profile(name))


def _missing_secrets(config: Config, around: Surroundings) -> Iterator[str]:
    remedy = ADD if around.remote else "export {0}=..."
    for key, section in _agents(config).items():
        if (
            section.backend == "openai"
            and section.base_url.startswith("https:")
            and not around.has(section.api_key_env)
        ):
            name = section.api_key_env
            yield f"{key}: {section.base_url} wants a key, and {name} is not set; {remedy.format(name)}"
    gated = [f"{key} ({name})" for key, name in _models(config).items() if name.startswith(GATED)]
    if gated and not around.has("HF_TOKEN") and (around.remote or not _have(_models(config).values())):
        yield (
            f"{', '.join(gated)}: the hub wants to know who has accepted the licence, and HF_TOKEN is not set; "
            f"{remedy.format('HF_TOKEN')}"
        )


def _have(models: Any) -> bool:
    """Whether this machine can do without HF_TOKEN: a person is logged in, or the gated models are here."""
    from huggingface_hub import get_token
    from huggingface_hub.constants import HF_HUB_CACHE

    kept = [Path(HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" for name in models if name.startswith(GATED)]
    return bool(get_token()) or all(folder.is_dir() for folder in kept)


def _out_of_reach(config: Config, stack: Stack, around: Surroundings) -> Iterator[str]:
    """What pods could not see, or lack."""
    from zenml.client import Client

    name = stack.name
    if not (stack.orchestrator.config.incluster or stack.orchestrator.connector):
        yield (
            f"stack {name}: the pod that starts the others finds no kubeconfig; "
            f"zenml orchestrator update {stack.orchestrator.name} --incluster=true"
        )
    if stack.container_registry is None:
        yield (
            f"stack {name}: no container registry, from which pods take their image; zenml container-registry register "
            f"... and zenml stack update {name} -c ..."
        )
    if stack.artifact_store.config.is_local:
        yield (
            f"stack {name}: artifact store {stack.artifact_store.path} is on this machine, where no pod sees it; "
            "register an S3-compatible one (infra/stacks/kubernetes.yaml)"
        )
    url = Client().zen_store.url
    if not url.startswith("http") or probes.is_loopback(url):
        yield f"ZenML store {url} is on this machine, where no pod sees it; connect to a server: zenml login URL"
    uri = around.variables.get("MLFLOW_TRACKING_URI", "")
    if not uri.startswith("http") or probes.is_loopback(uri):
        kept = probes.shown(uri) if uri else "a SQLite file (MLFLOW_TRACKING_URI is not set)"
        yield f"MLflow: {kept} is on this machine, where no pod sees it; set MLFLOW_TRACKING_URI to a server's address"
    store = around.variables.get("ARTIAGENT_STORE", "")
    if not store and "ARTIAGENT_VOLUME" not in around.variables:
        yield (
            "no way for data from pod to pod: set ARTIAGENT_STORE to an object store (s3://bucket/prefix), or "
            "ARTIAGENT_VOLUME to a PersistentVolumeClaim that all pods can write (ReadWriteMany)"
        )
    if store and ("://" not in store or store.startswith("file:")) and not _shared(store.removeprefix("file://")):
        yield f"ARTIAGENT_STORE {store} is a folder of this machine, where no pod sees it; name an object store"
    known = around.has("AWS_ACCESS_KEY_ID") or stack.orchestrator.config.step_pod_service_account_name
    if not known and (buckets := _buckets(config, stack, around)):
        yield (
            f"{', '.join(buckets)}: pods have no credentials for S3; "
            f"{ADD.format('AWS_ACCESS_KEY_ID=... --AWS_SECRET_ACCESS_KEY')}, or give the orchestrator "
            "step_pod_service_account_name, an account that the cloud knows"
        )
    yield from _unseen(config)


def _unseen(config: Config) -> Iterator[str]:
    """Places of this machine that a configuration names for pods."""
    for key, section in _agents(config).items():
        if section.backend == "openai" and probes.is_loopback(section.base_url):
            yield f"{key}.base_url {section.base_url} is this machine, where no pod reaches it; name a server's address"
    inputs = config.inputs
    places = {f"inputs.sets.{s.name}": p for s in inputs.sets for p in (s.images, s.annotations, s.parts) if p}
    places |= {f"inputs.benchmarks.{b.name}": p for b in inputs.benchmarks for p in (b.path, b.images) if p}
    places |= {key: place for key, place in _models(config).items() if not HUB_ID.fullmatch(place)}
    root = checkout() or Path.cwd()
    for key, place in places.items():
        if not (_shared(place) or (root / place).is_relative_to(root / "data")):
            yield f"{key}: {place} is on this machine only; put it below data/ (DVC brings it to pods), or on {SHARED}"


def _shared(place: str) -> bool:
    return "ARTIAGENT_VOLUME" in os.environ and Path(place).is_relative_to(SHARED)


def _questions(
    config: Config, stack: Stack, around: Surroundings, names: Collection[str]
) -> Iterator[Callable[[], list[str]]]:
    """What servers are to be asked."""
    uri = around.variables.get("MLFLOW_TRACKING_URI", "")
    if uri.startswith("http") and not probes.only_inside(uri) and not (around.remote and probes.is_loopback(uri)):
        yield lambda: [probes.mlflow_server(uri, around.everything)]
    for url, (variables, endpoint) in _buckets(config, stack, around).items():
        if not probes.only_inside(endpoint or variables.get("AWS_ENDPOINT_URL_S3", "")):
            yield lambda u=url, v=variables, e=endpoint: [probes.bucket(u, v, e)]
    if around.remote:
        profiles = _profiles(config, names)
        yield lambda: _cluster_problems(stack, {profile.queue for profile in profiles if profile.queue})
        if registry := stack.container_registry:
            for reference in {placement.image(profile, registry.config.uri) for profile in profiles}:
                yield lambda r=reference: [probes.image(r)]


def _buckets(config: Config, stack: Stack, around: Surroundings) -> dict[str, tuple[dict[str, str], str]]:
    """S3 addresses that a run uses -> the variables that open them, and an endpoint of their own."""
    found = {}
    for url in (around.variables.get("ARTIAGENT_STORE", ""), config.registry.dataset_remote):
        if url.startswith("s3://"):
            found[url] = (around.everything, "")
    if stack.artifact_store.path.startswith("s3://"):
        own = stack.artifact_store.config
        keys = {"AWS_ACCESS_KEY_ID": getattr(own, "key", None), "AWS_SECRET_ACCESS_KEY": getattr(own, "secret", None)}
        endpoint = (getattr(own, "client_kwargs", None) or {}).get("endpoint_url", "")
        found[stack.artifact_store.path] = (around.everything | {k: v for k, v in keys.items() if v}, endpoint)
    return found


def _cluster_problems(stack: Stack, queues: Collection[str]) -> list[str]:
    orchestrator = stack.orchestrator.config
    space = orchestrator.kubernetes_namespace
    name = orchestrator.kubernetes_context or space
    apply = "kubectl apply -k infra/kubernetes"
    wanted = [Wanted(f"/api/v1/namespaces/{space}", f"namespace {space}", apply)]
    for account in (orchestrator.service_account_name, orchestrator.step_pod_service_account_name):
        if account:
            path = f"/api/v1/namespaces/{space}/serviceaccounts/{account}"
            wanted.append(Wanted(path, f"service account {account}", apply))
    for queue in sorted(queues):
        path = f"{probes.KUEUE}/namespaces/{space}/localqueues/{queue}"
        wanted.append(Wanted(path, f"Kueue queue {queue} in {space}", f"its pods would wait for ever; {apply}"))
    path = f"/apis/scheduling.k8s.io/v1/priorityclasses/{placement.PRIORITY}"
    wanted.append(Wanted(path, f"priority class {placement.PRIORITY}", apply))
    if claim := os.environ.get("ARTIAGENT_VOLUME"):
        path = f"/api/v1/namespaces/{space}/persistentvolumeclaims/{claim}"
        wanted.append(Wanted(path, f"volume claim {claim} (ARTIAGENT_VOLUME)", "create it, ReadWriteMany"))
    try:
        client = stack.orchestrator.get_kube_client()
    except Exception as error:  # of the client, of ZenML, of a service connector
        return [f"Kubernetes cluster {name}: no way to it ({str(error).strip()}); kubectl config get-contexts"]
    return probes.cluster(client, name, wanted)


def _profiles(config: Config, names: Collection[str]) -> list[Profile]:
    """Profiles that a run uses, those that are declared."""
    used = {placement.profile_name(name, config.scale) for name in (*names, placement.DEFAULT)}
    return [profile for name, profile in placement.declared().profiles.items() if name in {ORCHESTRATOR, *used}]


def _agents(config: Config) -> dict[str, VlmSection]:
    """Key -> section of the agents that a run calls."""
    agents = {}
    if config.perception.vocabulary != "template":
        agents["perception.vlm"] = config.perception.vlm
    if config.curation.judge != "none" or config.curation.explain == "vlm":
        agents["curation.vlm"] = config.curation.vlm
    return agents


def _models(config: Config) -> dict[str, str]:
    """Key -> folder or hub id of the models that a run loads."""
    models = {f"inputs.{kind}": getattr(config.inputs, kind) for kind in ("generator", "vlm", "clip")}
    if config.perception.grounding != "annotations":
        detection = config.perception.detection
        models |= {
            f"perception.detection.{k}": getattr(detection, k) for k in ("detector", "segmenter", "text_encoder")
        }
    for key, section in _agents(config).items():
        if section.backend == "local" and section.model:
            models[f"{key}.model"] = section.model
    return models

"""Every manifest that ZenML would send to a cluster for the paper's run, caught on its way over HTTP.

`ARTIAGENT_GOLDEN=write pytest tests/pipelines/test_placement.py` writes the golden files anew.
"""

import inspect
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest
import yaml

from artiagent.config import Config
from artiagent.run_config import ConfigError, load_config
from artiagent.scale.profiles import profile_name
from pipelines import placement, preflight, probes
from pipelines.environment import prepare
from pipelines.stages import section_of, stages, value_of
from tests.kubernetes_api import KubernetesApi

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "golden" / "kubernetes"
PAPER = load_config(ROOT / "configs" / "paper.yaml")
NAMES = [s for stage in stages(PAPER) for s in (stage.name, f"{stage.name}_shard")[: 1 + (stage.shards > 1)]]
TOKEN = "a-token-that-no-manifest-may-hold"
GIB = {"Gi": 1, "Mi": 1 / 1024}


class Cluster(KubernetesApi):
    """Keeps jobs and secrets."""

    def __init__(self):
        self.jobs, self.secrets = [], []
        super().__init__()

    def made(self, kind, body):
        (self.secrets if kind == "secrets" else self.jobs).append(body)

    def kubeconfig(self, path):
        name = {"cluster": "c", "user": "u"}
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1", "kind": "Config", "current-context": "artiagent",
                    "clusters": [{"name": "c", "cluster": {"server": self.url}}],
                    "contexts": [{"name": "artiagent", "context": name}], "users": [{"name": "u", "user": {}}],
                }
            )
        )  # fmt: skip
        return str(path)


@pytest.fixture(scope="module")
def on_kubernetes(tmp_path_factory):
    """The stack of infra/stacks/kubernetes.yaml, imported as a person would, active, on a cluster that is none."""
    prepare()
    from click.testing import CliRunner
    from kubernetes.config import kube_config
    from zenml.cli.cli import cli
    from zenml.client import Client

    cluster, client = Cluster(), Client()
    with pytest.MonkeyPatch.context() as patch:
        for name in placement.PASSED:
            patch.delenv(name, raising=False)
        patch.setenv("ARTIAGENT_STORE", "s3://artiagent/store")
        patch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.org")
        place = cluster.kubeconfig(tmp_path_factory.mktemp("kube") / "config")
        patch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", place)
        if not client.list_stacks(name="artiagent-kubernetes"):
            done = CliRunner().invoke(cli, ["stack", "import", str(ROOT / "infra/stacks/kubernetes.yaml")])
            assert done.exit_code == 0, done.output
        before = client.active_stack_model.name
        client.activate_stack("artiagent-kubernetes")
        yield cluster
        client.activate_stack(before)
    cluster.server.shutdown()


@pytest.fixture(scope="module")
def manifests(on_kubernetes):
    """Name of a step, or "orchestrator", -> its Job as ZenML sends it."""
    from zenml.client import Client
    from zenml.config.step_run_info import StepRunInfo
    from zenml.execution.pipeline.dynamic.compilation import compile_dynamic_step_invocation
    from zenml.execution.pipeline.dynamic.run_context import DynamicPipelineRunContext
    from zenml.integrations.registry import integration_registry
    from zenml.pipelines.run_utils import create_placeholder_run
    from zenml.utils import code_utils, env_utils

    from pipelines.end_to_end import SHARD_STEPS, STEPS, end_to_end

    stack = Client().active_stack
    pipeline = end_to_end.with_options(settings=placement.pipeline_settings(PAPER))
    pipeline.prepare(config=PAPER, digests={})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(integration_registry, "activate_integrations", lambda: None)  # imports torch, for materializers
        patch.setattr(code_utils, "upload_code_if_necessary", lambda archive: "s3://artiagent/zenml/code.tar.gz")
        snapshot = pipeline._create_snapshot(run_name="paper-1")
    run = create_placeholder_run(snapshot)
    environment = {"ZENML_STORE_API_TOKEN": TOKEN, "ZENML_STORE_URL": "https://zenml.example.org"}
    stack.orchestrator.submit_dynamic_pipeline(snapshot, stack, environment, run)
    sent = {"orchestrator": on_kubernetes.jobs[-1]}
    shards = {f"{stage.name}_shard": stage for stage in stages(PAPER) if stage.shards > 1}
    steps = {stage.name: (stage, STEPS[stage.name]) for stage in stages(PAPER)}
    steps |= {name: (stage, SHARD_STEPS[stage.name]) for name, stage in shards.items()}
    with DynamicPipelineRunContext(pipeline=pipeline, snapshot=snapshot, run=run, runner=None):
        for name, (stage, step) in steps.items():
            compiled = compile_dynamic_step_invocation(
                snapshot, pipeline, step.with_options(**placement.options(name, PAPER)), name, arguments(stage, step),
                set(), snapshot.pipeline_configuration.docker_settings,
            )  # fmt: skip
            assert compiled.config.runtime.value == "isolated"
            assert compiled.config.retry.max_retries == PAPER.scale.retries
            info = StepRunInfo.model_construct(
                config=compiled.config, spec=compiled.spec, snapshot=snapshot, step_run=None, run_id=run.id,
                run_name=run.name, pipeline=snapshot.pipeline_configuration, pipeline_step_name=name,
                step_run_id=uuid4(),
            )  # fmt: skip
            variables = env_utils.get_runtime_environment(config=compiled.config, stack=stack)
            stack.orchestrator.submit_isolated_step_with_allocation(info, variables, None)
            sent[name] = on_kubernetes.jobs[-1]
    return sent


def arguments(stage, step):
    from zenml.execution.pipeline.dynamic.outputs import OutputArtifact

    values = [section_of(stage, PAPER)]
    for name in stage.inputs:
        made = {"output_name": name, "step_name": name, "chunk_index": None, "chunk_size": None}
        values.append(value_of(name, PAPER, {}) if name.startswith("@") else OutputArtifact.model_construct(**made))
    names = list(inspect.signature(step.entrypoint).parameters)
    return dict(zip(names, [*values, f"0/{stage.shards}"], strict=False))


def plain(manifest):
    """Without what differs from run to run, and without nulls, which stand for what is not there."""

    def kept(value):
        if isinstance(value, dict):
            return {key: kept(v) for key, v in value.items() if v is not None}
        return [kept(v) for v in value] if isinstance(value, list) else value

    text = yaml.safe_dump(kept(manifest), width=1000)
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "ID", text)
    return re.sub(r"name: [0-9a-f]{8}-artiagent", "name: RANDOM-artiagent", text)


def gib(amount):
    return float(amount[:-2]) * GIB[amount[-2:]]


@pytest.mark.parametrize("name", ["orchestrator", *NAMES])
def test_manifest_is_the_golden_file(manifests, name):
    text, place = plain(manifests[name]), GOLDEN / f"{name}.yaml"
    if os.environ.get("ARTIAGENT_GOLDEN") == "write":
        place.write_text(text)
    assert text == place.read_text()


@pytest.mark.parametrize("name", NAMES)
def test_manifest_has_what_the_profile_declares(manifests, name):
    stage = name.removesuffix("_shard")
    joins = name == stage and stage in PAPER.scale.shards
    profile = placement.declared().profile(
        PAPER.scale.profiles["default"] if joins else profile_name(stage, PAPER.scale)
    )
    job = manifests[name]
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    limits = container["resources"]["limits"]
    assert container["resources"]["requests"] == limits
    assert int(limits.get("nvidia.com/gpu", 0)) == profile.gpus
    assert ("nvidia.com/gpu" in limits) == bool(profile.gpus)
    assert float(limits["cpu"]) == profile.cpu
    assert gib(limits["memory"]) == profile.memory
    assert gib(limits["ephemeral-storage"]) == profile.disk
    assert pod["nodeSelector"] == profile.selector
    tolerated = {(t["key"], t["operator"], t["effect"]) for t in pod.get("tolerations", [])}
    assert tolerated == {(t.key, t.operator, t.effect) for t in profile.tolerations}
    volumes = {v["name"]: v for v in pod["volumes"]}
    assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
    assert gib(volumes["shm"]["emptyDir"]["sizeLimit"]) == profile.shm
    assert {"mountPath": "/dev/shm", "name": "shm"} in container["volumeMounts"]
    for labels in (job["metadata"]["labels"], job["spec"]["template"]["metadata"]["labels"]):
        assert labels.get("kueue.x-k8s.io/queue-name", "") == profile.queue
    assert job["spec"]["activeDeadlineSeconds"] == profile.deadline * 3600
    assert container["image"].endswith("/cuda:0.1.0" if profile.gpus else "/cpu:0.1.0")


@pytest.mark.parametrize("name", NAMES)
def test_steps_ask_nothing_of_the_cluster_and_are_not_root(manifests, name):
    pod = manifests[name]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "artiagent-step"
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    security = pod["containers"][0]["securityContext"]
    assert (security["allowPrivilegeEscalation"], security["privileged"]) == (False, False)
    assert security["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("name", NAMES)
def test_a_node_that_is_taken_away_costs_no_retry(manifests, name):
    first = manifests[name]["spec"]["podFailurePolicy"]["rules"][0]
    assert (first["action"], first["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")


def test_orchestrator_pod_runs_on_the_cpu_pool(manifests):
    job = manifests["orchestrator"]
    pod = job["spec"]["template"]["spec"]
    profile = placement.declared().profile("orchestrator")
    assert pod["nodeSelector"] == {"artiagent.io/pool": "cpu"}
    assert "tolerations" not in pod
    assert "nvidia.com/gpu" not in json.dumps(job)
    assert pod["serviceAccountName"] == "artiagent-orchestrator"
    assert pod["priorityClassName"] == placement.PRIORITY
    assert job["spec"]["activeDeadlineSeconds"] == profile.deadline * 3600


def test_no_manifest_holds_the_token(manifests, on_kubernetes):
    assert TOKEN not in json.dumps(list(manifests.values()))
    assert on_kubernetes.secrets[0]["metadata"]["name"].startswith("zenml-token-")


def test_every_container_finds_its_places(manifests):
    for name, job in manifests.items():
        (container,) = job["spec"]["template"]["spec"]["containers"]
        variables = {v["name"]: v.get("value") for v in container["env"]}
        assert variables["ARTIAGENT_HOME"] == "/scratch/artiagent", name
        assert variables["ARTIAGENT_STORE"] == "s3://artiagent/store"
        assert variables["MLFLOW_TRACKING_URI"] == "https://mlflow.example.org"
        assert len(variables) == len(container["env"])
        assert {m["mountPath"] for m in container["volumeMounts"]} >= {"/scratch", "/app"}


def test_the_imported_stack_is_checked_as_it_is(on_kubernetes, monkeypatch):
    from zenml.client import Client

    for name in ("bucket", "mlflow_server", "image"):
        monkeypatch.setattr(probes, name, lambda *_: "")
    monkeypatch.setattr(probes, "cluster", lambda client, name, wanted: [w.what for w in wanted])
    with pytest.raises(ConfigError) as error:
        preflight.check(PAPER, Client().active_stack)
    lines = str(error.value).splitlines()
    assert [line for line in lines if "HF_TOKEN is not set" in line]
    assert [line for line in lines if line.startswith("ZenML store sqlite:")]
    asked = ["namespace artiagent", "service account artiagent-orchestrator", "service account artiagent-step"]
    assert lines[-5:] == [*asked, "Kueue queue artiagent-gpu in artiagent", "priority class artiagent-run"]


def test_a_shared_volume_holds_home_and_models(monkeypatch):
    monkeypatch.delenv("ARTIAGENT_STORE", raising=False)
    monkeypatch.setenv("ARTIAGENT_VOLUME", "artiagent")
    pod = placement.pod_settings(placement.declared().profile("cpu"))
    assert {"name": "shared", "persistentVolumeClaim": {"claimName": "artiagent"}} in pod.volumes
    variables = placement.environment()
    assert (variables["ARTIAGENT_HOME"], variables["HF_HOME"]) == ("/shared/artiagent", "/shared/huggingface")
    monkeypatch.setenv("ARTIAGENT_STORE", "s3://artiagent/store")
    assert placement.environment()["ARTIAGENT_HOME"] == "/scratch/artiagent"


def test_addresses_with_passwords_are_refused_without_repeating_them(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://person:hunter2@mlflow.example.org")
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI.*ZenML secret") as error:
        placement.environment()
    assert "hunter2" not in str(error.value)


def test_fractions_are_spelled_as_kubernetes_and_kfp_take_them():
    profile = placement.declared().profile("cpu").model_copy(update={"cpu": 0.5, "memory": 1.5})
    assert placement.resources(profile) == {"cpu": "500m", "memory": "1536Mi", "ephemeral-storage": "40Gi"}


def test_the_images_have_the_user_that_pods_run_as():
    for place in sorted((ROOT / "infra/images").glob("*.Dockerfile")):
        assert f"USER {placement.USER}:{placement.USER}" in place.read_text().splitlines(), place


def test_images_can_be_named(monkeypatch):
    gpu, cpu = (placement.declared().profile(name) for name in ("gpu-1x80gb", "cpu"))
    assert placement.image(gpu, "registry.example.org") == "registry.example.org/artiagent/cuda:0.1.0"
    monkeypatch.setenv("ARTIAGENT_IMAGE_CPU", "registry.example.org/x@sha256:ab")
    assert placement.image(cpu, "registry.example.org") == "registry.example.org/x@sha256:ab"


def stack_of(orchestrator, operator=None):
    def component(kind, flavor):
        return SimpleNamespace(flavor=flavor, name=f"my-{flavor}", type=SimpleNamespace(value=kind))

    return SimpleNamespace(
        name="s", orchestrator=component("orchestrator", orchestrator), container_registry=None,
        step_operator=component("step_operator", operator) if operator else None,
    )  # fmt: skip


@pytest.fixture
def active(monkeypatch):
    from zenml.client import Client

    return lambda stack: monkeypatch.setattr(Client, "active_stack", stack)


def test_plain_local_stacks_get_retries_and_no_settings(active):
    active(stack_of("local"))
    assert placement.options("synthesize", Config()) == {}
    assert placement.options("synthesize_shard", PAPER)["retry"].max_retries == 3
    assert "settings" not in placement.options("synthesize_shard", PAPER)
    assert placement.pipeline_settings(PAPER) == {}


def test_a_pinning_operator_gets_devices_and_a_deadline(active):
    active(stack_of("local", "pinned"))
    options = placement.options("synthesize_shard", PAPER)
    assert options["step_operator"] == "my-pinned"
    assert options["settings"] == {"step_operator:my-pinned": {"devices": 1, "hours": 12}}
    assert placement.options("finetune", PAPER)["settings"]["step_operator:my-pinned"]["devices"] == 8
    assert placement.options("plan", PAPER)["settings"]["step_operator:my-pinned"]["devices"] == 0


def test_a_typo_in_a_profile_is_an_error_here(active):
    active(stack_of("kubernetes"))
    scale = PAPER.scale.model_copy(update={"profiles": {"synthesize": "gpu-1x80g"}})
    with pytest.raises(ConfigError, match="'gpu-1x80g' is not declared.*did you mean 'gpu-1x80gb'"):
        placement.options("synthesize_shard", PAPER.model_copy(update={"scale": scale}))


def test_kfp_tasks_get_the_same(tmp_path):
    from kfp import compiler, dsl

    @dsl.container_component
    def work():
        return dsl.ContainerSpec(image="image", command=["true"])

    profiles = [placement.declared().profile(name) for name in ("gpu-8x80gb", "cpu")]

    @dsl.pipeline(name="two")
    def two():
        for profile in profiles:
            placement.place_task(work(), profile)

    compiler.Compiler().compile(two, str(tmp_path / "two.yaml"))
    spec, platform = yaml.safe_load_all((tmp_path / "two.yaml").read_text())
    executors = spec["deploymentSpec"]["executors"]
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    gpu, cpu = executors["exec-work"]["container"]["resources"], executors["exec-work-2"]["container"]["resources"]
    assert gpu["accelerator"] | {"resourceType": "nvidia.com/gpu", "resourceCount": "8"} == gpu["accelerator"]
    assert "accelerator" not in cpu
    assert (gpu["resourceMemoryLimit"], gpu["resourceMemoryRequest"], gpu["resourceCpuLimit"]) == (
        "1600Gi",
        "1600Gi",
        "160",
    )
    pod = pods["exec-work"]
    assert pod["nodeSelector"]["labels"] == profiles[0].selector
    assert [t["key"] for t in pod["tolerations"]] == ["nvidia.com/gpu"]
    assert {"medium": "Memory", "mountPath": "/dev/shm", "sizeLimit": "256Gi", "volumeName": "shm"} in pod[
        "emptyDirMounts"
    ]
    assert pod["podMetadata"]["labels"] == {placement.QUEUE: "artiagent-gpu"}
    assert pod["activeDeadlineSeconds"] == str(48 * 3600)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert "podMetadata" not in pods["exec-work-2"] and "tolerations" not in pods["exec-work-2"]

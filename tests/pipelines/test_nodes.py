"""One step on several pods: what ZenML sends to the cluster for it, caught on its way over HTTP, and what is refused.

`ARTIAGENT_GOLDEN=write pytest tests/pipelines/test_nodes.py` writes the golden files anew.
"""

import json
import os
import re
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID, uuid4

import pytest
import yaml

from artiagent.config import Config
from artiagent.learning.nodes import NodeError, Place
from artiagent.run_config import ConfigError, load_config
from pipelines import placement
from pipelines.environment import prepare
from pipelines.nodes import placing
from tests.kubernetes_api import KubernetesApi

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "golden" / "nodes"
PAPER = load_config(ROOT / "configs" / "paper.yaml")
MANY = PAPER.model_copy(update={"sft": PAPER.sft.model_copy(update={"nodes": 2})})
STACK = "many-kubernetes"
TOKEN = "a-token-that-no-manifest-may-hold"


class Cluster(KubernetesApi):
    """Keeps the last of every kind."""

    def __init__(self):
        self.sent = {}
        super().__init__()

    def made(self, kind, body):
        self.sent[kind] = body


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """The stack of infra/stacks/kubernetes.yaml with names of its own and the step operator, active."""
    prepare()
    from click.testing import CliRunner
    from zenml.cli.cli import cli
    from zenml.client import Client

    from pipelines.nodes.stack import register

    tree = yaml.safe_load((ROOT / "infra/stacks/kubernetes.yaml").read_text()) | {"stack_name": STACK}
    for (component,) in tree["components"].values():
        component["name"] = component["name"].replace("artiagent-", "many-")
    place = tmp_path_factory.mktemp("stack") / "stack.yaml"
    place.write_text(yaml.safe_dump(tree))
    done = CliRunner().invoke(cli, ["stack", "import", str(place)])
    assert done.exit_code == 0, done.output
    assert register(STACK) == register(STACK) == f"{STACK}-nodes"
    client = Client()
    before = client.active_stack_model.name
    client.activate_stack(STACK)
    with pytest.MonkeyPatch.context() as patch:
        for name in placement.PASSED:
            patch.delenv(name, raising=False)
        patch.setenv("ARTIAGENT_STORE", "s3://artiagent/store")
        patch.setenv("ARTIAGENT_VOLUME", "artiagent")
        yield client.active_stack
    client.activate_stack(before)


@pytest.fixture(scope="module")
def sent(stack):
    """``jobs`` and ``services``: what ZenML sends for fine-tuning on two pods."""
    from zenml.config.step_run_info import StepRunInfo
    from zenml.execution.pipeline.dynamic.compilation import compile_dynamic_step_invocation
    from zenml.execution.pipeline.dynamic.run_context import DynamicPipelineRunContext
    from zenml.integrations.registry import integration_registry
    from zenml.orchestrators.utils import get_step_entrypoint_command
    from zenml.pipelines.run_utils import create_placeholder_run
    from zenml.utils import code_utils

    from pipelines.end_to_end import STEPS, end_to_end

    cluster, operator = Cluster(), placing.operator_of(stack)
    pipeline = end_to_end.with_options(settings=placement.pipeline_settings(MANY))
    pipeline.prepare(config=MANY, digests={})
    profile = placement.profile_of("finetune", MANY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(integration_registry, "activate_integrations", lambda: None)  # imports torch, for materializers
        patch.setattr(code_utils, "upload_code_if_necessary", lambda archive: "s3://artiagent/zenml/code.tar.gz")
        patch.setattr(type(operator), "get_kube_client", lambda self: cluster.client())
        snapshot = pipeline._create_snapshot(run_name="paper-2")
        run = create_placeholder_run(snapshot)
        step = STEPS["finetune"].with_options(**placing.options(MANY, profile, stack))
        with DynamicPipelineRunContext(pipeline=pipeline, snapshot=snapshot, run=run, runner=None):
            compiled = compile_dynamic_step_invocation(
                snapshot, pipeline, step, "finetune", inputs(), set(),
                snapshot.pipeline_configuration.docker_settings,
            )  # fmt: skip
        info = StepRunInfo.model_construct(
            config=compiled.config, spec=compiled.spec, snapshot=snapshot, step_run=None, run_id=run.id,
            run_name=run.name, pipeline=snapshot.pipeline_configuration, pipeline_step_name="finetune",
            step_run_id=uuid4(),
        )  # fmt: skip
        command, arguments = get_step_entrypoint_command(
            "finetune", compiled.config, operator.entrypoint_config_class, snapshot.id,
            step_run_id=str(info.step_run_id),
        )  # fmt: skip
        environment = {"ZENML_STORE_API_TOKEN": TOKEN, "ZENML_STORE_URL": "https://zenml.example.org"}
        operator.submit_with_allocation(info, command + arguments, environment, None)
    cluster.server.shutdown()
    return cluster.sent


def inputs():
    from zenml.execution.pipeline.dynamic.outputs import OutputArtifact

    made = {"output_name": "output", "step_name": "before", "chunk_index": None, "chunk_size": None}
    references = {name: OutputArtifact.model_construct(**made) for name in ("conversations", "base")}
    return {"section": MANY.sft, **references}


def plain(manifest):
    """Without what differs from run to run, nulls and the code of the first lines."""

    def kept(value):
        if isinstance(value, dict):
            return {key: kept(v) for key, v in value.items() if v is not None}
        return [kept(v) for v in value] if isinstance(value, list) else value

    from pipelines.nodes.entrypoint import BOOTSTRAP

    tree = kept(manifest)
    for container in tree["spec"].get("template", {}).get("spec", {}).get("containers", ()):
        container["command"] = ["BOOTSTRAP" if c == BOOTSTRAP.read_text() else c for c in container["command"]]
    text = yaml.safe_dump(tree, width=1000)
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "ID", text)
    return re.sub(r"\bj?[0-9a-f]{8}-finetune", "RANDOM-finetune", text)


@pytest.mark.parametrize("kind", ["jobs", "services"])
def test_what_is_sent_is_the_golden_file(sent, kind):
    text, place = plain(sent[kind]), GOLDEN / f"{kind}.yaml"
    if os.environ.get("ARTIAGENT_GOLDEN") == "write":
        place.write_text(text)
    assert text == place.read_text()


def test_the_job_has_all_pods_or_none_each_with_the_gpus_of_the_profile(sent):
    job, profile = sent["jobs"]["spec"], placement.profile_of("finetune", MANY)
    assert (job["completionMode"], job["completions"], job["parallelism"]) == ("Indexed", 2, 2)
    assert job["backoffLimit"] == 0  # a pod that fails ends the others
    assert job["activeDeadlineSeconds"] == profile.deadline * 3600
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == container["resources"]["requests"] == placement.resources(profile)
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert pod["nodeSelector"] == profile.selector
    assert [t["key"] for t in pod["tolerations"]] == ["nvidia.com/gpu"]
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("artiagent-step", False)
    assert pod["securityContext"]["runAsNonRoot"] is True
    for labels in (sent["jobs"]["metadata"]["labels"], job["template"]["metadata"]["labels"]):
        assert labels["kueue.x-k8s.io/queue-name"] == "artiagent-gpu"
    assert job["template"]["metadata"]["labels"][placing.LABEL] == "true"


def test_the_pods_find_each_other_and_what_they_share(sent):
    from pipelines.nodes.entrypoint import named

    job, service = sent["jobs"], sent["services"]
    name = job["metadata"]["name"]
    pod = job["spec"]["template"]["spec"]
    assert service["metadata"]["name"] == pod["subdomain"] == name
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["publishNotReadyAddresses"] is True
    (container,) = pod["containers"]
    variables = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert named({**variables, "JOB_COMPLETION_INDEX": "1"}) == {
        "NODE_RANK": "1", "MASTER_ADDR": f"{name}-0.{name}.artiagent.svc", "MASTER_PORT": "29500",
    }  # fmt: skip
    assert variables["ARTIAGENT_HOME"] == "/shared/artiagent"
    assert {"name": "shared", "mountPath": "/shared"} in container["volumeMounts"]
    assert {"name": "shared", "persistentVolumeClaim": {"claimName": "artiagent"}} in pod["volumes"]


def test_the_token_is_not_in_the_manifest_but_a_reference_to_it(sent):
    assert TOKEN not in json.dumps(sent)
    (container,) = sent["jobs"]["spec"]["template"]["spec"]["containers"]
    (entry,) = [entry for entry in container["env"] if entry["name"] == "ZENML_STORE_API_TOKEN"]
    secret = entry["valueFrom"]["secretKeyRef"]
    assert secret["key"] == "zenml_api_token" and UUID(secret["name"].removeprefix("zenml-token-"))


def test_without_the_operator_it_is_refused(stack):
    bare = SimpleNamespace(name="s", step_operators={})
    with pytest.raises(ConfigError, match=r"sft\.nodes 2: stack s has no step operator.*artiagent stack nodes s"):
        placing.options(MANY, placement.profile_of("finetune", MANY), bare)


def test_only_stacks_on_kubernetes_get_the_operator(stack, capsys):
    from pipelines.nodes.stack import register

    with pytest.raises(ValueError, match="default: its orchestrator is 'local', not 'kubernetes'"):
        register("default")
    with pytest.raises(ValueError, match="no-such-stack: no such ZenML stack"):
        register("no-such-stack")


def told(config, stack, stages=("finetune",)):
    return list(placing.problems(config, placement.declared(), stack, stages))


def test_a_submission_is_refused_where_it_would_hang(stack, monkeypatch):
    (pool,) = told(MANY, stack)
    assert "pool 'gpu-8x80gb' of infra/profiles.yaml has at most 1 nodes" in pool
    monkeypatch.delenv("ARTIAGENT_VOLUME")
    bare = SimpleNamespace(name="s", orchestrator=stack.orchestrator, step_operators={}, step_operator=None)
    operator, volume, _ = told(MANY, bare)
    assert "artiagent stack nodes s" in operator and "set ARTIAGENT_VOLUME" in volume
    assert told(PAPER, bare) == told(MANY, bare, ("plan",)) == []
    (study,) = told(MANY, bare, ("train_study",))
    assert "studies train on one machine" in study


def test_elsewhere_a_person_starts_the_nodes(monkeypatch):
    for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    local = SimpleNamespace(name="local", orchestrator=SimpleNamespace(flavor="local"), step_operator=None)
    (line,) = told(MANY, local)
    assert re.search(r"stack local starts no machines.*or start the other nodes yourself: NODE_RANK and", line)
    monkeypatch.setenv("NODE_RANK", "0")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert told(MANY, local) == []
    local.step_operator = SimpleNamespace(flavor="pinned")
    (line,) = told(MANY, local)
    assert "devices of one machine" in line
    assert told(Config(), local) == []


@pytest.fixture
def pod(monkeypatch):
    """``pod(index)``: this process is that pod."""
    prepare()
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("ZENML_KUBERNETES_MAIN_ADDRESS", "job-0.job.artiagent.svc")
    monkeypatch.setenv("ZENML_KUBERNETES_MAIN_PORT", "29500")
    return lambda index: monkeypatch.setenv("JOB_COMPLETION_INDEX", str(index))


ARGUMENTS = ["--entrypoint_config_source", "x.Y", "--snapshot_id", "s", "--step_name", "f", "--step_run_id", "r"]


def test_the_first_pod_runs_the_step_and_the_others_follow(pod, monkeypatch):
    from pipelines.nodes import entrypoint

    seen = []
    monkeypatch.setattr(entrypoint.NodeEntrypoint, "run", lambda self: seen.append(self.entrypoint_args["step_name"]))
    monkeypatch.setattr(entrypoint.NodeEntrypoint, "follow", lambda self, place: seen.append(place))
    for index in (0, 1):
        pod(index)
        entrypoint.main(ARGUMENTS)
    assert seen == ["f", Place(index=1, address="job-0.job.artiagent.svc", port=29500)]


def test_a_pod_that_cannot_follow_says_why_and_fails(pod, monkeypatch):
    from pipelines.nodes import entrypoint

    def gone(self, place):
        raise NodeError("node 0 is gone")

    monkeypatch.setattr(entrypoint.NodeEntrypoint, "follow", gone)
    pod(1)
    with pytest.raises(SystemExit, match="node 1: node 0 is gone"):
        entrypoint.main(ARGUMENTS)


def test_the_first_lines_bring_the_code_and_do_not_say_that_the_step_runs(pod, monkeypatch):
    from zenml.step_operators.step_operator_entrypoint_configuration import StepOperatorEntrypointConfiguration

    from pipelines.nodes import entrypoint

    seen = []
    settings = SimpleNamespace(allow_download_from_artifact_store=True, allow_download_from_code_repository=False)
    snapshot = SimpleNamespace(
        code_reference=None, code_path="s3://code", pipeline_configuration=SimpleNamespace(docker_settings=settings)
    )

    def never(self):
        raise AssertionError("asked for the step run")

    monkeypatch.setattr(StepOperatorEntrypointConfiguration, "step_run", property(never))
    monkeypatch.setattr(StepOperatorEntrypointConfiguration, "_load_snapshot", lambda self: snapshot)
    monkeypatch.setattr(
        StepOperatorEntrypointConfiguration, "prepare_code_environment",
        lambda self: seen.append(self.should_download_code),
    )  # fmt: skip
    monkeypatch.setattr(entrypoint, "main", seen.append)
    monkeypatch.setattr(sys, "argv", ["-c", *ARGUMENTS])
    exec(compile(entrypoint.BOOTSTRAP.read_text(), "<pod>", "exec"), {"__name__": "__main__"})  # noqa: S102
    assert seen == [True, ARGUMENTS]

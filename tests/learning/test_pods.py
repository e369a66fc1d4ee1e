"""The whole way of a step on two pods: ZenML's dynamic pipeline, its step operator, a Job, two processes, one model.

The cluster is a server on this machine that starts a process for every pod of a Job, and says how they ended.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from artiagent.config import SftSection, SftStage
from artiagent.records import CheckpointRef, DatasetRef
from tests.kubernetes_api import KubernetesApi

ROOT = Path(__file__).resolve().parents[2]
SECTION = SftSection(
    stages=(SftStage(name="language", train_vision=False, max_steps=2, learning_rate=1e-3),),
    batch_pairs=2, threads=1, device="cpu", autocast="none", nodes=2,
)  # fmt: skip
BRINGS = "    Code(sys.argv[1:]).prepare_code_environment()"  # into /app; here the code is at hand


class Cluster(KubernetesApi):
    """Jobs as processes of this machine. Every pod is at 127.0.0.1."""

    def __init__(self, logs: Path) -> None:
        self.job: dict[str, Any] = {}
        self.pods: list[subprocess.Popen[bytes]] = []
        self.logs = logs
        self.sent: list[str] = []
        super().__init__()

    def made(self, kind: str, body: dict[str, Any]) -> None:
        self.sent.append(kind)
        if kind == "jobs":
            self.start(body)

    def there(self) -> dict[str, Any]:
        return {"items": [self.job | {"status": {"conditions": self.conditions()}}]}

    def start(self, job: dict[str, Any]) -> None:
        self.job = job
        (container,) = job["spec"]["template"]["spec"]["containers"]
        python, flag, code = container["command"]
        assert BRINGS in code
        command = [sys.executable, flag, code.replace(BRINGS, f"    sys.path.insert(0, {str(ROOT)!r})")]
        with socket.create_server(("127.0.0.1", 0)) as server:
            meeting = {
                "ZENML_KUBERNETES_MAIN_ADDRESS": "127.0.0.1",
                "ZENML_KUBERNETES_MAIN_PORT": str(server.getsockname()[1]),
            }
        told = {variable["name"]: variable["value"] for variable in container["env"]}
        for index in range(job["spec"]["completions"]):
            environment = {**os.environ, **told, **meeting, "JOB_COMPLETION_INDEX": str(index)}
            log = (self.logs / f"pod-{index}").open("wb")
            self.pods.append(
                subprocess.Popen([*command, *container["args"]], env=environment, cwd=ROOT, stdout=log, stderr=log)
            )

    @contextmanager
    def telling(self) -> Iterator[None]:
        """With what the pods printed in an error of the body."""
        try:
            yield
        except Exception as error:
            raise AssertionError("\n\n".join(log.read_text() for log in sorted(self.logs.glob("pod-*")))) from error

    def conditions(self) -> list[dict[str, str]]:
        codes = [pod.poll() for pod in self.pods]
        if any(codes):
            for pod in self.pods:
                pod.terminate()
            return [{"type": "Failed", "status": "True"}]
        return [{"type": "Complete", "status": "True"}] if codes and None not in codes else []


@pytest.mark.slow
def test_a_step_on_two_pods_is_one_step_with_one_model(
    conversations: DatasetRef, tiny_vlm: CheckpointRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.environment import active_stack, know_step_operator, prepare

    prepare()
    from zenml.client import Client
    from zenml.config.step_run_info import StepRunInfo
    from zenml.enums import StackComponentType
    from zenml.integrations.kubernetes.flavors import KubernetesStepOperatorConfig

    from pipelines.nodes.flavor import FLAVOR, SOURCE
    from pipelines.nodes.operator import NodesOperator
    from tests.learning.pods_pipeline import STACK, tune

    cluster, client, kind = Cluster(tmp_path), Client(), StackComponentType.STEP_OPERATOR
    monkeypatch.setattr(NodesOperator, "get_kube_client", cluster.client)
    # A stack of one machine: no registry, no remote store; the image is nobody's.
    monkeypatch.setattr(NodesOperator, "validator", None)
    monkeypatch.setattr(KubernetesStepOperatorConfig, "is_remote", False)
    monkeypatch.setattr(StepRunInfo, "get_image", lambda *_, **__: "image")
    monkeypatch.setenv("ARTIAGENT_RUN", "pods-1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", "")))))
    know_step_operator(FLAVOR, SOURCE)
    parts = {c: [client.active_stack_model.components[c][0].id] for c in client.active_stack_model.components}
    parts[kind] = [client.create_stack_component(STACK, FLAVOR, kind, {}).id]
    client.create_stack(STACK, parts)
    with active_stack(STACK), cluster.telling():
        run = tune(SECTION, conversations, tiny_vlm)
        assert run.status == "completed"
        assert [pod.wait(60) for pod in cluster.pods] == [0, 0]
    assert cluster.sent == ["jobs", "services"]
    (made,) = run.steps["finetune"].outputs["tuned"]
    tuned = made.load()
    assert (Path(tuned.uri) / "model.safetensors").is_file()
    assert tuned.summary["lineage.run"] == "pods-1"
    assert json.loads((Path(tuned.uri) / "finetune.json").read_text())["section"]["nodes"] == 2

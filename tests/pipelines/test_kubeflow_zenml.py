"""Why the exporter exists: what ZenML's own Kubeflow orchestrator makes of a GPU step. When one of these fails, ZenML
has mended it, and docs/kubeflow.md needs another look."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from pipelines.environment import prepare

prepare()

from zenml.config.resource_settings import ResourceSettings  # noqa: E402
from zenml.integrations.kubeflow.flavors.kubeflow_orchestrator_flavor import (  # noqa: E402
    KubeflowOrchestratorSettings as Settings,
)
from zenml.integrations.kubeflow.orchestrators.kubeflow_orchestrator import KubeflowOrchestrator  # noqa: E402
from zenml.integrations.kubernetes.pod_settings import KubernetesPodSettings  # noqa: E402

GPU = ResourceSettings(gpu_count=1)
SNAPSHOT = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def compiled(tmp_path):
    """``compiled(step=(resources, settings), ...)``: the documents that the orchestrator would upload."""

    class Offline(KubeflowOrchestrator):
        pipeline_directory = str(tmp_path)

        def get_image(self, snapshot, step_name=None):
            return "image"

        def get_settings(self, step):
            return step.settings

        def _upload_and_run_pipeline(self, snapshot, pipeline_file_path, run_name):
            self.uploaded.extend(yaml.safe_load_all(Path(pipeline_file_path).read_text()))

    def compile_steps(**steps):
        Offline.uploaded = []
        configurations = {
            name: SimpleNamespace(
                settings=settings,
                config=SimpleNamespace(resource_settings=wanted),
                spec=SimpleNamespace(upstream_steps=[]),
            )
            for name, (wanted, settings) in steps.items()
        }
        snapshot = SimpleNamespace(
            id=SNAPSHOT, pipeline_configuration=SimpleNamespace(name="p"), step_configurations=configurations
        )
        stack = SimpleNamespace(container_registry=True)
        Offline.__new__(Offline).submit_pipeline(snapshot, stack, {}, {name: {} for name in steps})
        return Offline.uploaded

    return compile_steps


def resources(document):
    executors = document["deploymentSpec"]["executors"]
    return {name.removeprefix("exec-"): e["container"].get("resources", {}) for name, e in executors.items()}


def test_pod_settings_are_dropped(compiled):
    pod = KubernetesPodSettings(
        resources={"limits": {"nvidia.com/gpu": "1"}}, node_selectors={"pool": "gpu"}, labels={"queue": "q"},
        tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists"}],
    )  # fmt: skip
    settings = Settings(pod_settings=pod)
    kept = settings.pod_settings
    assert (kept.resources, kept.node_selectors, kept.labels, kept.tolerations) == ({}, {}, {}, [])
    documents = compiled(synthesize=(GPU, settings))
    assert len(documents) == 1  # the second one would hold what is Kubernetes' own
    assert resources(documents[0]) == {"synthesize": {}}  # no GPU either


def test_only_one_label_gives_a_gpu_and_it_is_taken_for_the_resource(compiled):
    (gke,) = compiled(s=(GPU, Settings(node_selectors={"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"})))
    assert resources(gke) == {"s": {}}
    (short,) = compiled(s=(GPU, Settings(node_selectors={"accelerator": "nvidia-h100-80gb"})))
    assert resources(short)["s"]["accelerator"]["resourceType"] == "nvidia-h100-80gb"  # nodes offer nvidia.com/gpu


def test_the_last_selector_reaches_every_step(compiled):
    first, last = (Settings(node_selectors={"accelerator": name}) for name in ("nvidia-h100-80gb", "nvidia-tesla-t4"))
    (document,) = compiled(synthesize=(GPU, first), judge=(GPU, last), plain=(GPU, Settings()))
    assert {r["accelerator"]["type"] for r in resources(document).values()} == {"nvidia-tesla-t4"}


def test_memory_breaks_the_submission(compiled):
    with pytest.raises(TypeError, match="got 'float'"):
        compiled(s=(ResourceSettings(memory="16GB"), Settings()))

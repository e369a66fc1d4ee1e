"""Helm values: versions pinned and in step with lock and cluster, credentials by reference, GPUs on every pool."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from artiagent.scale.profiles import Declared
from tests.infra.conftest import INFRA, ROOT, of_kind

FOLDER = INFRA / "helm"
RELEASES = ("cluster-autoscaler", "nvidia-device-plugin", "kueue", "mlflow", "zenml")


def values(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "values" / f"{name}.yaml").read_text())


@pytest.fixture(scope="module")
def releases() -> dict[str, dict[str, Any]]:
    helmfile = yaml.safe_load((FOLDER / "helmfile.yaml.gotmpl").read_text())
    return {release["name"]: release for release in helmfile["releases"]}


def locked(package: str) -> str:
    return re.search(rf"^{package}==(\S+)", (ROOT / "requirements.lock").read_text(), re.M)[1]


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of everything that is no mapping."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, f"{path}{key}.")
    elif isinstance(tree, list):
        for value in tree:
            yield from leaves(value, path)
    else:
        yield path.removesuffix("."), tree


def test_charts_are_pinned_and_each_has_its_values(releases: dict[str, dict[str, Any]]) -> None:
    assert tuple(releases) == RELEASES
    for name, release in releases.items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", release["version"]), name
        assert release["values"] == [f"values/{name}.yaml"]
    assert {p.stem for p in (FOLDER / "values").iterdir()} == set(RELEASES)


def test_servers_are_of_the_clients_versions(releases: dict[str, dict[str, Any]]) -> None:
    mlflow = values("mlflow")
    assert mlflow["image"]["tag"] == mlflow["initImages"]["mlflowDbMigration"]["tag"] == locked("mlflow")
    assert releases["zenml"]["version"] == locked("zenml")
    assert values("kueue")["controllerManager"]["manager"]["image"]["tag"] == f"v{releases['kueue']['version']}"


def test_the_autoscaler_is_of_the_clusters_minor_version(terraform: dict[str, Any]) -> None:
    (cluster,) = (v["kubernetes_version"] for v in terraform["variables.tf"]["variable"] if "kubernetes_version" in v)
    assert values("cluster-autoscaler")["image"]["tag"].startswith(f"v{cluster['default']}.")


def test_what_helmfile_asks_for_is_what_terraform_puts_out() -> None:
    asked = set(re.findall(r'requiredEnv "(\w+)"', (FOLDER / "helmfile.yaml.gotmpl").read_text()))
    output = re.search(r'output "helm_env".*?EOT\n(.*?)EOT', (INFRA / "terraform/outputs.tf").read_text(), re.S)[1]
    assert set(re.findall(r"export (\w+)=", output)) == asked


def test_credentials_are_references() -> None:
    word = re.compile(r"password|secret|token|credential|key$", re.I)
    allowed = re.compile(
        r"(existing\w*Secret|passwordSecretRef|environmentSecretKeyRefs)\.\w+$|^zenml\.secretsStore\.|ExpireMinutes$"
    )
    found = [(name, path, value) for name in RELEASES for path, value in leaves(values(name)) if word.search(path)]
    assert found
    for name, path, value in found:
        plain = name in {"nvidia-device-plugin", "kueue"}  # keys of labels and taints
        assert plain or allowed.search(path), f"{name}: {path}={value}"
    text = "".join(path.read_text() for path in FOLDER.rglob("*.yaml*"))
    assert not re.search(r"://[^/\s@]+:[^/\s@]+@", text), "a password in an address"


def test_secrets_of_the_charts_are_made_by_the_documented_commands() -> None:
    made = set(re.findall(r"create secret generic ([\w-]+)", (ROOT / "docs/cluster.md").read_text()))
    named = set(re.findall(r"(?:name|secretName): ((?:mlflow|zenml)-(?:database|admin|server))", _text()))
    assert named == {"mlflow-database", "mlflow-admin", "zenml-server"} <= made
    assert "artiagent-run" in made


def _text() -> str:
    return "".join(path.read_text() for path in (FOLDER / "values").iterdir())


def test_every_gpu_node_offers_its_gpus(declared: Declared) -> None:
    plugin = values("nvidia-device-plugin")
    required = plugin["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (term,) = required["nodeSelectorTerms"]
    (expression,) = term["matchExpressions"]
    pools = {name: pool for name, pool in declared.pools.items() if pool.gpus}
    assert {pool.labels[expression["key"]] for pool in pools.values()} == set(expression["values"])
    tolerated = {(t["key"], t["effect"]) for t in plugin["tolerations"] if t["operator"] == "Exists"}
    assert {(t.key, t.effect) for pool in pools.values() for t in pool.taints} <= tolerated


def test_what_stays_runs_on_the_nodes_that_stay() -> None:
    system = {"artiagent.io/pool": "system"}
    for name in ("cluster-autoscaler", "mlflow", "zenml"):
        assert values(name)["nodeSelector"] == system
    assert values("kueue")["controllerManager"]["nodeSelector"] == system


def test_kueue_looks_at_the_namespace_of_the_runs(manifests: list[dict[str, Any]]) -> None:
    configuration = yaml.safe_load(values("kueue")["managerConfig"]["controllerManagerConfigYaml"])
    wanted = configuration["managedJobsNamespaceSelector"]["matchLabels"]
    assert wanted.items() <= of_kind(manifests, "Namespace")["artiagent"]["metadata"]["labels"].items()
    assert {"batch/job", "pod"} == set(configuration["integrations"]["frameworks"])


def test_addresses_of_the_servers_are_those_that_runs_use() -> None:
    plain = (INFRA / "kubernetes/run.env").read_text()
    assert "http://mlflow.mlflow.svc.cluster.local" in plain and "http://zenml.zenml.svc.cluster.local" in plain
    assert values("mlflow")["fullnameOverride"] == "mlflow" and values("zenml")["fullnameOverride"] == "zenml"
    assert "mlflow.mlflow.svc.cluster.local" in values("mlflow")["serverAllowedHosts"]

"""Manifests: nothing that the API would not know, nothing that pods may not have, everything as the profiles say."""

from __future__ import annotations

import json
import re
import shutil
from typing import Any

import pytest
import yaml
from kubernetes import client

from artiagent.scale.profiles import GPU, Declared
from pipelines import placement
from pipelines.nodes import placing
from tests.infra.conftest import INFRA, call, of_kind

Manifest = dict[str, Any]
MODELS = {
    ("v1", "Namespace"): "V1Namespace",
    ("v1", "ServiceAccount"): "V1ServiceAccount",
    ("v1", "ResourceQuota"): "V1ResourceQuota",
    ("v1", "LimitRange"): "V1LimitRange",
    ("rbac.authorization.k8s.io/v1", "Role"): "V1Role",
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): "V1RoleBinding",
    ("scheduling.k8s.io/v1", "PriorityClass"): "V1PriorityClass",
    ("networking.k8s.io/v1", "NetworkPolicy"): "V1NetworkPolicy",
    ("batch/v1", "CronJob"): "V1CronJob",
}
# Kueue's, by hand: a dict names every key, a list one kind of entry, `str` anything that is written as text.
KUEUE = "kueue.x-k8s.io/v1beta2"
TAINTS = [{"key": str, "value": str, "effect": str}]
POLICIES = {"withinClusterQueue": str, "reclaimWithinCohort": str, "borrowWithinCohort": {"policy": str}}
QUOTAS = [{"name": str, "nominalQuota": str}]
KUEUE_SPECS: dict[str, Any] = {
    "ResourceFlavor": {"nodeLabels": {"artiagent.io/pool": str}, "nodeTaints": TAINTS},
    "ClusterQueue": {
        "cohortName": str,
        "namespaceSelector": {"matchLabels": {"artiagent.io/queued": str}},
        "queueingStrategy": str,
        "resourceGroups": [{"coveredResources": [str], "flavors": [{"name": str, "resources": QUOTAS}]}],
        "preemption": POLICIES,
    },
    "LocalQueue": {"clusterQueue": str},
}


def unknown(found: Any, model: str, place: str) -> list[str]:
    """Keys, or values of another type, that the API's model does not have."""
    if model.startswith(("list[", "dict(")):
        inner = model[5:-1].split(", ")[-1]
        wanted, entries = (list, enumerate) if model.startswith("list[") else (dict, dict.items)
        if not isinstance(found, wanted):
            return [f"{place}: {model} expected"]
        return [problem for key, value in entries(found) for problem in unknown(value, inner, f"{place}.{key}")]
    kind = getattr(client, model, None)
    if kind is None:
        plain = {"str": str, "int": int, "bool": bool, "object": object, "datetime": str}[model]
        fits = isinstance(found, plain) and not (plain is int and isinstance(found, bool))
        return [] if fits else [f"{place}: {model} expected, not {found!r}"]
    if not isinstance(found, dict):
        return [f"{place}: {model} expected"]
    names = {written: name for name, written in kind.attribute_map.items()}
    problems = [f"{place}: no field {key}" for key in found if key not in names]
    return problems + [
        problem
        for key, value in found.items()
        if key in names
        for problem in unknown(value, kind.openapi_types[names[key]], f"{place}.{key}")
    ]


def misfits(found: Any, wanted: Any, place: str) -> list[str]:
    """The same for Kueue's kinds: every key that is wanted, no other, text where text is wanted."""
    if wanted is str:
        return [] if isinstance(found, str) else [f"{place}: text expected, not {found!r}"]
    if isinstance(wanted, list):
        return [p for i, entry in enumerate(found) for p in misfits(entry, wanted[0], f"{place}[{i}]")]
    if set(found) != set(wanted):
        return [f"{place}: {sorted(set(found) ^ set(wanted))}"]
    return [p for key, value in found.items() for p in misfits(value, wanted[key], f"{place}.{key}")]


def test_every_field_is_one_of_the_api(manifests: list[Manifest]) -> None:
    assert len(manifests) > 25
    for entry in manifests:
        name = f"{entry['kind']}/{entry['metadata']['name']}"
        if entry["apiVersion"] == KUEUE:
            assert not misfits(entry["spec"], KUEUE_SPECS[entry["kind"]], name)
            assert not unknown(entry["metadata"], "V1ObjectMeta", name)
            continue
        model = MODELS[entry["apiVersion"], entry["kind"]]
        assert not unknown(entry, model, name)
        answer = type("Answer", (), {"data": json.dumps(entry)})
        read = client.ApiClient().deserialize(answer, model)  # checks what is required
        assert client.ApiClient().sanitize_for_serialization(read) == entry


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"schedul": "x"}, "no field schedul"),
        ({"suspend": "yes"}, "bool expected"),
        ({"startingDeadlineSeconds": "60"}, "int expected"),
    ],
)
def test_a_typo_is_found(manifests: list[Manifest], change: dict[str, str], problem: str) -> None:
    job = of_kind(manifests, "CronJob")["artiagent-run"]
    assert problem in unknown({**job, "spec": {**job["spec"], **change}}, "V1CronJob", "CronJob")[0]


def test_kueue_counts_what_the_pools_can_grow_to(manifests: list[Manifest], declared: Declared) -> None:
    pools = {name: pool for name, pool in declared.pools.items() if pool.gpus}
    flavors = of_kind(manifests, "ResourceFlavor")
    assert set(flavors) == set(pools)
    (group,) = of_kind(manifests, "ClusterQueue")["artiagent-gpu"]["spec"]["resourceGroups"]
    (borrowed,) = of_kind(manifests, "ClusterQueue")["artiagent-study"]["spec"]["resourceGroups"]
    quotas = {f["name"]: {r["name"]: r["nominalQuota"] for r in f["resources"]} for f in group["flavors"]}
    for name, pool in pools.items():
        spec = flavors[name]["spec"]
        assert spec["nodeLabels"] == pool.labels, name
        taints = [(t["key"], t["value"], t["effect"]) for t in spec["nodeTaints"]]
        assert taints == [(t.key, t.value, t.effect) for t in pool.taints], name
        total = placement.resources(
            declared.profile(name).model_copy(
                update={field: getattr(pool, field) * pool.most for field in ("gpus", "cpu", "memory", "disk")}
            )
        )
        assert quotas[name] == total, f"{name}: {pool.most} nodes offer {total}"
    assert [f["name"] for f in borrowed["flavors"]] == [f["name"] for f in group["flavors"]]
    assert {r["nominalQuota"] for f in borrowed["flavors"] for r in f["resources"]} == {"0"}
    most = sum(pool.gpus * pool.most for pool in pools.values())
    assert of_kind(manifests, "ResourceQuota")["artiagent"]["spec"]["hard"][f"requests.{GPU}"] == str(most)


def test_whatever_a_profile_asks_for_is_queued_somewhere(manifests: list[Manifest], declared: Declared) -> None:
    queues, locals_ = of_kind(manifests, "ClusterQueue"), of_kind(manifests, "LocalQueue")
    labels = of_kind(manifests, "Namespace")["artiagent"]["metadata"]["labels"]
    for name, profile in declared.profiles.items():
        if not profile.queue:
            assert not profile.gpus, f"{name}: GPUs without a queue"
            continue
        queue = queues[locals_[profile.queue]["spec"]["clusterQueue"]]["spec"]
        assert queue["namespaceSelector"]["matchLabels"].items() <= labels.items()
        covered = set(queue["resourceGroups"][0]["coveredResources"])
        assert set(placement.resources(profile)) <= covered, f"{name}: Kueue would never admit it"


def test_roles_are_what_zenml_asks_for(manifests: list[Manifest]) -> None:
    """Calls of zenml.integrations.kubernetes 0.98 from the client and from the orchestrator pod, what a submission asks
    first (`preflight`), and nothing else."""
    roles = of_kind(manifests, "Role")
    rights = {
        name: {f"{verb} {resource}" for r in role["rules"] for resource in r["resources"] for verb in r["verbs"]}
        for name, role in roles.items()
    }
    watch = {"get pods", "list pods", "get pods/log"}
    jobs = {f"{verb} jobs" for verb in ("create", "get", "list", "delete")}
    secrets = {f"{verb} secrets" for verb in ("create", "patch", "delete")}
    asked = {f"get {resource}" for resource in ("serviceaccounts", "persistentvolumeclaims", "localqueues")}
    assert rights["artiagent-starter"] == watch | jobs | secrets | asked
    assert rights["artiagent-orchestrator"] == watch | jobs | {"patch jobs", "delete secrets", "create services"}
    assert not [right for found in rights.values() for right in found if "*" in right or right == "get secrets"]
    bindings = of_kind(manifests, "RoleBinding")
    assert {b["roleRef"]["name"] for b in bindings.values()} == set(roles)
    bound = {s["name"] for b in bindings.values() for s in b["subjects"] if s["kind"] == "ServiceAccount"}
    assert bound == {"artiagent-starter", "artiagent-orchestrator"}  # steps may ask for nothing
    assert of_kind(manifests, "ServiceAccount")["artiagent-step"]["automountServiceAccountToken"] is False


def test_accounts_are_those_of_the_stack_and_of_the_cloud(manifests: list[Manifest]) -> None:
    accounts = set(of_kind(manifests, "ServiceAccount"))
    stack = yaml.safe_load((INFRA / "stacks/kubernetes.yaml").read_text())
    (orchestrator,) = stack["components"]["orchestrator"]
    settings = orchestrator["configuration"]
    assert settings["service_account_name"] in accounts
    assert settings["step_pod_service_account_name"] in accounts
    assert settings["kubernetes_namespace"] in of_kind(manifests, "Namespace")
    assert settings["incluster"] is True
    cloud = re.search(r'for kind in \[(.*?)\] : "artiagent-\$\{kind\}"', (INFRA / "terraform/identity.tf").read_text())
    assert {f"artiagent-{name}" for name in re.findall(r'"(\w+)"', cloud[1])} == accounts
    group = re.search(r'kubernetes_groups = \["([\w-]+)"\]', (INFRA / "terraform/cluster.tf").read_text())[1]
    (subject,) = of_kind(manifests, "RoleBinding")["artiagent-ci"]["subjects"]
    assert (subject["kind"], subject["name"]) == ("Group", group)


def test_runs_start_once_end_sometime_and_have_no_rights_to_spare(manifests: list[Manifest]) -> None:
    spec = of_kind(manifests, "CronJob")["artiagent-run"]["spec"]
    assert (spec["concurrencyPolicy"], spec["suspend"]) == ("Forbid", True)
    job = spec["jobTemplate"]["spec"]
    assert job["backoffLimit"] == 0 and job["activeDeadlineSeconds"] <= 14 * 86400
    pod = job["template"]["spec"]
    security = pod["securityContext"]
    assert security["runAsNonRoot"] and security["runAsUser"] == placement.USER
    assert security["seccompProfile"]["type"] == "RuntimeDefault"
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["priorityClassName"] in of_kind(manifests, "PriorityClass")
    assert pod["nodeSelector"]["artiagent.io/pool"] == "cpu"
    assert not [volume for volume in pod["volumes"] if set(volume) != {"name", "emptyDir"}]


def test_the_command_is_artiagent_run_and_its_settings_exist(manifests: list[Manifest]) -> None:
    job = of_kind(manifests, "CronJob")["artiagent-run"]["spec"]["jobTemplate"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    after = container["args"][container["args"].index("--") + 1 :]
    command = ["python", "-m", "artiagent.cli", "run", "--stack", "$(RUN_STACK)", "--config", "$(RUN_CONFIG)"]
    assert after == command
    plain = dict(line.split("=", 1) for line in (INFRA / "kubernetes/run.env").read_text().splitlines())
    keys = {entry["name"] for entry in container["env"] if "valueFrom" in entry}
    assert {a.removeprefix("--require=") for a in container["args"] if "--require" in a} <= set(plain) | keys
    assert {"ARTIAGENT_STORE", "ARTIAGENT_CODE", "RUN_STACK", "RUN_CONFIG"} <= set(plain)
    assert {"ARTIAGENT_IMAGE_CPU", "ARTIAGENT_IMAGE_CUDA"} <= set(plain)
    assert not set(plain) & keys
    written = re.search(r'output "run_env".*?EOT\n(.*?)EOT', (INFRA / "terraform/outputs.tf").read_text(), re.S)[1]
    assert [line.split("=")[0].strip() for line in written.strip().splitlines()] == list(plain)
    stack = yaml.safe_load((INFRA / "stacks/kubernetes.yaml").read_text())
    assert plain["RUN_STACK"] == stack["stack_name"]


def test_secrets_are_references(manifests: list[Manifest]) -> None:
    assert "Secret" not in {entry["kind"] for entry in manifests}
    (container,) = of_kind(manifests, "CronJob")["artiagent-run"]["spec"]["jobTemplate"]["spec"]["template"]["spec"][
        "containers"
    ]
    word = re.compile("KEY|PASSWORD|TOKEN|SECRET|USERNAME")
    for entry in container["env"]:
        if word.search(entry["name"]):
            assert entry["valueFrom"]["secretKeyRef"]["optional"], "a missing secret is a message, not a pod that waits"
    assert not word.search("".join(re.findall(r"^\w+", (INFRA / "kubernetes/run.env").read_text(), re.M)))


def test_nothing_listens_but_the_servers(manifests: list[Manifest]) -> None:
    policies = [entry for entry in manifests if entry["kind"] == "NetworkPolicy"]
    closed = [p for p in policies if p["spec"]["podSelector"] == {} and "ingress" not in p["spec"]]
    denied = {policy["metadata"]["namespace"] for policy in closed}
    assert denied == {"artiagent", "mlflow", "zenml"} == set(of_kind(manifests, "Namespace"))
    opened = [(p["metadata"]["namespace"], rule) for p in policies for rule in p["spec"].get("ingress", [])]
    assert [namespace for namespace, _ in opened] == ["artiagent", "mlflow", "zenml"]
    (between,) = (p["spec"] for p in policies if p["metadata"]["name"] == "between-nodes")
    assert between["podSelector"]["matchLabels"] == {placing.LABEL: "true"}
    assert between["ingress"] == [{"from": [{"podSelector": between["podSelector"]}]}]
    for _, rule in opened[1:]:
        (source,) = rule["from"]
        assert source == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "artiagent"}}}
        assert len(rule["ports"]) == 1


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not on PATH")
def test_kustomize_builds_the_same(manifests: list[Manifest]) -> None:
    done = call("kubectl", "kustomize", INFRA / "kubernetes")
    assert done.returncode == 0, done.stderr
    built = [entry for entry in yaml.safe_load_all(done.stdout) if entry]
    assert len(built) == len(manifests) + 1
    assert of_kind(built, "ConfigMap")["artiagent-run"]["data"]["RUN_CONFIG"]
    pod = of_kind(built, "CronJob")["artiagent-run"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert re.fullmatch(r"[\w.-]+/artiagent/cpu:\w+", pod["containers"][0]["image"])


def test_kustomize_lists_every_file() -> None:
    folder = INFRA / "kubernetes"
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == sorted(p.name for p in folder.glob("*.yaml") if p.name != "kustomization.yaml")

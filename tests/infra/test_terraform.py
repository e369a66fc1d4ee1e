"""Terraform: formatted, pinned, without secrets; its node groups are the pools of infra/profiles.yaml."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from artiagent.scale.profiles import GPU, Declared, Pool
from tests.infra.conftest import INFRA, call

FOLDER = INFRA / "terraform"
EFFECTS = {"NoSchedule": "NO_SCHEDULE", "PreferNoSchedule": "PREFER_NO_SCHEDULE", "NoExecute": "NO_EXECUTE"}
needs_terraform = pytest.mark.skipif(shutil.which("terraform") is None, reason="terraform is not on PATH")
Blocks = dict[str, dict[str, Any]]


def blocks(terraform: Blocks, kind: str) -> dict[str, dict[str, Any]]:
    """Name -> body, of modules (or, ``type.name``, of resources and ephemerals)."""
    found = {}
    for file in terraform.values():
        for block in file.get(kind, []):
            for name, body in block.items():
                nested = kind in ("resource", "ephemeral", "data")
                found |= {f"{name}.{inner}": b for inner, b in body.items()} if nested else {name: body}
    return found


@needs_terraform
def test_is_formatted() -> None:
    done = call("terraform", f"-chdir={FOLDER}", "fmt", "-check", "-recursive", "-diff")
    assert done.returncode == 0, done.stdout


def test_is_aligned_as_fmt_aligns(terraform: Blocks) -> None:
    """What of fmt's rules can be told without it: two spaces a level, neighbouring equals signs in a column."""
    assert len(terraform) == 9
    single = re.compile(r"^( *)([\w-]+|\"[^\"]+\")( +)= \S.*[^\[{(,]$")
    for path in FOLDER.rglob("*.tf"):
        block: list[tuple[int, int]] = []
        inside = False
        for number, line in enumerate(path.read_text().splitlines(), 1):
            inside = not line.strip().startswith("EOT") if inside else "<<-EOT" in line
            assert "\t" not in line and line == line.rstrip(), f"{path.name}:{number}"
            if inside or (match := single.match(line)) is None:
                block = []
                continue
            place = (len(match[1]), match.start(3) + len(match[3]))
            assert place[0] % 2 == 0, f"{path.name}:{number}: {line}"
            block = [p for p in block if p[0] == place[0]] + [place]
            assert len(set(block)) == 1, f"{path.name}:{number}: {line}"


def test_modules_and_providers_are_pinned(terraform: Blocks) -> None:
    modules = blocks(terraform, "module")
    remote = {name: body for name, body in modules.items() if not body["source"].startswith("./")}
    assert len(remote) >= 10
    for name, body in remote.items():
        assert body["source"].startswith("terraform-aws-modules/"), name
        assert re.fullmatch(r"\d+\.\d+\.\d+", body["version"]), (
            f"module {name}: an exact version, not {body['version']}"
        )
    settings = terraform["versions.tf"]["terraform"][0]
    assert settings["required_version"].startswith(">=")
    assert all("<" in provider["version"] for provider in settings["required_providers"][0].values())


def test_no_secret_enters_state_or_files(terraform: Blocks) -> None:
    text = "".join(path.read_text() for path in FOLDER.rglob("*.tf"))
    assert not re.search(r"^\s*(password|secret_string|token|secret)\s*=", text, re.M)
    assert not [name for name in blocks(terraform, "resource") if name.startswith("random_")]
    assert "random_password.database" in blocks(terraform, "ephemeral")
    version = blocks(terraform, "resource")["aws_secretsmanager_secret_version.database"]
    assert {"secret_string_wo", "secret_string_wo_version"} <= set(version)
    assert {"password_wo", "password_wo_version"} <= set(blocks(terraform, "module")["database"])
    assert not re.search(r"AKIA[0-9A-Z]{16}|-----BEGIN", text)
    assert {"*.tfvars", "*.tfstate", "backend.hcl"} <= set((FOLDER / ".gitignore").read_text().split())


def test_buckets_are_private_encrypted_versioned_and_thrifty(terraform: Blocks) -> None:
    bucket = blocks(terraform, "module")["bucket"]
    closed = ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets")
    assert all(bucket[name] is True for name in (*closed, "attach_deny_insecure_transport_policy"))
    assert bucket["versioning"] == {"enabled": True}
    assert bucket["server_side_encryption_configuration"]["rule"]
    (rule,) = bucket["lifecycle_rule"]
    assert rule["abort_incomplete_multipart_upload_days"] and rule["noncurrent_version_expiration"]


def test_roles_name_actions_and_resources() -> None:
    text = (FOLDER / "identity.tf").read_text()
    actions = re.findall(r'"([a-z0-9-]+:[A-Za-z*]+)"', text)
    assert actions and not [action for action in actions if "*" in action]
    assert len(re.findall(r'resources = \["\*"\]', text)) == 1  # of ecr:GetAuthorizationToken, which knows no other
    add = text[text.index('sid       = "Add"') :].split("}")[0]
    assert "DeleteObject" not in add


def test_every_pool_has_a_machine_that_keeps_its_promise(terraform: Blocks, declared: Declared) -> None:
    machines = terraform["modules/pools/main.tf"]["locals"][0]["machines"]
    assert set(machines) == set(declared.pools)
    for name, pool in declared.pools.items():
        machine = machines[name]
        assert (machine["gpu"], machine["gpus"]) == (pool.gpu, pool.gpus), name
        assert pool.cpu < machine["vcpus"], f"{name}: kubelet and daemons take some of {machine['vcpus']} vCPUs"
        assert pool.memory < 0.96 * machine["memory"], (
            f"{name}: kubelet and kernel take some of {machine['memory']} GiB"
        )
        disk = machine["local_nvme"] * 1e9 / 2**30 * 0.85 if machine["local_nvme"] else pool.disk
        assert pool.disk <= disk, name


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The module of the pools as Terraform evaluates it: no provider, no network, nothing applied."""
    return evaluate(tmp_path_factory.mktemp("pools"), INFRA / "profiles.yaml")


def evaluate(folder: Path, profiles: Path) -> dict[str, Any]:
    shutil.copy(FOLDER / "modules/pools/main.tf", folder)
    plan, variable = str(folder / "plan"), f"-var=file={profiles}"
    for arguments in (["init", "-input=false"], ["plan", "-input=false", "-no-color", variable, f"-out={plan}"]):
        done = call("terraform", f"-chdir={folder}", *arguments)
        if done.returncode:
            raise RuntimeError(done.stderr)
    shown = call("terraform", f"-chdir={folder}", "show", "-json", plan)
    return json.loads(shown.stdout)["planned_values"]["outputs"]["groups"]["value"]


@needs_terraform
def test_node_groups_are_the_pools(groups: dict[str, Any], declared: Declared) -> None:
    assert set(groups) == set(declared.pools)
    for name, pool in declared.pools.items():
        group = groups[name]
        assert (group["min_size"], group["desired_size"], group["max_size"]) == (0, 0, pool.most), name
        assert group["capacity_type"] == ("SPOT" if pool.spot else "ON_DEMAND"), name
        assert pool.labels.items() <= group["labels"].items(), name
        made = {(t["key"], t["value"], t["effect"]) for t in group["taints"].values()}
        assert made == {(t.key, t.value, EFFECTS[t.effect]) for t in pool.taints}, name
        assert group["ami_type"].endswith("NVIDIA") == bool(pool.gpus), name


@needs_terraform
def test_groups_of_no_nodes_say_what_a_node_would_offer(groups: dict[str, Any], declared: Declared) -> None:
    for name, pool in declared.pools.items():
        assert groups[name]["scale_from_zero"] == hints(pool), name


def hints(pool: Pool) -> dict[str, str]:
    gpus = {f"resources/{GPU}": str(pool.gpus)} if pool.gpus else {}
    labels = {f"label/{key}": value for key, value in pool.labels.items()}
    taints = {f"taint/{t.key}": f"{t.value}:{t.effect}" for t in pool.taints}
    return {"resources/ephemeral-storage": f"{pool.disk:g}Gi"} | gpus | labels | taints


@needs_terraform
@pytest.mark.parametrize(
    ("pools", "reason"),
    [
        ("{new: {cpu: 1, memory: 2, disk: 9, most: 1}}", "has no machine"),
        ("{cpu: {cpu: 64, memory: 2, disk: 9, most: 1}}", "promises what its machine"),
        ("{cpu: {cpu: 1, memory: 2, disk: 9, most: 1, gpu: H100, gpus: 1}}", "promises what its machine"),
    ],
)
def test_pools_that_no_machine_keeps_stop_the_plan(tmp_path: Path, pools: str, reason: str) -> None:
    (tmp_path / "profiles.yaml").write_text(f"pools: {pools}\n")
    with pytest.raises(RuntimeError, match=reason):
        evaluate(tmp_path, tmp_path / "profiles.yaml")

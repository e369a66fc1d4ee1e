"""Workflows: pinned actions, no standing credentials, nobody's text in a shell, and an end."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from artiagent.lineage import REVISION
from tests.infra.conftest import ROOT, of_kind

FOLDER = ROOT / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.yml"))
Workflow = dict[Any, Any]


def read(name: str) -> Workflow:
    return yaml.safe_load((FOLDER / f"{name}.yml").read_text())


def steps(workflow: Workflow) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_actions_are_pinned_and_rights_are_few(name: str) -> None:
    workflow = read(name)
    assert workflow["permissions"] == {}
    assert workflow["concurrency"]["group"] and workflow["concurrency"]["cancel-in-progress"] is False
    for job in workflow["jobs"].values():
        assert job["permissions"] == {"contents": "read", "id-token": "write"}
        assert 0 < job["timeout-minutes"] <= 60 and job["environment"] == "artiagent"
    for step in steps(workflow):
        if uses := step.get("uses"):
            assert re.fullmatch(r"(actions|aws-actions)/[\w-]+@[0-9a-f]{40}", uses), uses
        if uses and uses.startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_no_secret_and_no_interpolation_in_a_shell(name: str) -> None:
    assert "${{ secrets" not in (FOLDER / f"{name}.yml").read_text()
    for step in steps(read(name)):
        assert "${{" not in step.get("run", ""), step["name"]


def test_a_run_starts_by_hand_and_by_the_clock_and_one_at_a_time() -> None:
    workflow = read("run")
    triggers = workflow[True]  # YAML 1.1 reads the key `on` so
    assert set(triggers) == {"workflow_dispatch", "schedule"}
    assert set(triggers["workflow_dispatch"]["inputs"]) == {"config", "stack"}
    (job,) = workflow["jobs"].values()
    assert "RUN_SCHEDULED" in job["if"]
    commands = "\n".join(step.get("run", "") for step in steps(workflow))
    assert "git ls-files --error-unmatch" in commands and "a run is under way" in commands


def test_the_run_is_the_clusters_cron_job(manifests: list[dict[str, Any]]) -> None:
    commands = "\n".join(step.get("run", "") for step in steps(read("run")))
    (name,) = re.findall(r"--from=cronjob/([\w-]+)", commands)
    job = of_kind(manifests, "CronJob")[name]
    (label,) = re.findall(r"--selector app.kubernetes.io/name=([\w-]+)", commands)
    assert job["spec"]["jobTemplate"]["metadata"]["labels"]["app.kubernetes.io/name"] == label
    assert f"--namespace {job['metadata']['namespace']} create job" in commands
    set_here = set(re.findall(r'"(\w+)=\$', commands.split("kubectl set env")[1]))
    plain = {line.split("=")[0] for line in (ROOT / "infra/kubernetes/run.env").read_text().splitlines()}
    assert set_here == {"ARTIAGENT_CODE", "RUN_CONFIG", "RUN_STACK"} <= plain
    (rules,) = (r["rules"] for n, r in of_kind(manifests, "Role").items() if n == "artiagent-ci")
    assert {"cronjobs", "jobs", "pods", "pods/log"} == {resource for rule in rules for resource in rule["resources"]}


def test_the_code_that_is_sent_is_what_pods_look_for() -> None:
    commands = "\n".join(step.get("run", "") for step in steps(read("run")))
    assert f'--add-virtual-file="{REVISION}:$GITHUB_SHA"' in commands
    assert '"$STORE/code/$digest.tar.gz"' in commands
    left_out = set(re.findall(r"':!([\w/]+)'", commands))
    assert left_out == {"infra/dvc", "docs", "tests", "examples", "bench"}


def test_roles_and_variables_are_those_of_terraform(terraform: dict[str, Any]) -> None:
    used = {v for path in FILES for v in re.findall(r"vars\.(\w+)", path.read_text())}
    assert used == {"AWS_REGION", "AWS_ROLE_START", "AWS_ROLE_IMAGES", "CLUSTER", "STORE", "REGISTRY", "RUN_SCHEDULED"}
    variables = {name: body for v in terraform["variables.tf"]["variable"] for name, body in v.items()}
    assert variables["github_environment"]["default"] == "artiagent"

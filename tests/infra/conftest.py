"""Files of the cluster, parsed. Nothing here writes into the checkout."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import hcl2
import pytest
import yaml

from artiagent.scale.profiles import Declared, load_profiles

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
MANIFESTS = sorted(p for p in (INFRA / "kubernetes").glob("*.yaml") if p.name != "kustomization.yaml")


def documents(*files: Path) -> list[dict[str, Any]]:
    """All YAML documents of the files, in order."""
    return [found for file in files for found in yaml.safe_load_all(file.read_text()) if found]


def call(*command: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a tool, whatever it exits with; Terraform does not look for news on the net."""
    environment = {**os.environ, "CHECKPOINT_DISABLE": "1"} if env is None else env
    return subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True, env=environment)


def bare(value: Any) -> Any:
    """HCL as python-hcl2 gives it, less the quotes it keeps around strings and keys."""
    if isinstance(value, dict):
        return {bare(k): bare(v) for k, v in value.items() if not str(k).startswith("__")}
    if isinstance(value, list):
        return [bare(v) for v in value]
    return value.removeprefix('"').removesuffix('"') if isinstance(value, str) else value


@pytest.fixture(scope="session")
def declared() -> Declared:
    return load_profiles()


@pytest.fixture(scope="session")
def manifests() -> list[dict[str, Any]]:
    return documents(*MANIFESTS)


@pytest.fixture(scope="session")
def terraform() -> dict[str, dict[str, Any]]:
    """File (relative to infra/terraform) -> its blocks."""
    folder = INFRA / "terraform"
    return {f.relative_to(folder).as_posix(): bare(hcl2.loads(f.read_text())) for f in sorted(folder.rglob("*.tf"))}


def of_kind(found: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    """Name -> object of that kind (the last one, where several namespaces share a name)."""
    return {entry["metadata"]["name"]: entry for entry in found if entry["kind"] == kind}

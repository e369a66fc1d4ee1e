"""Profiles: what a kind of step needs; pools: what a cluster has. Declared once, in ``infra/profiles.yaml``.

Knows sizes, labels and taints. How a profile becomes a pod, a KFP task or a pinned process: `pipelines.placement`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field

from artiagent.config import ScaleSection, Section
from artiagent.run_config import validated

FILE = Path(__file__).resolve().parents[2] / "infra" / "profiles.yaml"
DEFAULT = "default"  # key of ``scale.profiles`` for stages that are not named


class Toleration(Section):
    """Of a taint, as Kubernetes has it."""

    key: str
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = "NoSchedule"


class Taint(Section):
    """Of a pool's nodes: only pods that tolerate it may run there."""

    key: str
    value: str = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = "NoSchedule"


class Profile(Section):
    """What a kind of step needs. Memory and disk in GiB."""

    name: str = ""
    gpu: str = ""  # model, by the name that prices and rates use, e.g. H100
    gpus: int = Field(default=0, ge=0)
    cpu: float = Field(gt=0)
    memory: float = Field(gt=0)
    shm: float = Field(default=1, ge=0)  # /dev/shm: data loaders and NCCL
    disk: float = Field(default=20, gt=0)
    selector: dict[str, str] = Field(default_factory=dict)  # node labels
    tolerations: tuple[Toleration, ...] = ()
    queue: str = ""  # Kueue LocalQueue; "": none
    spot: bool = False
    deadline: float = Field(default=24, gt=0)  # hours


class Pool(Section):
    """Nodes of one kind, zero to ``most`` of them. Memory and disk in GiB, of a node, as allocatable."""

    name: str = ""
    gpu: str = ""
    gpus: int = Field(default=0, ge=0)
    cpu: float = Field(gt=0)
    memory: float = Field(gt=0)
    disk: float = Field(gt=0)
    labels: dict[str, str] = Field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    spot: bool = False
    most: int = Field(ge=1)


class Declared(Section):
    """The whole file."""

    profiles: dict[str, Profile]
    pools: dict[str, Pool] = Field(default_factory=dict)


def load_profiles(path: Path = FILE) -> Declared:
    """Read the declarations. Raises ConfigError naming file and key."""
    tree = yaml.safe_load(path.read_text())
    for kind in ("profiles", "pools"):
        for name, entry in (tree.get(kind) or {}).items():
            entry["name"] = name
    return validated(Declared, tree, str(path))


def profile_name(stage: str, scale: ScaleSection) -> str:
    """Which profile a stage has."""
    return scale.profiles.get(stage) or scale.profiles.get(DEFAULT) or "cpu"

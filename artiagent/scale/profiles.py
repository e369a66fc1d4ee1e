"""Profiles: what a kind of step needs; pools: what a cluster has. Declared once, in ``infra/profiles.yaml``.

Knows sizes, labels and taints, which pool satisfies which profile and why none does, and what a configuration asks of
its profiles. How a profile becomes a pod, a KFP task or a pinned process: `pipelines.placement`.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Hashable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, StringConstraints, model_validator

from artiagent.config import Config, ScaleSection, Section
from artiagent.run_config import ConfigError, validated

FILE = Path(__file__).resolve().parents[2] / "infra" / "profiles.yaml"
DEFAULT = "default"  # key of ``scale.profiles`` for stages that are not named
FALLBACK = "cpu"  # profile of stages for which nothing is named
GPU = "nvidia.com/gpu"  # the resource, and the key of the taint that keeps other pods off its nodes

Effect = Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]
_PART = r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
Name = Annotated[str, StringConstraints(pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$")]  # a DNS label, or ""
Key = Annotated[str, StringConstraints(pattern=rf"^([a-z0-9]([a-z0-9.-]{{0,251}}[a-z0-9])?/)?{_PART}$")]
Value = Annotated[str, StringConstraints(pattern=rf"^({_PART})?$")]
Gib = Annotated[float, Field(gt=0)]


class Toleration(Section):
    """Of a taint, as Kubernetes has it."""

    key: Key
    operator: Literal["Exists", "Equal"] = "Exists"
    value: Value = ""
    effect: Effect = "NoSchedule"

    @model_validator(mode="after")
    def _checked(self) -> Toleration:
        if self.operator == "Exists" and self.value:
            raise ValueError(f"toleration of {self.key}: operator Exists takes no value; write operator: Equal")
        return self

    def covers(self, taint: Taint) -> bool:
        """Whether a pod with it may run on nodes with the taint."""
        same = self.operator == "Exists" or self.value == taint.value
        return self.key == taint.key and self.effect == taint.effect and same


class Taint(Section):
    """Of a pool's nodes: only pods that tolerate it may run there."""

    key: Key
    value: Value = ""
    effect: Effect = "NoSchedule"

    def __str__(self) -> str:
        return f"{self.key}{'=' if self.value else ''}{self.value}:{self.effect}"


class Profile(Section):
    """What a kind of step needs. Memory and disk in GiB."""

    name: Name = ""
    gpu: str = ""  # model, by the name that prices and rates use, e.g. H100
    gpus: int = Field(default=0, ge=0)
    cpu: float = Field(gt=0)
    memory: Gib
    shm: float = Field(default=1, ge=0)  # /dev/shm: data loaders and NCCL; it counts as memory
    disk: Gib = 20
    selector: dict[Key, Value] = Field(default_factory=dict)  # node labels
    tolerations: tuple[Toleration, ...] = ()
    queue: Name = ""  # Kueue LocalQueue; "": none
    spot: bool = False
    deadline: float = Field(default=24, gt=0)  # hours

    @model_validator(mode="after")
    def _checked(self) -> Profile:
        if bool(self.gpus) != bool(self.gpu):
            raise ValueError(f"gpu {self.gpu!r} and gpus {self.gpus}: name the model and the number, or neither")
        tolerates = any(t.key == GPU for t in self.tolerations)
        if self.gpus and not tolerates:
            raise ValueError(f"{self.gpus} GPUs, but no toleration of the taint {GPU}: it would wait for ever")
        if tolerates and not self.gpus:
            raise ValueError(f"no GPU, but a toleration of the taint {GPU}: it would occupy nodes that others need")
        if self.shm >= self.memory:
            raise ValueError(f"shm {self.shm:g} counts as memory ({self.memory:g}) and must be less")
        return self


class Pool(Section):
    """Nodes of one kind, zero to ``most`` of them. Memory and disk in GiB, of a node, as allocatable."""

    name: Name = ""
    gpu: str = ""
    gpus: int = Field(default=0, ge=0)
    cpu: float = Field(gt=0)
    memory: Gib
    disk: Gib
    labels: dict[Key, Value] = Field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    spot: bool = False
    most: int = Field(ge=1)

    @model_validator(mode="after")
    def _checked(self) -> Pool:
        if bool(self.gpus) != bool(self.gpu):
            raise ValueError(f"gpu {self.gpu!r} and gpus {self.gpus}: name the model and the number, or neither")
        if self.gpus and not any(t.key == GPU for t in self.taints):
            raise ValueError(f"{self.gpus} GPUs, but no taint {GPU}: any pod could occupy its nodes")
        return self

    def misfits(self, profile: Profile) -> tuple[str, ...]:
        """Why a pod of the profile cannot run here, a phrase each; empty: it can."""
        return (*self._kept_off(profile), *self._too_small(profile))

    def _kept_off(self, profile: Profile) -> Iterator[str]:
        for key, value in profile.selector.items():
            if (has := self.labels.get(key)) != value:
                yield f"its label {key} is {has!r}, not {value!r}" if has is not None else f"it has no label {key}"
        for taint in self.taints:
            if taint.effect != "PreferNoSchedule" and not any(t.covers(taint) for t in profile.tolerations):
                yield f"its taint {taint} is not tolerated"
        if self.spot and not profile.spot:
            yield "its nodes may be taken away (spot: true)"

    def _too_small(self, profile: Profile) -> Iterator[str]:
        if profile.gpus > self.gpus:
            yield f"a node has {self.gpus} GPUs, not {profile.gpus}"
        elif profile.gpus and profile.gpu != self.gpu:
            yield f"its GPU is {self.gpu}, not {profile.gpu}"
        for what, unit in (("cpu", "cores"), ("memory", "GiB of memory"), ("disk", "GiB of disk")):
            if (asked := getattr(profile, what)) > (there := getattr(self, what)):
                yield f"a node has {there:g} {unit}, not {asked:g}"


class Declared(Section):
    """The whole file."""

    profiles: dict[Name, Profile]
    pools: dict[Name, Pool] = Field(default_factory=dict)

    def profile(self, name: str) -> Profile:
        """The profile of that name. Raises ConfigError naming the nearest."""
        if name not in self.profiles:
            raise ConfigError(f"profile {name!r} is not declared in infra/profiles.yaml{_nearest(name, self.profiles)}")
        return self.profiles[name]

    def pools_for(self, profile: Profile) -> tuple[Pool, ...]:
        """The pools whose nodes can run a pod of the profile."""
        return tuple(pool for pool in self.pools.values() if not pool.misfits(profile))

    def why_none(self, profile: Profile) -> str:
        """One line that says why no pool satisfies the profile, by the pool that comes nearest; "": one does."""
        if self.pools_for(profile):
            return ""
        head = f"profile {profile.name!r}: no node pool of infra/profiles.yaml can run it"
        if not self.pools:
            return f"{head}; declare the cluster's pools there"
        nearest = min(self.pools.values(), key=lambda pool: (len(pool.misfits(profile)), pool.name))
        return f"{head}; nearest is {nearest.name!r}: {', '.join(nearest.misfits(profile))}"


def load_profiles(path: Path = FILE) -> Declared:
    """Read the declarations. Raises ConfigError naming file and key; no key may occur twice."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; profiles and pools are declared there (docs/kubernetes.md)")
    try:
        tree = yaml.load(path.read_text(), Loader=_UniqueKeys)  # noqa: S506  (a SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping with 'profiles:' and 'pools:', got {type(tree).__name__}")
    for kind in ("profiles", "pools"):
        for name, entry in (tree.get(kind) or {}).items() if isinstance(tree.get(kind) or {}, dict) else ():
            if isinstance(entry, dict):
                if "name" in entry:
                    raise ConfigError(f"{path}: {kind}.{name}.name: the name is the key already; remove it")
                entry["name"] = name
    return validated(Declared, tree, str(path))


def profile_name(stage: str, scale: ScaleSection) -> str:
    """Which profile a stage has."""
    return scale.profiles.get(stage) or scale.profiles.get(DEFAULT) or FALLBACK


def name_problems(scale: ScaleSection, declared: Declared, stages: Collection[str]) -> list[str]:
    """What is wrong with ``scale.profiles`` whatever the cluster: stages or profiles that do not exist. A line each."""
    problems = []
    for stage, name in scale.profiles.items():
        if stage not in (DEFAULT, *stages):
            problems.append(f"scale.profiles.{stage}: no such stage{_nearest(stage, (DEFAULT, *stages))}")
        if name not in declared.profiles:
            problems.append(
                f"scale.profiles.{stage}: profile {name!r} is not declared in infra/profiles.yaml"
                f"{_nearest(name, declared.profiles)}"
            )
    for stage in stages:
        if stage not in scale.profiles and DEFAULT not in scale.profiles and FALLBACK not in declared.profiles:
            problems.append(f"{stage} has no profile; name one under scale.profiles, or declare {FALLBACK!r}")
    return problems


def need_problems(config: Config, declared: Declared, stages: Collection[str]) -> list[str]:
    """Where stages and their profiles do not go together, on a cluster. A line each, with the remedy."""
    problems, seen = [], set()
    for stage in stages:
        profile = declared.profile(profile_name(stage, config.scale))
        problems += _device_problems(stage, profile, devices_of(config).get(stage, {}))
        if profile.name not in seen and (why := declared.why_none(profile)):
            problems.append(f"{why} (asked for by {stage})")
        seen.add(profile.name)
    gpus = declared.profile(profile_name("finetune", config.scale)).gpus
    if "finetune" in stages and gpus and config.sft.processes != gpus:
        problems.append(
            f"finetune: sft.processes is {config.sft.processes}, but its profile has {gpus} GPUs; set sft.processes="
            f"{gpus} (one each), or take a profile with {config.sft.processes}"
        )
    return problems


def devices_of(config: Config) -> dict[str, dict[str, str]]:
    """Stage -> key of the configuration -> device that the stage computes on. A stage that is not there uses none."""
    devices: dict[str, dict[str, str]] = {
        "synthesize": {"synthesis.device": config.synthesis.device},
        "curate": {"curation.device": config.curation.device},
        "finetune": {"sft.device": config.sft.device},
        "evaluate_base": {"evaluation.device": config.evaluation.device},
        "evaluate_tuned": {"evaluation.device": config.evaluation.device},
        "train_reward": {"reward.device": config.reward.device},
        "search": {"search.device": config.search.device},
        "correct": {"correction.device": config.correction.device},
        "audit": {"audit.device": config.audit.device},
        "reconstruct": {"synthesis.device": config.synthesis.device},
        "draw_pairs": {"synthesis.device": config.synthesis.device},
        "train_study": {"sft.device": config.sft.device},
        "predict_candidate": {"evaluation.device": config.evaluation.device},
    }
    perception = config.perception
    if perception.grounding != "annotations":
        devices["perceive"] = {"perception.detection.device": perception.detection.device}
    if perception.vocabulary != "template" and perception.vlm.backend == "local":
        devices.setdefault("perceive", {})["perception.vlm.device"] = perception.vlm.device
    if (config.curation.judge != "none" or config.curation.explain == "vlm") and config.curation.vlm.backend == "local":
        devices["curate"]["curation.vlm.device"] = config.curation.vlm.device
    return devices


def _device_problems(stage: str, profile: Profile, devices: Mapping[str, str]) -> Iterator[str]:
    if not profile.gpus:
        for key, device in devices.items():
            if device.startswith("cuda"):
                yield (
                    f"{stage}: {key} is {device!r}, but profile {profile.name!r} has no GPU; "
                    f"set scale.profiles.{stage} to one that has, or {key}=cpu"
                )
    elif not devices:
        yield (
            f"{stage} computes on no GPU, but profile {profile.name!r} has {profile.gpus}; "
            f"set scale.profiles.{stage} to one without"
        )
    elif not any(device == "auto" or device.startswith("cuda") for device in devices.values()):
        yield (
            f"{stage}: profile {profile.name!r} has {profile.gpus} GPUs, but "
            f"{' and '.join(f'{key} is {device!r}' for key, device in devices.items())}; set it to cuda, "
            f"or scale.profiles.{stage} to a profile without GPUs"
        )


def _nearest(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)
    return f"; did you mean {near[0]!r}? (known: {', '.join(known)})" if near else ""


class _UniqueKeys(yaml.SafeLoader):
    """YAML silently lets the second of two equal keys win; here that is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} occurs twice", node.start_mark)
        return super().construct_mapping(node, deep)

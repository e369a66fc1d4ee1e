"""What a study varies: groups of rows, each a few keys of fine-tuning set on top of one configuration.

Knows how rows are written down and which training runs they amount to; equal runs of several groups are one. Does not
know how a run is made or measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from artiagent.config import Config, EvaluationSection, InstructionSection, Section, SftSection, transport
from artiagent.run_config import ConfigError, parse_config, read_varied, validated, vary

VARIED = ("instruction", "sft")  # everything else the rows share
NAME = r"^[a-z0-9][a-z0-9-]*$"  # enters names of MLflow runs and of files
LEAST_SIZES = 4  # of a curve with three parameters

Task = Literal["detection", "localization", "explanation"]
Faults = Literal["injected", "drawn"]


class RenderedScenes(Section):
    """Scenes that the renderer draws for the study; the seeds follow one another."""

    count: int = Field(default=600, ge=1)
    first_seed: int = Field(default=0, ge=0)


class DrawnPairs(Section):
    """Pairs whose faults the renderer draws."""

    count: int = Field(ge=1)


class StudyRow(Section):
    """One way to fine-tune."""

    name: str = Field(pattern=NAME)
    set: dict[str, Any] = Field(default_factory=dict)  # dotted key -> value, as in --set
    faults: Faults = "injected"  # drawn: pairs whose faults the renderer drew, the oracle
    note: str = ""  # for the reader of the report


class StudyGroup(Section):
    """Rows that answer one question."""

    name: str = Field(pattern=NAME)
    title: str = Field(min_length=1)
    note: str = ""
    reference: str  # the row that the others are compared with
    set: dict[str, Any] = Field(default_factory=dict)  # what all rows of the group set
    rows: tuple[StudyRow, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = ()  # (): the study's
    tasks: tuple[Task, ...] = ("detection",)  # detection alone needs no generation
    curve: bool = False  # the rows differ in instruction.pairs, and a curve is fitted over it

    @model_validator(mode="after")
    def _consistent(self) -> StudyGroup:
        names = [row.name for row in self.rows]
        twice = [name for name, n in Counter(names).items() if n > 1]
        if twice:
            raise ValueError(f"group {self.name!r}: two rows are called {twice[0]!r}")
        if self.reference not in names:
            raise ValueError(f"group {self.name!r}: the reference {self.reference!r} is not among its rows")
        if self.curve and len(self.rows) < LEAST_SIZES:
            raise ValueError(f"group {self.name!r}: a curve needs {LEAST_SIZES} rows or more, got {len(self.rows)}")
        return self


class StudySection(Section):
    """The groups, and how their figures are resampled."""

    scenes: RenderedScenes | None = None  # None: the source images are those of inputs.sets
    groups: tuple[StudyGroup, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(default=(0, 1), min_length=1)
    resamples: int = Field(default=2000, ge=100)  # of the benchmark's images and of the seeds
    doublings: int = Field(default=2, ge=0)  # beyond the largest size, to which a curve is continued
    workers: int = transport(2, ge=1)  # runs side by side; sft.threads is the number of threads of each

    @model_validator(mode="after")
    def _distinct(self) -> StudySection:
        twice = [name for name, n in Counter(group.name for group in self.groups).items() if n > 1]
        if twice:
            raise ValueError(f"two groups are called {twice[0]!r}")
        return self


class RunSpec(Section):
    """One training run and what is asked of its model; the seed stands in ``sft``."""

    data: str  # name of a set of pairs
    instruction: InstructionSection
    sft: SftSection
    tasks: tuple[Task, ...]

    def trained_as(self) -> str:
        """Equal for runs that train the same model."""
        return self.model_copy(update={"tasks": ()}).digest()


class RunsSection(Section):
    """All runs of a study in the order in which they are made: what the caching of the training depends on."""

    runs: tuple[RunSpec, ...]
    evaluation: EvaluationSection
    workers: int = transport(2, ge=1)

    @property
    def drawn(self) -> DrawnPairs | None:
        """As many drawn pairs as the largest row wants; None where no row asks for them."""
        counts = [run.instruction.pairs for run in self.runs if run.data == "drawn" and run.instruction.pairs]
        return DrawnPairs(count=max(counts)) if counts else None


@dataclass(frozen=True)
class Study:
    """``tree`` is the configuration as written, that is, without defaults."""

    tree: dict[str, Any]
    section: StudySection
    origin: str = "study"

    def shared(self) -> Config:
        """The configuration without any row."""
        return parse_config(self.tree, self.origin)

    def plan(self) -> tuple[RunsSection, dict[str, dict[str, list[int]]]]:
        """The runs, and group -> row -> places of its runs among them, one for each seed.

        Raises ConfigError naming group, row and key for what is unknown, invalid, or shared by all rows.
        """
        shared = self.shared()
        if self.section.scenes is None and not shared.inputs.sets:
            raise ConfigError(f"{self.origin}: no images: give study.scenes (rendered), or inputs.sets")
        specs: dict[str, RunSpec] = {}
        wanted: dict[str, dict[str, list[str]]] = {}
        for group in self.section.groups:
            configs = {row.name: self._config(group, row, shared) for row in group.rows}
            _check_curve(group, configs, self.origin)
            wanted[group.name] = {row.name: [] for row in group.rows}
            for seed in group.seeds or self.section.seeds:
                for row in group.rows:
                    spec = _spec(configs[row.name], group, row, seed)
                    known = specs.setdefault(spec.trained_as(), spec)
                    specs[spec.trained_as()] = known.model_copy(update={"tasks": _union(known.tasks, spec.tasks)})
                    wanted[group.name][row.name].append(spec.trained_as())
        places = {key: place for place, key in enumerate(specs)}
        found = {g: {row: [places[key] for key in keys] for row, keys in rows.items()} for g, rows in wanted.items()}
        runs = RunsSection(runs=tuple(specs.values()), evaluation=shared.evaluation, workers=self.section.workers)
        return runs, found

    def _config(self, group: StudyGroup, row: StudyRow, shared: Config) -> Config:
        origin = f"{self.origin}: group {group.name!r}, row {row.name!r}"
        config = vary(self.tree, {**group.set, **row.set}, origin, shared, VARIED)
        if config.instruction.pairs is None:
            raise ConfigError(f"{origin}: instruction.pairs is null; give a number, so that rows train on equally many")
        return config


def _check_curve(group: StudyGroup, configs: Mapping[str, Config], origin: str) -> None:
    sizes = [config.instruction.pairs for config in configs.values()]
    if group.curve and sizes != sorted(set(sizes)):
        raise ConfigError(f"{origin}: group {group.name!r}: instruction.pairs of its rows is {sizes}, expected to rise")


def _spec(config: Config, group: StudyGroup, row: StudyRow, seed: int) -> RunSpec:
    sft = config.sft.model_copy(update={"seed": seed})
    return RunSpec(data=row.faults, instruction=config.instruction, sft=sft, tasks=group.tasks)


def _union(first: tuple[Task, ...], second: tuple[Task, ...]) -> tuple[Task, ...]:
    every: tuple[Task, ...] = ("detection", "localization", "explanation")
    return tuple(task for task in every if task in first or task in second)


def load_study(path: Path | str, overrides: Sequence[str] = (), groups: Sequence[str] = ()) -> Study:
    """Read ``parameters.config`` and ``parameters.study`` of a run configuration and check every row.

    Args:
        path: YAML file.
        overrides: ``section.key=value``, for the configuration or, as ``study.key=value``, for the study.
        groups: names of the groups to keep; all when empty.

    Raises ConfigError naming file, group, row and key.
    """
    tree, written = read_varied(path, "study", "groups", overrides)
    section = validated(StudySection, written, f"{path}: study")
    names = [group.name for group in section.groups]
    if unknown := sorted(set(groups) - set(names)):
        raise ConfigError(f"--groups {unknown[0]!r}: no such group in {path} (known: {', '.join(names)})")
    kept = tuple(group for group in section.groups if not groups or group.name in groups)
    found = Study(tree, section.model_copy(update={"groups": kept}), str(path))
    found.plan()
    return found

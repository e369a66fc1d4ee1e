"""What an ablation varies: rows, each a few keys set on top of one configuration.

Knows how rows are written down and become configurations. Does not know how a row is run or measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from artiagent.config import Config, Section
from artiagent.run_config import ConfigError, parse_config, read_varied, validated, vary

VARIED = ("preset", "planning", "synthesis", "curation", "instruction", "sft")  # everything else the rows share


class AblationRow(Section):
    """One variant: what it sets, and whether it ends with a detection score (minutes instead of seconds)."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")  # enters the ids of steps and runs
    group: str = Field(min_length=1)  # rows of a group are shown together, beside the reference
    set: dict[str, Any] = Field(default_factory=dict)  # dotted key -> value, as in --set
    detect: bool = False
    note: str = ""  # for the reader of the report


class ReconstructionSection(Section):
    """Solver and number of steps against the error of inversion and replay."""

    sources: int = Field(default=24, ge=1)  # the first so many scored ones
    solvers: tuple[Literal["euler", "rf_solver", "fireflow"], ...] = ("euler", "rf_solver", "fireflow")
    steps: tuple[int, ...] = (4, 6, 10, 15, 25)


class AblationSection(Section):
    """The rows, and the one that all others are compared with."""

    reference: str
    rows: tuple[AblationRow, ...] = Field(min_length=1)
    reconstruction: ReconstructionSection = ReconstructionSection()
    resamples: int = Field(default=2000, ge=100)  # bootstrap of sources, or of the benchmark's images
    gallery: int = Field(default=2, ge=0)  # jobs per tool that the report shows in every row

    @model_validator(mode="after")
    def _consistent(self) -> AblationSection:
        twice = [name for name, n in Counter(row.name for row in self.rows).items() if n > 1]
        if twice:
            raise ValueError(f"two rows are called {twice[0]!r}")
        if self.reference not in self.names:
            raise ValueError(f"the reference {self.reference!r} is not among the rows")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(row.name for row in self.rows)


@dataclass(frozen=True)
class Ablation:
    """``tree`` is the configuration as written, that is, without defaults: presets fill in what rows leave out."""

    tree: dict[str, Any]
    section: AblationSection
    origin: str = "ablation"

    def shared(self) -> Config:
        """The configuration without any row."""
        return parse_config(self.tree, self.origin)

    def configs(self) -> dict[str, Config]:
        """The configuration of every row by its name.

        Raises ConfigError naming row and key for what is unknown, invalid, or shared by all rows.
        """
        shared = self.shared()
        return {row.name: self._config(row, shared) for row in self.section.rows}

    def _config(self, row: AblationRow, shared: Config) -> Config:
        return vary(self.tree, row.set, f"{self.origin}: row {row.name!r}", shared, VARIED)


def load_ablation(
    path: Path | str, overrides: Sequence[str] = (), rows: Sequence[str] = (), *, detect: bool = True
) -> Ablation:
    """Read ``parameters.config`` and ``parameters.ablation`` of a run configuration and check every row.

    Args:
        path: YAML file.
        overrides: ``section.key=value``, for the configuration or, as ``ablation.key=value``, for the ablation.
        rows: names of the rows to keep, besides the reference; all when empty.
        detect: False leaves out the detection scores of all rows.

    Raises ConfigError naming file, row and key.
    """
    tree, written = read_varied(path, "ablation", "rows", overrides)
    section = validated(AblationSection, written, f"{path}: ablation")
    if unknown := sorted(set(rows) - set(section.names)):
        raise ConfigError(f"--rows {unknown[0]!r}: no such row in {path} (known: {', '.join(section.names)})")
    kept = [row for row in section.rows if not rows or row.name in {*rows, section.reference}]
    chosen = tuple(row.model_copy(update={"detect": row.detect and detect}) for row in kept)
    found = Ablation(tree, section.model_copy(update={"rows": chosen}), str(path))
    found.configs()
    return found

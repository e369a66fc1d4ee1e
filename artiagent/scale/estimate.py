"""A number, how far it may be off, and where it comes from. Nothing in a plan is a bare number.

Knows the kinds of provenance and how an uncertain number is drawn. Does not know what it is a number of.
"""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from artiagent.config import Section

# measured: by a command that is named. run: of a finished run. counted: by arithmetic that is named, e.g. operations.
# assumed: nobody measured it; ``source`` says why this much.
Basis = Literal["measured", "run", "counted", "assumed"]


class Estimate(Section):
    """``low`` and ``high`` bound it; where both are left out it is certain."""

    value: float = Field(ge=0)
    low: float = Field(default=-1, ge=-1)
    high: float = Field(default=-1, ge=-1)
    basis: Basis = "assumed"
    source: str = Field(min_length=3)

    @model_validator(mode="before")
    @classmethod
    def _bounded(cls, given: dict) -> dict:
        if isinstance(given, dict) and "value" in given:
            return {"low": given["value"], "high": given["value"], **given}
        return given

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"expected low <= value <= high, got {self.low}, {self.value}, {self.high}")
        return self

    @property
    def certain(self) -> bool:
        return self.low == self.high

    def draw(self, rng: np.random.Generator, runs: int) -> np.ndarray:
        """A value for every run, triangular between the bounds with the mode at ``value``; float64 [runs]."""
        if self.certain:
            return np.full(runs, self.value)
        return rng.triangular(self.low, self.value, self.high, runs)

    def over(self, other: Estimate, source: str) -> Estimate:
        """The quotient, its bounds the worst cases, as weak as the weaker of both."""
        weaker = "assumed" if "assumed" in (self.basis, other.basis) else self.basis
        return Estimate(
            value=self.value / other.value, low=self.low / other.high, high=self.high / other.low, basis=weaker,
            source=source,
        )  # fmt: skip

    def __str__(self) -> str:
        return f"{self.value:.3g}" if self.certain else f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"

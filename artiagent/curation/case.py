"""A pair on its way through curation: its record, its pixels and what was asked about it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from artiagent.records import AgentCall, Pair


@dataclass(frozen=True)
class Case:
    """A pair with its pixels, uint8 [H, W, 3]; `image` changes when artifacts are undone. ``calls`` grow."""

    pair: Pair
    clean: np.ndarray
    image: np.ndarray
    calls: tuple[AgentCall, ...] = ()

    def with_pair(self, **changes: Any) -> Case:
        """The case with fields of its record replaced."""
        return replace(self, pair=self.pair.model_copy(update=changes))

    def stamped(self) -> Case:
        """The case whose record names the prompts and models of its calls."""
        used = {call.task: call.stamp for call in self.calls}
        return self.with_pair(agents={**self.pair.agents, **used}) if used else self

"""Where the stages run and in how many pieces."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from artiagent.config.section import Section, transport

Sharded = Literal["perceive", "synthesize", "curate", "evaluate_base", "evaluate_tuned"]


class ScaleSection(Section):
    """Never what a stage makes, so nothing here enters a cache key, and no result depends on it."""

    # Stage -> profile of infra/profiles.yaml; "default" is for stages that are not named, without it: cpu.
    profiles: dict[str, str] = transport(default_factory=dict)
    # Stage -> pieces that are made side by side and merged; the others are made in one.
    shards: dict[Sharded, Annotated[int, Field(ge=1)]] = transport(default_factory=dict)
    retries: int = transport(0, ge=0)  # of a stage or piece that failed or was preempted, by itself

"""Scenes -> the seeded global plan of all jobs."""

from __future__ import annotations

from typing import Annotated

from artiagent.config import PlanningSection
from artiagent.records import DatasetRef
from steps.stage import cached_step, out_dir


def run(section: PlanningSection, scenes: DatasetRef, patch: int) -> Annotated[DatasetRef, "jobs"]:
    from artiagent.synthesis.planner import plan

    return plan(section, scenes, patch, out_dir(f"jobs-{patch}", __name__, section, scenes))


plan = cached_step(run)

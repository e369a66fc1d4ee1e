"""Input sets -> scenes with entities, parts and masks."""

from __future__ import annotations

from typing import Annotated

from artiagent.config import PerceptionSection
from artiagent.inputs import read_sets
from artiagent.records import CheckpointRef, DatasetRef
from steps.stage import cached_step, out_dir


def run(section: PerceptionSection, inputs: DatasetRef, vlm: CheckpointRef) -> Annotated[DatasetRef, "scenes"]:
    from artiagent.perception.stage import perceive

    return perceive(section, read_sets(inputs), out_dir("scenes", __name__, section, inputs, vlm), vlm)


perceive = cached_step(run)

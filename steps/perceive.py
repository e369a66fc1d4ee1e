"""Input sets -> scenes with entities, parts and masks, in one piece or in shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from artiagent.config import PerceptionSection
from artiagent.inputs import read_sets
from artiagent.records import CheckpointRef, DatasetRef
from artiagent.shards import Shard
from steps.stage import cached_step, out_dir


def run(section: PerceptionSection, inputs: DatasetRef, vlm: CheckpointRef) -> Annotated[DatasetRef, "scenes"]:
    return _perceive(section, inputs, vlm, None)


def run_shard(
    section: PerceptionSection, inputs: DatasetRef, vlm: CheckpointRef, shard: str
) -> Annotated[DatasetRef, "part"]:
    return _perceive(section, inputs, vlm, Shard.parse(shard))


def _perceive(section: PerceptionSection, inputs: DatasetRef, vlm: CheckpointRef, shard: Shard | None) -> DatasetRef:
    from artiagent.perception.stage import perceive

    out = out_dir("scenes", __name__, section, inputs, vlm)
    return perceive(section, read_sets(inputs), out, vlm, shard, listed=Path(inputs.uri))


perceive = cached_step(run)
perceive_shard = cached_step(run_shard, name="perceive_shard")

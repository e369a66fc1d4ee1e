"""Curated pairs -> a reward head on a frozen CLIP image encoder."""

from __future__ import annotations

from typing import Annotated

from artiagent.config import RewardSection
from artiagent.records import CheckpointRef, DatasetRef
from steps.stage import cached_step, out_dir


def run(
    section: RewardSection, curated: DatasetRef, clip: CheckpointRef, benchmarks: DatasetRef
) -> Annotated[CheckpointRef, "reward"]:
    from artiagent.inputs import read_benchmarks
    from artiagent.learning.reward import train_reward

    out = out_dir("reward", __name__, section, curated, clip, benchmarks)
    return train_reward(section, curated, clip, out, read_benchmarks(benchmarks)[0])


train_reward = cached_step(run)

"""Curated pairs -> verifiers of images, on the vision tower of the encoder that the section names."""

from __future__ import annotations

from typing import Annotated

from artiagent.config import RewardSection
from artiagent.records import CheckpointRef, DatasetRef
from steps.stage import cached_step, out_dir


def run(
    section: RewardSection, curated: DatasetRef, encoder: CheckpointRef, benchmarks: DatasetRef
) -> Annotated[CheckpointRef, "reward"]:
    from artiagent.inputs import read_benchmarks
    from artiagent.learning.reward import train_reward

    out = out_dir("reward", __name__, section, curated, encoder, benchmarks)
    return train_reward(section, curated, encoder, out, read_benchmarks(benchmarks))


train_reward = cached_step(run)

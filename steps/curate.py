"""Pairs -> the same pairs with verdicts, labels, explanations and captions, in one piece or in shards."""

from __future__ import annotations

from typing import Annotated

from artiagent.config import CurationSection
from artiagent.records import CheckpointRef, DatasetRef
from artiagent.shards import Shard
from steps.stage import cached_step, out_dir


def run(
    section: CurationSection, pairs: DatasetRef, scenes: DatasetRef, judge: CheckpointRef
) -> Annotated[DatasetRef, "curated"]:
    return _curate(section, pairs, scenes, judge, None)


def run_shard(
    section: CurationSection, pairs: DatasetRef, scenes: DatasetRef, judge: CheckpointRef, shard: str
) -> Annotated[DatasetRef, "part"]:
    return _curate(section, pairs, scenes, judge, Shard.parse(shard))


def _curate(
    section: CurationSection, pairs: DatasetRef, scenes: DatasetRef, judge: CheckpointRef, shard: Shard | None
) -> DatasetRef:
    from artiagent.curation.stage import curate

    out = out_dir("curated", __name__, section, pairs, scenes, judge)
    return curate(section, pairs, scenes, judge, out, shard)


curate = cached_step(run)
curate_shard = cached_step(run_shard, name="curate_shard")

"""Jobs -> pairs of clean twin and artifact image, in one piece or in shards.

Shards that tried a source and failed are believed: joining them needs no model.
"""

from __future__ import annotations

from typing import Annotated

from artiagent.config import SynthesisSection
from artiagent.records import CheckpointRef, DatasetRef
from artiagent.shards import Shard
from artiagent.store import has_parts
from steps.stage import cached_step, out_dir


def run(
    section: SynthesisSection, scenes: DatasetRef, jobs: DatasetRef, generator: CheckpointRef
) -> Annotated[DatasetRef, "pairs"]:
    from artiagent.synthesis.stage import synthesize

    out = out_dir("pairs", __name__, section, scenes, jobs, generator)
    return synthesize(section, scenes, jobs, generator, out, retry_failed=not has_parts(out))


def run_shard(
    section: SynthesisSection, scenes: DatasetRef, jobs: DatasetRef, generator: CheckpointRef, shard: str
) -> Annotated[DatasetRef, "part"]:
    from artiagent.synthesis.stage import synthesize

    out = out_dir("pairs", __name__, section, scenes, jobs, generator)
    return synthesize(section, scenes, jobs, generator, out, Shard.parse(shard))


synthesize = cached_step(run)
synthesize_shard = cached_step(run_shard, name="synthesize_shard")

"""Jobs -> pairs of clean twin and artifact image."""

from __future__ import annotations

from typing import Annotated

from artiagent.config import SynthesisSection
from artiagent.records import CheckpointRef, DatasetRef
from steps.stage import cached_step, out_dir


def run(
    section: SynthesisSection, scenes: DatasetRef, jobs: DatasetRef, generator: CheckpointRef
) -> Annotated[DatasetRef, "pairs"]:
    from artiagent.synthesis.stage import synthesize

    out = out_dir("pairs", __name__, section, scenes, jobs, generator)
    return synthesize(section, scenes, jobs, generator, out)


synthesize = cached_step(run)

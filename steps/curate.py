"""Pairs -> the same pairs with verdicts, labels, explanations and captions."""

from __future__ import annotations

from typing import Annotated

from artiagent.config import CurationSection
from artiagent.records import CheckpointRef, DatasetRef
from steps.stage import cached_step, out_dir


def run(
    section: CurationSection, pairs: DatasetRef, scenes: DatasetRef, judge: CheckpointRef
) -> Annotated[DatasetRef, "curated"]:
    from artiagent.curation.stage import curate

    return curate(section, pairs, scenes, judge, out_dir("curated", __name__, section, pairs, scenes, judge))


curate = cached_step(run)

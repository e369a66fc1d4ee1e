"""Prompts -> searched pictures, judged by those who did not steer the search."""

from __future__ import annotations

from typing import Annotated

from artiagent.config import EvaluationSection, SearchSection
from artiagent.records import CheckpointRef, DatasetRef, stable_hash
from steps.stage import cached_step, out_dir


def run(
    section: SearchSection,
    evaluation: EvaluationSection,
    prompts: list[str],
    generator: CheckpointRef,
    reward: CheckpointRef,
    clip: CheckpointRef,
    vlm: CheckpointRef,
    parser: CheckpointRef | None,
) -> Annotated[DatasetRef, "search"]:
    from artiagent.mitigation.search.stage import search

    weights = [ref for ref in (generator, reward, clip, vlm, parser) if ref is not None]
    out = out_dir("search", __name__, section, evaluation, *weights, stable_hash(*prompts))
    return search(section, evaluation, prompts, generator, reward, clip, vlm, parser, out)


search = cached_step(run)

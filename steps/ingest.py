"""Inputs -> references. Runs again when the content of an input changed, not when a file was touched."""

from __future__ import annotations

from typing import Annotated

from artiagent.config import InputsSection
from artiagent.inputs import resolve_inputs
from artiagent.records import CheckpointRef, DatasetRef
from artiagent.store import dataset_dir
from steps.stage import cached_step


def run(
    section: InputsSection, digests: dict[str, str]
) -> tuple[
    Annotated[DatasetRef, "inputs"],
    Annotated[CheckpointRef, "generator"],
    Annotated[CheckpointRef, "vlm"],
    Annotated[CheckpointRef, "clip"],
    Annotated[DatasetRef, "benchmarks"],
]:
    out = dataset_dir("inputs", section.digest(), *(f"{name}={digest}" for name, digest in sorted(digests.items())))
    found = resolve_inputs(section, digests, out)
    return found.sets, found.generator, found.vlm, found.clip, found.benchmarks


ingest = cached_step(run)

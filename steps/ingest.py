"""Inputs -> references. Runs again when the content of an input changed, not when a file was touched."""

from __future__ import annotations

from typing import Annotated

from artiagent.config import InputsSection
from artiagent.inputs import read_sets, resolve_inputs
from artiagent.perception.inventory import inventory_of
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
    inventory_of(read_sets(found.sets), out)  # every shard of perception, wherever it runs, finds it with the inputs
    return found.sets, found.generator, found.vlm, found.clip, found.benchmarks


ingest = cached_step(run)

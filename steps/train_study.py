"""Pairs -> every run of a study: fine-tuned models and their answers on the primary benchmark."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

from artiagent.lineage import stage_digest
from artiagent.records import CheckpointRef, DatasetRef
from artiagent.store import dataset_dir
from artiagent.studies.rows import RunsSection
from steps.stage import cached_step, out_dir, source_root


def run(
    section: RunsSection,
    base: CheckpointRef,
    benchmarks: DatasetRef,
    curated: DatasetRef,
    scenes: DatasetRef,
    drawn: DatasetRef | None,
    drawn_scenes: DatasetRef | None,
) -> Annotated[DatasetRef, "study"]:
    """What a run makes is named by its own inputs and code: another study, or this one again, finds what it shares."""
    from artiagent.inputs import read_benchmarks
    from artiagent.studies.runs import PairSet, run_all

    sets = {"injected": PairSet(curated, scenes)}
    if drawn is not None and drawn_scenes is not None:
        sets["drawn"] = PairSet(drawn, drawn_scenes)
    inputs = [ref for ref in (base, benchmarks, curated, scenes, drawn, drawn_scenes) if ref is not None]
    out = out_dir("study", __name__, section, *inputs)
    code = stage_digest(__name__, source_root())
    return run_all(section, sets, base, read_benchmarks(benchmarks)[0], partial(_place, code), out)


def _place(code: str, kind: str, *what: str) -> Path:
    return dataset_dir(f"study-{kind}", code, *what)


train_study = cached_step(run)

"""What the runs of a study leave behind: references, counts and curves, in a file that is read without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from artiagent import exchange
from artiagent.records import CheckpointRef, DatasetRef, Record

INDEX = "runs.json"


class StudyRun(Record):
    """A finished run."""

    pairs: int  # trained on
    sources: int  # that the pairs come from
    conversations: DatasetRef
    model: CheckpointRef
    predictions: DatasetRef
    curve: tuple[dict[str, Any], ...]  # of the training, as `learning.sft` writes it
    seconds: float | None  # of training and answering, as the machine was loaded; None of a run that was resumed


class StudyRuns(Record):
    """All runs in the order of `RunsSection.runs`, and the base model's answers."""

    base: DatasetRef
    runs: tuple[StudyRun, ...]


def read_runs(study: DatasetRef) -> StudyRuns:
    """What lies behind a reference made by `artiagent.studies.runs.run_all`, the answers brought to this machine."""
    found = StudyRuns.model_validate_json((Path(study.uri) / INDEX).read_text())
    runs = (run.model_copy(update={"predictions": exchange.fetch(run.predictions)}) for run in found.runs)
    return found.model_copy(update={"base": exchange.fetch(found.base), "runs": tuple(runs)})

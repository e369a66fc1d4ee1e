"""Finished evaluations on disk: where ``artiagent evaluate`` leaves them, and whom they are about.

Knows folders and two files: ``evaluation.json`` (an EvaluationReport, the primary benchmark's with the ``further``
ones) and ``model.json`` (an EvaluatedModel). An evaluation is finished when both are there. Does not know how scores
come about, and imports no model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from artiagent.records import EvaluationReport, Record
from artiagent.store import home, write_atomic

KIND = "evaluate"  # of store.dataset_dir: <home>/store/evaluate/<20 hex digits>/
REPORT = "evaluation.json"
MODEL = "model.json"


class EvaluatedModel(Record):
    """Whose predictions a report is about: one model, beside trivial baselines.

    ``name`` is its key in the report's ``scores``. ``location`` is where it was taken from: a folder, hub id or
    ``models:/`` uri, a server's address without user or query, or the file of predictions.
    """

    name: str
    kind: Literal["folder", "hub", "registry", "server", "files"]
    location: str
    sha256: str  # of the weights; of a server the hash of its identity, of files that of their content
    prompts: Literal["trained", "defined", "files"]
    date: str  # ISO 8601, UTC, when the scores were written
    data_digest: str = ""  # of the conversations that the model was fine-tuned on, where its folder says


def evaluations() -> list[Path]:
    """Folders with a finished evaluation below the project's home, newest first; ``--out`` folders are not among
    them."""
    reports = (home() / "store" / KIND).glob(f"*/{REPORT}")
    finished = [(path.stat().st_mtime_ns, path.parent) for path in reports if (path.parent / MODEL).is_file()]
    return [folder for _, folder in sorted(finished, reverse=True)]


def read_evaluation(folder: Path) -> tuple[EvaluatedModel, EvaluationReport]:
    """Both files of a finished evaluation. Raises ValueError naming the file that is missing or cannot be read."""
    read: list[Record] = []
    for name, record in ((MODEL, EvaluatedModel), (REPORT, EvaluationReport)):
        path = folder / name
        try:
            read.append(record.model_validate_json(path.read_bytes()))
        except (OSError, ValidationError) as error:
            raise ValueError(
                f"{path}: no readable {record.__name__} ({error}); run 'artiagent evaluate' again"
            ) from error
    return read[0], read[1]


def write_model(folder: Path, model: EvaluatedModel) -> None:
    """The second of the two files, written when the report is there: from then on the evaluation is finished."""
    write_atomic(folder / MODEL, model.model_dump_json(indent=1).encode())

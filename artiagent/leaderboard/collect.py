"""Where scores come from: evaluations of single models and the reports of pipeline runs, as they lie on disk.

Knows folders and files. Does not rank, group or compare anything.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from artiagent.checkpoints import model_name
from artiagent.config import BenchmarkSet
from artiagent.evaluation.benchmarks import BenchmarkItem, benchmark_sha256, read_truth
from artiagent.evaluation.found import evaluations, read_evaluation
from artiagent.records import EvaluationReport, Prediction
from artiagent.store import MANIFEST, StoreError, home, read_rows, runs_dir

PREDICTIONS = "predictions"  # beside an evaluation's report
STAGES = {"base": "evaluate_base", "tuned": "evaluate_tuned"}  # a run's model -> the stage of its predictions


@dataclass(frozen=True)
class Source:
    """One file of scores: a report with its further ones, and what is known of its models.

    ``names``: key of a model in the report -> name to show. ``base``: key of the model that the others are compared
    with, "" for none. ``predictions``: key -> folder with that model's predictions, where it lies here.
    """

    origin: str
    report: EvaluationReport
    names: dict[str, str]
    base: str = ""
    predictions: dict[str, Path] = field(default_factory=dict)
    benchmarks: tuple[BenchmarkSet, ...] = ()

    def reports(self) -> tuple[EvaluationReport, ...]:
        return (self.report, *self.report.further)


def collect(folders: Sequence[Path] | None = None, runs: Path | None = None) -> tuple[list[Source], list[str]]:
    """All finished evaluations and runs, newest first, and a line for each that cannot be read.

    Args:
        folders: of evaluations; None: those that ``artiagent evaluate`` left in the store.
        runs: folder of the pipeline's runs.
    """
    found: list[Source] = []
    notes: list[str] = []
    for read, places in (
        (_evaluated, evaluations() if folders is None else folders),
        (_ran, _summaries(runs or runs_dir())),
    ):
        for place in places:
            try:
                found.append(read(place))
            except (OSError, ValueError) as error:
                notes.append(f"left out: {_first_line(error)}")
    return found, notes


class Truths:
    """Ground truth of benchmarks by revision, as far as their files lie here; read once.

    Args:
        known: benchmarks of the configuration and of the runs' own configurations.
    """

    def __init__(self, known: Iterable[BenchmarkSet]) -> None:
        self._known = list({item.model_dump_json(): item for item in known}.values())
        self._items: dict[tuple[str, int], list[BenchmarkItem]] = {}

    @cached_property
    def _by_revision(self) -> dict[str, BenchmarkSet]:
        found: dict[str, BenchmarkSet] = {}
        for benchmark in self._known:
            try:
                found.setdefault(benchmark_sha256(benchmark), benchmark)
            except (OSError, ValueError):
                continue  # of another machine, or gone
        return found

    def find(self, sha256: str) -> BenchmarkSet | None:
        """The benchmark whose files have this revision."""
        return self._by_revision.get(sha256)

    def items(self, sha256: str, n: int) -> list[BenchmarkItem] | None:
        """Its first ``n`` items, without images; None when the files are not here."""
        if (benchmark := self.find(sha256)) is None:
            return None
        if (sha256, n) not in self._items:
            self._items[sha256, n] = read_truth(benchmark, n)
        return self._items[sha256, n]


def read_predictions(
    folder: Path, benchmark: str, items: Sequence[BenchmarkItem], model_sha256: str, prompt_hash: str
) -> list[Prediction] | None:
    """A model's answers in the order of ``items``; None unless all are there and stamped as the report says."""
    try:
        rows = {
            row.record.item_id: row.record for row in read_rows(folder, Prediction) if row.record.benchmark == benchmark
        }
    except (StoreError, OSError, ValidationError):
        return None
    stamped = all((row.model_sha256, row.prompt_hash) == (model_sha256, prompt_hash) for row in rows.values())
    if not stamped or any(item.item_id not in rows for item in items):
        return None
    return [rows[item.item_id] for item in items]


def _evaluated(folder: Path) -> Source:
    model, report = read_evaluation(folder)
    if model.name not in report.models:
        raise ValueError(
            f"{folder}: is about {model.name!r}, its report about {', '.join(report.models)}; evaluate again"
        )
    return Source(
        origin=f"evaluate {folder.name[:8]}",
        report=report,
        names={key: key for key in report.models},
        predictions={model.name: folder / PREDICTIONS} if (folder / PREDICTIONS).is_dir() else {},
    )


def _summaries(runs: Path) -> list[Path]:
    files = [path for path in runs.glob("*/summary.json") if path.is_file()]
    return sorted(files, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _ran(path: Path) -> Source:
    """A run's summary. Raises ValueError naming the file when it holds no scores."""
    try:
        summary = json.loads(path.read_bytes())
        report = EvaluationReport.model_validate(summary["evaluation"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: no readable scores of a run ({_first_line(error)}); run it again") from error
    run = path.parent.name
    inputs = summary.get("config", {}).get("inputs", {})
    names = {key: f"{run} {key}" for key in report.models}
    if "base" in names and inputs.get("vlm"):
        names["base"] = model_name(inputs["vlm"])
    return Source(
        origin=f"run {run}",
        report=report,
        names=names,
        base="base" if "base" in report.models else "",
        predictions=dict(_predictions(summary, report)),
        benchmarks=tuple(_benchmarks(inputs)),
    )


def _benchmarks(inputs: dict[str, Any]) -> Iterator[BenchmarkSet]:
    for stated in inputs.get("benchmarks", ()):
        try:
            yield BenchmarkSet.model_validate(stated)
        except ValidationError:
            continue  # of another version of the project; its scores still stand


def _predictions(summary: dict[str, Any], report: EvaluationReport) -> Iterator[tuple[str, Path]]:
    digests = summary.get("digests", {})
    for key, stage in STAGES.items():
        if key in report.models and stage in digests:
            for manifest in (home() / "store").glob(f"{PREDICTIONS}*/*/{MANIFEST}"):
                if json.loads(manifest.read_bytes())["ref"]["digest"] == digests[stage]:
                    yield key, manifest.parent
                    break


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]

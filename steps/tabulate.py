"""Outputs of all rows of an ablation -> ``runs/<name>``: table, charts, report; and MLflow, a run for every row."""

from __future__ import annotations

import platform

from artiagent.ablation.rows import AblationSection
from artiagent.config import EvaluationSection
from artiagent.lineage import git_revision
from artiagent.records import DatasetRef
from artiagent.store import runs_dir
from steps.stage import effect_step, run_name, source_root


def run(
    section: AblationSection,
    evaluation: EvaluationSection,
    profile: str,
    places: dict[str, dict[str, int]],
    jobs: list[DatasetRef],
    pairs: list[DatasetRef],
    curated: list[DatasetRef],
    conversations: list[DatasetRef],
    predictions: list[DatasetRef],
    base: DatasetRef | None,
    benchmarks: DatasetRef,
    reconstructions: DatasetRef,
) -> None:
    """``places`` says for every row where in each list its output lies: rows share what is equal."""
    from artiagent.ablation.metrics import RowData, tabulate
    from artiagent.inputs import read_benchmarks
    from artiagent.report.ablation import write_ablation
    from steps.tracking import connect, log_ablation

    lists = {
        "jobs": jobs, "pairs": pairs, "curated": curated, "conversations": conversations, "predictions": predictions
    }  # fmt: skip
    rows = [
        RowData(row, **{kind: refs[places[row.name][kind]] for kind, refs in lists.items() if kind in places[row.name]})
        for row in section.rows
    ]
    name = run_name()
    provenance = {"revision": git_revision(source_root()), "python": platform.python_version()}
    table = tabulate(name, section, rows, base, read_benchmarks(benchmarks)[0], evaluation, reconstructions, provenance)
    write_ablation(runs_dir() / name, table, rows, section.gallery)
    log_ablation(connect(), profile, table, runs_dir() / name)


tabulate = effect_step(run)

"""Runs of a study -> ``runs/<name>``: table, charts, report; and MLflow, a run for every model."""

from __future__ import annotations

import platform

from artiagent.lineage import git_revision
from artiagent.records import DatasetRef
from artiagent.store import runs_dir
from artiagent.studies.rows import RunsSection, StudySection
from steps.stage import effect_step, run_name, source_root


def run(
    section: StudySection,
    planned: RunsSection,
    profile: str,
    places: dict[str, dict[str, list[int]]],
    study: DatasetRef,
    benchmarks: DatasetRef,
) -> None:
    """``places`` says for every row of every group where among the ``planned`` runs its own lie, one for each seed."""
    from artiagent.inputs import read_benchmarks
    from artiagent.report.study import write_study
    from artiagent.studies.records import read_runs
    from artiagent.studies.scores import tabulate
    from steps.tracking import connect, log_study

    name, runs = run_name(), read_runs(study)
    provenance = {"revision": git_revision(source_root()), "python": platform.python_version()}
    table = tabulate(name, section, planned.evaluation, places, runs, read_benchmarks(benchmarks)[0], provenance)
    write_study(runs_dir() / name, table)
    log_study(connect(), profile, table, planned, places, runs, runs_dir() / name)


tabulate_study = effect_step(run)

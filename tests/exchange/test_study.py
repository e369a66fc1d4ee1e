"""A study whose machine goes: the next makes only what is missing, and whoever reads it has the answers."""

import pytest

from artiagent import exchange
from artiagent.records import Prediction
from artiagent.store import dataset_dir, read_rows
from artiagent.studies.records import read_runs
from artiagent.studies.rows import RunsSection
from artiagent.studies.runs import run_all
from tests.studies.test_runs import EVALUATION, World, spec


def test_runs_that_another_machine_finished_are_not_made_again(machine, store, keys, tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch)
    section = RunsSection(runs=(spec(4), spec(4, seed=1)), evaluation=EVALUATION, workers=1)

    def study(out):
        world.trained = 0
        with exchange.mirrored(out):
            return run_all(section, {"drawn": world.pairs}, world.base, world.benchmark, dataset_dir, out)

    machine("a")
    world.stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        study(dataset_dir("study", "x"))
    assert world.trained == 1
    machine("b")
    world.stop_at = 0
    ref = study(dataset_dir("study", "x"))
    assert world.trained == 1
    machine("c")
    found = read_runs(exchange.fetch(ref))
    for answers in (found.base, *(run.predictions for run in found.runs)):
        assert len(list(read_rows(answers, Prediction))) == 4
    assert [len(run.curve) > 0 for run in found.runs] == [True, True]
    assert not [key for key in keys() if "chunks" in key or "stages" in key]

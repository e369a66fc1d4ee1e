"""The study as a pipeline: steps that are shared, runs in MLflow, nothing done or logged twice."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from artiagent import cli
from artiagent.records import DatasetRef, stable_hash
from artiagent.store import home, runs_dir, write_atomic
from pipelines.environment import prepare

prepare()

from artiagent.studies.records import INDEX  # noqa: E402
from steps.tracking import connect, experiment  # noqa: E402
from tests.pipelines.conftest import TinyStages, inputs  # noqa: E402, F401  (a fixture)
from tests.studies.fakes import study_runs, write_benchmark  # noqa: E402

SIZES = (8, 16, 32, 64)
GROUPS = [
    {
        "name": "scaling", "title": "How much", "reference": "n8", "curve": True,
        "rows": [{"name": f"n{n}", "set": {"instruction.pairs": n}} for n in SIZES],
    },
    {
        "name": "faults", "title": "Which", "reference": "injected", "set": {"instruction.pairs": 16}, "seeds": [0],
        "rows": [{"name": "injected"}, {"name": "drawn", "faults": "drawn"}],
    },
]  # fmt: skip


class TinyStudy(TinyStages):
    """Stages of one row each, and runs with answers of a known quality; ``sets`` holds what the runs were given."""

    def install(self, patch):
        super().install(patch)
        patch.setattr("artiagent.nano.drawn_pairs.write_drawn_pairs", self.draw)
        patch.setattr("artiagent.nano.flux_vae.encode_path", lambda folder: np.copy)
        patch.setattr("artiagent.studies.runs.run_all", self.run_all)

    def draw(self, curated, scenes, count, *, encode):
        return self.rows("drawn", curated, count), self.rows("drawn-scenes", scenes, count)

    def run_all(self, section, sets, base, benchmark, place, out):
        self.begin("study")
        self.sets = sets
        quality = {(data, n): n / 20 for data in ("injected", "drawn") for n in SIZES}
        runs = study_runs(out, section, quality)
        write_atomic(out / INDEX, runs.model_dump_json().encode())
        digest = stable_hash(section.digest(), *(ref.digest for pairs in sets.values() for ref in pairs), length=64)
        return DatasetRef(kind="study", uri=str(out), digest=digest, rows=len(runs.runs))


@pytest.fixture(scope="module")
def study(inputs):  # noqa: F811
    tree = yaml.safe_load((inputs / "tiny.yaml").read_text())["parameters"]["config"]
    bench = write_benchmark(inputs / "bench").model_dump(mode="json")
    tree |= {"profile": "tiny-study", "inputs": {**tree["inputs"], "sets": [], "benchmarks": [bench]}}
    section = {"scenes": {"count": 2}, "groups": GROUPS, "resamples": 100}
    (inputs / "study.yaml").write_text(yaml.safe_dump({"parameters": {"config": tree, "study": section}}))
    stages = TinyStudy()
    with pytest.MonkeyPatch.context() as patch:
        stages.install(patch)

        def run(*options):
            stages.calls.clear()
            code = cli.main(["study", "--config", f"{inputs}/study.yaml", *options])
            return SimpleNamespace(code=code, calls=Counter(stages.calls))

        yield SimpleNamespace(run=run, stages=stages, folder=inputs)


@pytest.fixture(scope="module")
def first(study):
    return study.run()


def runs():
    client = connect()
    return {r.info.run_name: r for r in client.search_runs([experiment(client, "tiny-study")])}


def test_one_curated_set_feeds_all_runs(first, study):
    assert first.code == 0
    assert first.calls == {
        "scenes": 1, "jobs": 1, "pairs": 1, "curated": 1, "drawn": 1, "drawn-scenes": 1, "study": 1
    }  # fmt: skip
    assert {name: pairs.curated.kind for name, pairs in study.stages.sets.items()} == {
        "injected": "curated", "drawn": "drawn",
    }  # fmt: skip


def test_every_model_is_a_run_below_the_study(first):
    found = runs()
    (name,) = (name for name in found if name.startswith("study-"))
    assert set(found) == {name, *(f"scaling/n{n} seed {s}" for n in SIZES for s in (0, 1)), "faults/drawn seed 0"}
    shared = found["scaling/n16 seed 0"]
    assert shared.data.tags["artiagent.rows"] == "scaling/n16 faults/injected"
    assert shared.data.tags["mlflow.parentRunId"] == found[name].info.run_id
    assert (shared.data.params["instruction.pairs"], shared.data.params["sft.seed"]) == ("16", "0")
    assert 0 < shared.data.metrics["macro_f1"] < 1
    files = {f.path for f in connect().list_artifacts(found[name].info.run_id)}
    assert files >= {"report.html", "study.json", "study.csv", "study.md", "charts"}
    folder = home() / "runs" / name
    assert (folder / "report.html").is_file()
    parameters = yaml.safe_load((folder / "config.yaml").read_text())["parameters"]
    assert set(parameters) == {"config", "study", "digests"}


def test_again_nothing_is_done_and_nothing_logged_twice(first, study, capsys):
    before = {name: r.info.run_id for name, r in runs().items()}
    assert study.run().calls == {}
    assert {name: r.info.run_id for name, r in runs().items()} == before
    shown = capsys.readouterr().out
    assert "macro-F1 is monotone" in shown and "report.html" in shown


def test_other_figures_need_no_other_runs(first, study):
    assert study.run("--set", "study.resamples=200", "--set", "study.doublings=0").calls == {}


def test_some_groups_only(first, study):
    assert study.run("--groups", "scaling").calls == {"study": 1}  # without the drawn pairs
    assert set(study.stages.sets) == {"injected"}


def test_wrong_groups_are_one_line(first, study, capsys):
    assert cli.main(["study", "--groups", "pepper"]) == 2
    assert capsys.readouterr().err.startswith("artiagent: --groups 'pepper': no such group")
    assert study.run("--set", "study.groups.0.rows.1.set={instruction.pear: 6}").code == 2
    assert "row 'n16': unknown key 'instruction.pear'" in capsys.readouterr().err


def test_scenes_never_reach_the_seeds_of_the_oracle(first, study, capsys):
    assert study.run("--set", "study.scenes.first_seed=299999").code == 2
    assert "study.scenes: seeds 299999 to 300000; expected all below 300000" in capsys.readouterr().err


def test_a_study_that_is_refused_leaves_no_run(first, study, capsys):
    before = set(runs_dir().iterdir())
    assert study.run("--stack", "mars", "--set", "study.resamples=101").code == 2
    assert "--stack mars: no such ZenML stack" in capsys.readouterr().err
    assert set(runs_dir().iterdir()) == before

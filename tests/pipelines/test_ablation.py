"""Order matters in this file: every test runs the same small ablation once more, changed or not."""

import json
from collections import Counter
from types import SimpleNamespace

import pytest
import yaml

from artiagent import cli
from artiagent.ablation.table import AblationTable, RowResult
from artiagent.records import Interval
from artiagent.store import home
from pipelines.environment import prepare

prepare()

from steps.tracking import connect, experiment  # noqa: E402
from tests.pipelines.conftest import TinyStages  # noqa: E402

ROWS = [
    {"name": "default", "group": "a", "detect": True},
    {"name": "steps", "group": "a", "detect": True, "set": {"synthesis.steps": 5}, "note": "fewer"},
    {"name": "seams", "group": "b", "set": {"curation.seam_max": 9.0}},
    {"name": "plan", "group": "b", "set": {"planning.seed": 7}},
]
INTERVAL = Interval(value=0.5, low=0.4, high=0.6, n=10)


class TinyAblation(TinyStages):
    """Stages of one row each; ``rows`` holds what the last table was made from."""

    def install(self, patch):
        super().install(patch)
        patch.setattr(
            "artiagent.ablation.reconstruct.reconstruct",
            lambda s, synthesis, curation, scenes, g, out: self.rows("reconstructions", out, scenes.digest, s.sources),
        )
        patch.setattr("artiagent.ablation.metrics.tabulate", self.tabulate)
        patch.setattr("artiagent.report.ablation.write_ablation", self.write)

    def tabulate(self, name, section, rows, base, benchmark, asked, reconstructions, provenance):
        self.begin("table")
        self.seen, self.base, self.again = {data.row.name: data for data in rows}, base, reconstructions
        results = tuple(
            RowResult(
                **row.model_dump(include={"name", "group", "set", "note"}), planned=4, accepted=2, seconds=1.0,
                trained_on=2 if row.detect else None, audit="pass", figures={"auroc": INTERVAL},
                differences={} if row.name == "default" else {"auroc": INTERVAL},
            )
            for row in section.rows
        )  # fmt: skip
        return AblationTable(
            name=name, reference=section.reference, sources=1, images=8, rows=results,
            base={"auroc": INTERVAL} if base else {}, reconstruction=(), provenance=dict(provenance),
        )  # fmt: skip

    def write(self, folder, table, rows, per_tool):
        (folder / "ablation.json").write_text(table.model_dump_json())
        (folder / "report.html").write_text("<html></html>")


@pytest.fixture(scope="module")
def ablation(inputs):
    tree = yaml.safe_load((inputs / "tiny.yaml").read_text())["parameters"]["config"]
    parameters = {"config": {**tree, "profile": "tiny-ablation"}, "ablation": {"reference": "default", "rows": ROWS}}
    (inputs / "ablation.yaml").write_text(yaml.safe_dump({"parameters": parameters}))
    stages = TinyAblation()
    with pytest.MonkeyPatch.context() as patch:
        stages.install(patch)

        def run(*options):
            stages.calls.clear()
            code = cli.main(["ablate", "--config", f"{inputs}/ablation.yaml", *options])
            return SimpleNamespace(code=code, calls=Counter(stages.calls), seen=dict(stages.seen))

        yield SimpleNamespace(run=run, stages=stages)


def runs():
    client = connect()
    return {r.info.run_name: r for r in client.search_runs([experiment(client, "tiny-ablation")])}


@pytest.fixture(scope="module")
def first(ablation):
    return ablation.run()


def test_rows_share_what_is_equal(first):
    assert first.code == 0
    assert first.calls == {
        "scenes": 1, "reconstructions": 1, "jobs": 2, "pairs": 3, "curated": 4, "conversations": 2, "tuned": 2,
        "predictions-base": 1, "predictions-tuned": 2, "table": 1,
    }  # fmt: skip
    assert first.seen["seams"].pairs == first.seen["default"].pairs != first.seen["steps"].pairs
    assert first.seen["plan"].jobs != first.seen["default"].jobs == first.seen["steps"].jobs
    assert len({data.curated.digest for data in first.seen.values()}) == 4


def test_only_rows_with_a_score_are_trained(first, ablation):
    trained = {name for name, data in first.seen.items() if data.predictions is not None}
    assert trained == {name for name, data in first.seen.items() if data.conversations is not None}
    assert trained == {"default", "steps"}
    assert ablation.stages.base.kind == "predictions-base"
    assert ablation.stages.again.kind == "reconstructions"


def test_every_row_is_a_run_below_the_ablation(first):
    found = runs()
    (name,) = (name for name in found if name.startswith("ablation-"))
    assert set(found) == {name, "default", "steps", "seams", "plan"}
    row = found["steps"]
    assert row.data.tags["mlflow.parentRunId"] == found[name].info.run_id
    assert row.data.params == {"synthesis.steps": "5"}
    assert (row.data.metrics["auroc"], row.data.metrics["minus default/auroc.low"]) == (0.5, 0.4)
    assert row.data.tags["mlflow.note.content"] == "fewer"
    assert {f.path for f in connect().list_artifacts(found[name].info.run_id)} >= {"report.html", "ablation.json"}
    assert (home() / "runs" / name / "report.html").is_file()


def test_unchanged_rows_execute_nothing_and_are_not_logged_again(first, ablation, capsys):
    before = {name: r.info.run_id for name, r in runs().items()}
    again = ablation.run()
    assert again.calls == {"table": 1}
    assert {name: r.info.run_id for name, r in runs().items()} == before
    shown = capsys.readouterr().out
    assert "2 of 4" in shown and "report.html" in shown
    assert again.seen["steps"].pairs.digest == first.seen["steps"].pairs.digest


def test_a_changed_row_repeats_only_itself(first, ablation):
    assert ablation.run("--set", "ablation.rows.1.set={synthesis.steps: 6}").calls == {
        "pairs": 1, "curated": 1, "conversations": 1, "tuned": 1, "predictions-tuned": 1, "table": 1
    }  # fmt: skip


def test_some_rows_without_scores(first, ablation):
    result = ablation.run("--rows", "plan", "--no-detect")
    assert (result.calls, set(result.seen)) == ({"table": 1}, {"default", "plan"})
    assert ablation.stages.base is None


def test_wrong_rows_are_one_line(first, ablation, capsys):
    assert cli.main(["ablate", "--rows", "pepper"]) == 2
    assert capsys.readouterr().err.startswith("artiagent: --rows 'pepper': no such row")
    assert ablation.run("--set", "ablation.rows.1.set={synthesis.stepz: 6}").code == 2
    assert "row 'steps': unknown key 'synthesis.stepz'" in capsys.readouterr().err


def test_the_configuration_that_ran_is_kept(first):
    folders = [p.parent for p in (home() / "runs").glob("ablation-*/config.yaml")]
    parameters = yaml.safe_load((folders[0] / "config.yaml").read_text())["parameters"]
    assert set(parameters) == {"config", "ablation", "digests"}
    assert "synthesis" not in parameters["config"]  # as written: a preset fills in what is not given
    assert json.loads((folders[0] / "ablation.json").read_text())["reference"] == "default"

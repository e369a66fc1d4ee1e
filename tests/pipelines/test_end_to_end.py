"""Order matters in this file: every test runs the same small project once more, changed or not."""

import json
from pathlib import Path
from secrets import token_hex
from typing import get_args

import pytest
import yaml

from artiagent import cli
from artiagent.config import Sharded
from artiagent.publish import find_pointer
from artiagent.store import home
from pipelines.environment import prepare

prepare()

from zenml.client import Client  # noqa: E402

from pipelines.end_to_end import SHARD_STEPS  # noqa: E402
from pipelines.runs import list_runs  # noqa: E402
from steps.tracking import connect, experiment  # noqa: E402

ALL = {
    "scenes", "jobs", "pairs", "curated", "conversations", "tuned", "predictions-base", "predictions-tuned",
    "evaluation", "reward",
}  # fmt: skip


def versions():
    """Everything that may only grow when something new was made."""
    client, mlflow = Client(), connect()
    return {
        "artifacts": client.list_artifact_versions(size=1).total,
        "model versions": client.list_model_versions(model="artiagent", size=1).total,
        "registered": len(mlflow.search_model_versions()),
        "tracked": len(mlflow.search_runs([experiment(mlflow, "tiny")])),
        "published": len(list((home() / "datasets" / "pointers").glob("*.json"))),
        "reports": len(list_runs()),
    }


@pytest.fixture(scope="module")
def first(project):
    result = project.run()
    return result, versions(), list_runs()[-1]


def test_first_run_executes_everything(first):
    result, made, record = first
    assert result.code == 0
    assert set(result.calls) == ALL
    assert made["registered"] == 2
    assert made["published"] == 1
    assert made["tracked"] == 12  # the pipeline and its eleven stages
    assert record.finished
    assert not any(stage.cached for stage in record.stages.values())
    folder = home() / "runs" / record.name
    assert {p.name for p in folder.iterdir()} == {
        "config.yaml", "changes.diff", "run.json", "registered.json", "report.html", "summary.json",
    }  # fmt: skip


def test_outputs_carry_their_origin(first, project):
    refs, record = project.stages.bundle["refs"], first[2]
    summary = refs["finetune"].summary
    assert summary["lineage.run"] == record.name
    assert summary["lineage.code"] == record.sources["finetune"]
    assert summary["lineage.weights"] == f"vlm:{record.inputs['vlm']}"
    assert summary["lineage.data"] == f"conversations:{refs['instruct'].digest}"
    assert {"seconds", "peak_mb", "lineage.revision", "lineage.section"} <= set(summary)
    metadata = Client().get_artifact_version("tuned").run_metadata
    assert metadata["sha256"] == refs["finetune"].sha256
    assert metadata["lineage.run"] == record.name


def test_published_set_is_the_curated_one(first, project):
    curated = project.stages.bundle["refs"]["curate"]
    pointer = find_pointer(curated.digest)
    data = Path(pointer.remote) / "files" / "md5" / pointer.md5[:2] / pointer.md5[2:]
    names = {entry["relpath"] for entry in json.loads(data.read_text())}
    assert {"manifest.json", "funnel.json"} <= names


def test_tracking_holds_parameters_curves_and_data(first):
    client, record = connect(), first[2]
    runs = {r.info.run_name: r for r in client.search_runs([experiment(client, "tiny")])}
    tuned = runs["finetune"]
    assert tuned.data.tags["mlflow.parentRunId"] == runs[record.name].info.run_id
    assert tuned.data.params["lora_rank"] == "16"
    assert [m.value for m in client.get_metric_history(tuned.info.run_id, "language/loss")] == [1.0, 0.5]
    (data,) = runs["curate"].inputs.dataset_inputs
    assert {t.key: t.value for t in data.tags}["digest"] == record.stages["curate"].digest
    assert runs[record.name].data.metrics["tuned/macro_f1"] == 0.5


def test_unchanged_run_executes_nothing_and_makes_nothing(first, project, capsys):
    result = project.run()
    assert (result.code, result.calls) == (0, [])
    assert versions() == first[1]
    record = list_runs()[-1]
    assert record.name == first[2].name
    assert all(stage.cached for stage in record.stages.values())
    assert "nothing, every stage was cached" in capsys.readouterr().out


def test_one_parameter_runs_only_what_depends_on_it(first, project):
    result = project.run("--set", "synthesis.steps=5")
    assert set(result.calls) == ALL - {"scenes", "jobs", "predictions-base"}
    after = versions()
    assert (after["registered"], after["published"], after["reports"]) == (4, 2, 2)
    client = connect()
    aliases = client.get_registered_model("artiagent-vlm-tiny").aliases
    assert {alias: str(v) for alias, v in aliases.items()} == {"champion": "1", "challenger": "2"}
    parent = client.search_runs([experiment(client, "tiny")], f"tags.`artiagent.run` = '{list_runs()[-1].name}'")
    tags = next(r.data.tags for r in parent if r.data.tags["artiagent.stage"] == "pipeline")
    assert {k for k in tags if k.startswith("cached.")} == {
        "cached.ingest", "cached.perceive", "cached.plan", "cached.evaluate_base"
    }  # fmt: skip


def test_same_result_of_a_changed_stage_leaves_the_rest_cached(first, project):
    result = project.run("--set", "planning.strips=3")  # the tiny planner ignores it: equal digest
    assert result.calls == ["jobs"]


def test_failing_stage_is_one_clear_line(first, project, capsys):
    before = versions()
    project.stages.fail = "reward"
    try:
        result = project.run("--set", "reward.epochs=7")
    finally:
        project.stages.fail = None
    assert result.code == 2
    assert capsys.readouterr().err.strip().splitlines()[-1] == "artiagent: reward: no usable input; give at least one"
    assert versions()["registered"] == before["registered"]
    assert not list_runs()[-1].finished


def test_interrupted_stage_says_how_to_go_on(first, project, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("artiagent.learning.reward.train_reward", interrupt)
    assert project.run("--set", "reward.epochs=8").code == 130
    assert "run the same command again" in capsys.readouterr().err


def test_runs_are_listed_and_compared(first, project, capsys):
    names = [r.name for r in list_runs()]
    assert cli.main(["runs", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in names)
    assert "unfinished" in listed
    assert cli.main(["runs", "compare", names[0], names[1]]) == 0
    text = capsys.readouterr().out
    assert "synthesis.steps" in text
    assert "inputs: equal" in text
    assert cli.main(["runs", "compare", names[0], "nano-00000000"]) == 2
    assert "not found" in capsys.readouterr().err


def test_unknown_stack_names_the_known(first, project, capsys):
    assert project.run("--stack", "mars").code == 2
    assert "known: default" in capsys.readouterr().err


def test_a_zenml_secret_reaches_the_stages_and_nothing_else(project, tmp_path, caplog, capsys):
    canary = f"sk-{token_hex(12)}"
    Client().create_secret("vlm-key", values={"VLM_KEY": canary})
    document = yaml.safe_load((project.folder / "tiny.yaml").read_text())
    document["parameters"]["config"]["perception"] = {"vlm": {"api_key_env": "VLM_KEY"}, "containment": 0.85}
    (tmp_path / "secret.yaml").write_text(yaml.safe_dump(document | {"secrets": ["vlm-key"]}))
    assert cli.main(["run", "--config", str(tmp_path / "secret.yaml")]) == 0
    assert project.stages.key == canary
    said = caplog.text + "".join(capsys.readouterr())
    assert canary not in said
    kept = [p for p in home().rglob("*") if p.is_file() and "zenml" not in p.relative_to(home()).parts]
    assert kept and not [p for p in kept if canary.encode() in p.read_bytes()]


def test_shards_are_steps_of_their_own_and_are_joined(first, project):
    shards = "scale.shards={perceive: 2, synthesize: 3, curate: 2, evaluate_base: 1, evaluate_tuned: 2}"
    changed = ("--set", "perception.containment=0.8", "--set", "planning.seed=77", "--set", shards)
    result = project.run(*changed)
    assert result.code == 0
    assert [call for call in result.calls if call.startswith("pairs")] == [
        "pairs 0/3",
        "pairs 1/3",
        "pairs 2/3",
        "pairs",
    ]
    record = list_runs()[-1]
    steps = Client().get_pipeline_run(f"{record.name}", allow_name_prefix_match=True).steps
    assert {name for name in steps if "shard" in name} >= {
        "synthesize_shard",
        "synthesize_shard_2",
        "synthesize_shard_3",
    }
    parts = [steps[name].outputs["part"][0].load() for name in steps if name.startswith("synthesize_shard")]
    own = sum(part.summary["seconds"] for part in parts)
    told = steps["synthesize"].outputs["pairs"][0].load().summary
    assert own < told["seconds"] == record.stages["synthesize"].seconds, "a stage costs what its pieces cost"
    assert told["peak_mb"] >= max(part.summary["peak_mb"] for part in parts)
    again = project.run(*changed)
    assert (again.code, again.calls) == (0, [])


def test_every_stage_that_may_be_cut_has_a_step_for_its_pieces():
    assert set(SHARD_STEPS) == set(get_args(Sharded))

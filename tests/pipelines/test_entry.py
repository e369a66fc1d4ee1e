"""`python -m pipelines.entry` as a container runs it, with stand-ins for the library's stages."""

import json
import os
import re
import signal

import pytest
import yaml

from artiagent.records import CheckpointRef, DatasetRef, Prediction, stable_hash
from artiagent.store import DatasetWriter, Row
from pipelines.environment import prepare

ROOT = prepare()

from artiagent.config import Config  # noqa: E402
from pipelines import entry  # noqa: E402
from pipelines.stages import stages  # noqa: E402
from steps.tracking import connect, experiment, find_run  # noqa: E402

ROW = Prediction(
    benchmark="b", item_id="i", model="m", model_sha256="s", prompt_hash="p", verdict=True, score=0.5
)  # fmt: skip
PAPER = str(ROOT / "configs" / "paper.yaml")


def digest_of(folder):
    return stable_hash(str(folder), length=64)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A configuration and the references that `plan` takes; contents of its own, as the tests share a home."""
    monkeypatch.setenv("ARTIAGENT_RUN", "")
    for name in ("ARTIAGENT_STORE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    config = Config(profile=f"entry-{tmp_path.name}")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"parameters": {"config": config.model_dump(mode="json")}}))
    for name in ("scenes", "inputs"):
        ref = DatasetRef(kind=name, uri=str(tmp_path), digest=digest_of(tmp_path), rows=1)
        (tmp_path / f"{name}.json").write_text(ref.model_dump_json())
    (tmp_path / "vlm.json").write_text(CheckpointRef(name="vlm", uri=str(tmp_path), sha256="2" * 64).model_dump_json())
    return tmp_path


@pytest.fixture
def planner(monkeypatch):
    """A stand-in for the planner; ``planner`` tells how often it was called."""
    calls = []

    def plan(section, scenes, patch, out):
        calls.append((section.seed, scenes.digest, patch))
        writer = DatasetWriter(out, "jobs")
        writer.write("a", [Row("k", ROW)])
        return writer.finish({"count": 1})

    monkeypatch.setattr("artiagent.synthesis.planner.plan", plan)
    return calls


def run(folder, stage="plan", *more, scenes="scenes.json", out="jobs.json", name="first"):
    return entry.main([
        stage, "--config", f"{folder}/c.yaml", "--run", name, "--input", f"scenes={folder}/{scenes}",
        "--output", f"jobs={folder}/{out}", *more,
    ])  # fmt: skip


def test_a_stage_reads_files_and_writes_what_the_step_would(folder, planner):
    assert run(folder) == 0
    jobs = DatasetRef.model_validate_json((folder / "jobs.json").read_text())
    assert planner == [(0, digest_of(folder), 8)]
    assert jobs.kind == "jobs" and jobs.summary["lineage.run"] == "first" and jobs.summary["seconds"] >= 0
    assert jobs.summary["lineage.data"] == f"scenes:{digest_of(folder)}"
    client = connect()
    experiment_id = experiment(client, f"entry-{folder.name}")
    logged = client.get_run(find_run(client, experiment_id, "first", "plan"))
    parent = client.get_run(find_run(client, experiment_id, "first", "pipeline"))
    assert logged.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (logged.info.status, parent.info.status) == ("FINISHED", "RUNNING")


def test_another_run_that_makes_the_same_keeps_origin_and_cost(folder, planner):
    assert run(folder) == run(folder, out="again.json", name="second") == 0
    assert (folder / "again.json").read_text() == (folder / "jobs.json").read_text()
    client = connect()
    assert find_run(client, experiment(client, f"entry-{folder.name}"), "second", "plan") is None


def test_parts_are_paid_for_by_the_whole(folder, planner):
    parts = []
    for index, seconds in enumerate((3.0, 4.0)):
        part = DatasetRef(
            kind="jobs-part", uri="/p", digest="3" * 64, rows=1, summary={"seconds": seconds, "peak_mb": 1e6}
        )
        (folder / f"part{index}.json").write_text(part.model_dump_json())
        parts += ["--part", f"{folder}/part{index}.json"]
    assert run(folder, "plan", *parts) == 0
    summary = json.loads((folder / "jobs.json").read_text())["summary"]
    assert 7.0 <= summary["seconds"] < 60 and summary["peak_mb"] == 1e6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stage": "plant"}, "no such stage; expected open, ingest, perceive"),
        ({"scenes": "none.json"}, "--input scenes: .*none.json: no such file"),
        ({"scenes": "vlm.json"}, "vlm.json is no DatasetRef"),
        ({"name": ""}, "--run NAME is missing"),
        ({"more": ["--shard", "0/2"]}, "plan is made in one piece"),
        ({"more": ["--output", "pairs=/x"]}, "--output: expected jobs; got jobs, pairs"),
        ({"more": ["--input", "vlm=/x"]}, "--input: expected scenes; got scenes, vlm"),
        ({"more": ["--input", "scenes=/x"]}, "expected NAME=FILE, every name once"),
        ({"more": ["--input", "scenes"]}, "expected NAME=FILE"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(folder, planner, capsys, options, said):
    stage, more = options.pop("stage", "plan"), options.pop("more", [])
    assert run(folder, stage, *more, **options) == entry.WRONG
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert re.search(said, error), error
    assert not (folder / "jobs.json").exists() and planner == []


def test_digests_are_asked_for(folder, capsys):
    outputs = [f"--output={name}={folder}/{name}" for name in ("inputs", "generator", "vlm", "clip", "benchmarks")]
    assert entry.main(["ingest", "--config", f"{folder}/c.yaml", "--run", "r", *outputs]) == entry.WRONG
    assert "--digests FILE is missing" in capsys.readouterr().err


def test_a_server_that_refuses_is_one_line(folder, planner, monkeypatch, capsys):
    from mlflow.exceptions import RestException

    def refuse(*_):
        raise RestException({"error_code": "UNAUTHENTICATED", "message": "401 Unauthorized"})

    monkeypatch.setattr("steps.tracking.connect", refuse)
    assert run(folder) == entry.WRONG
    assert "MLflow: " in (error := capsys.readouterr().err) and "MLFLOW_TRACKING_URI" in error
    assert not (folder / "jobs.json").exists()
    monkeypatch.undo()


def test_told_to_stop_it_says_so(folder, monkeypatch, capsys):
    monkeypatch.setattr("artiagent.synthesis.planner.plan", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.signal(signal.SIGTERM, entry.stop)
    try:
        assert run(folder) == entry.STOPPED
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "stopped; the same command goes on from here" in capsys.readouterr().err


def test_list_prints_every_stage(capsys):
    assert entry.main(["--list", "--config", PAPER]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 14
    assert "synthesize (128 shards): scenes jobs generator -> pairs" in lines


@pytest.mark.parametrize("stage", stages(Config()), ids=lambda stage: stage.name)
def test_every_stage_says_what_it_takes_and_makes(stage):
    assert tuple(entry.accepts(stage)) == tuple(name for name in stage.inputs if not name.startswith("@"))
    assert tuple(entry.makes(stage)) == stage.outputs

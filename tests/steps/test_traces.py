import sqlite3
from collections import Counter

import pytest
from mlflow import MlflowClient
from mlflow.entities import RunTag

from artiagent.config import Config
from artiagent.records import AgentCall, DatasetRef
from artiagent.vlm.calls import write_calls
from pipelines.environment import prepare

prepare()

from steps.traces import CHUNK, TRACED, log_calls  # noqa: E402
from steps.tracking import log_run  # noqa: E402

COUNT = 2 * CHUNK + 7


def call(number: int, **changes) -> AgentCall:
    known = {
        "key": f"job-{number}", "task": "judge", "prompt": "judge_add@1", "prompt_hash": "abc123", "model": "gpt-4o",
        "status": "ok", "verdict": "yes", "tokens_in": 100, "tokens_out": 3, "cost": 0.001, "seconds": 1.5,
    }  # fmt: skip
    return AgentCall(**(known | changes))


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return tmp_path_factory.mktemp("mlflow") / "mlflow.db"


@pytest.fixture(scope="module")
def client(database):
    return MlflowClient(tracking_uri=f"sqlite:///{database}")


@pytest.fixture
def run(client, tmp_path):
    experiment = client.create_experiment(tmp_path.name, artifact_location=(tmp_path / "artifacts").as_uri())
    made = client.create_run(experiment, start_time=1_700_000_000_000)
    tags = [RunTag("artiagent.run", "nano-1"), RunTag("artiagent.stage", "curate")]
    client.log_batch(made.info.run_id, tags=tags)
    return made.info


@pytest.fixture
def calls(tmp_path):
    """A failed call, a cached one, two tasks; three traces."""
    made = [call(n) for n in range(COUNT)]
    made[3] = call(3, status="timeout", verdict="", tokens_out=0, seconds=60.0, attempts=5)
    made[4] = call(4, cached=True, cost=0.0)
    made[COUNT - 1] = call(COUNT - 1, task="caption", prompt="caption@2", model="nano-vl")
    write_calls(tmp_path / "calls.parquet", made)
    return made


def traces(client, run, **options):
    found = client.search_traces(locations=[run.experiment_id], run_id=run.run_id, **options)
    return sorted(
        found, key=lambda trace: (len(trace.info.tags["mlflow.traceName"]), trace.info.tags["mlflow.traceName"])
    )


def spans_of(found):
    return [span for trace in found for span in trace.data.spans if span.parent_id]


def test_every_call_is_a_span_under_the_run_of_its_stage(client, run, calls, tmp_path):
    assert log_calls(client, run.run_id, tmp_path / "calls.parquet") == COUNT
    found = traces(client, run)
    assert len(found) == 3
    assert all(trace.info.tags["artiagent.stage"] == "curate" for trace in found)
    spans = spans_of(found)
    assert Counter(span.attributes["key"] for span in spans) == Counter(c.key for c in calls)
    by_key = {span.attributes["key"]: span for span in spans}
    for made in calls:
        span = by_key[made.key]
        assert {name: span.attributes[name] for name in AgentCall.model_fields} == made.model_dump()
        assert span.name == made.task
        assert (span.end_time_ns - span.start_time_ns) / 1e9 == made.seconds
    assert by_key["job-3"].status.status_code == "ERROR"
    assert Counter(span.status.status_code for span in spans) == {"OK": COUNT - 1, "ERROR": 1}
    usage = [trace.info.token_usage for trace in found]
    assert sum(u["input_tokens"] for u in usage) == 100 * COUNT
    assert sum(u["output_tokens"] for u in usage) == 3 * (COUNT - 1)
    assert sum(trace.info.cost["total_cost"] for trace in found) == pytest.approx(0.001 * (COUNT - 1))


def test_calls_are_searched_by_what_they_were(client, run, calls, tmp_path):
    log_calls(client, run.run_id, tmp_path / "calls.parquet")
    hits = {
        "span.attributes.key LIKE '%job-60%'": 1,
        "span.status = 'ERROR'": 1,
        "span.name = 'caption'": 1,
        "span.attributes.prompt_hash LIKE '%abc123%'": 3,
        "tag.`artiagent.run` = 'nano-1'": 3,
        "span.attributes.status LIKE '%quota%'": 0,
    }
    for condition, expected in hits.items():
        assert len(traces(client, run, filter_string=condition)) == expected, condition


def test_never_twice_and_a_killed_one_is_completed(client, database, run, calls, tmp_path, monkeypatch):
    path = tmp_path / "calls.parquet"
    with monkeypatch.context() as patch:
        from mlflow.tracing.client import TracingClient

        original, logged = TracingClient.start_trace, []

        def killed(self, info):
            if len(logged) == 1:  # the second trace has its spans, and no more
                raise KeyboardInterrupt
            logged.append(info)
            return original(self, info)

        patch.setattr(TracingClient, "start_trace", killed)
        with pytest.raises(KeyboardInterrupt):
            log_calls(client, run.run_id, path)
    assert TRACED not in client.get_run(run.run_id).data.tags
    assert log_calls(client, run.run_id, path) == COUNT
    assert log_calls(client, run.run_id, path) == 0
    found = traces(client, run)
    assert len(found) == 3 and len(spans_of(found)) == COUNT
    assert sum(trace.info.token_usage["input_tokens"] for trace in found) == 100 * COUNT
    with sqlite3.connect(database) as db:
        count = db.execute("select count(*) from spans where experiment_id = ?", (run.experiment_id,)).fetchone()
    assert count == (COUNT + 3,)
    assert client.get_run(run.run_id).data.tags[TRACED] == str(COUNT)


def test_a_stage_that_asked_nobody_has_no_traces(client, run, tmp_path):
    assert log_calls(client, run.run_id, tmp_path / "calls.parquet") == 0
    assert traces(client, run) == []
    assert TRACED not in client.get_run(run.run_id).data.tags


def test_a_pipeline_run_traces_what_it_executed(client, database, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    monkeypatch.setenv("ARTIAGENT_HOME", str(tmp_path / "home"))
    curated = tmp_path / "curated"
    write_calls(curated / "calls.parquet", [call(n) for n in range(3)])
    (curated / "report.html").write_text("<html>who was kept</html>")
    refs = {
        "curate": ref_of("curated", curated, "nano-1"),
        "perceive": ref_of("scenes", curated, "an earlier run"),  # cached: its own run has traced it
    }
    config = Config(profile=f"traced-{tmp_path.name}")
    for _ in range(2):
        tracked = log_run(client, config, "nano-1", refs)
    assert list(tracked.stages) == ["curate"]
    found = client.search_traces(locations=[tracked.experiment_id], run_id=tracked.stages["curate"])
    assert len(spans_of(found)) == 3
    assert [file.path for file in client.list_artifacts(tracked.stages["curate"])] == ["report.html"]

    registry = config.registry.model_copy(update={"trace_calls": False})
    silent = config.model_copy(update={"registry": registry, "profile": f"silent-{tmp_path.name}"})
    tracked = log_run(client, silent, "nano-1", refs)
    assert client.search_traces(locations=[tracked.experiment_id], run_id=tracked.stages["curate"]) == []


def ref_of(kind, folder, run):
    return DatasetRef(kind=kind, uri=str(folder), digest="a" * 64, rows=3, summary={"lineage.run": run, "seconds": 2.0})

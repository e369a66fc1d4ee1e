import subprocess

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artiagent.config import BenchmarkSet, Config
from artiagent.evaluation.benchmarks import benchmark_sha256
from artiagent.images import encode
from pipelines.environment import prepare

prepare()

from artiagent.records import Prediction  # noqa: E402
from artiagent.store import DatasetWriter, Row, dataset_dir  # noqa: E402
from pipelines import reproduce  # noqa: E402
from pipelines.compared import mlflow_link, paired_scores, text  # noqa: E402
from pipelines.runs import (  # noqa: E402
    RunRecord,
    StageResult,
    compare,
    identify,
    load_run,
    open_run,
    save,
    working_diff,
)


@pytest.fixture
def repository(tmp_path):
    root = tmp_path / "repository"
    root.mkdir()
    git(root, "init", "--quiet")
    (root / "requirements.lock").write_text("a==1\n")
    (root / "code.py").write_text("X = 1\n")
    (root / ".gitignore").write_text("data\n")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "first")
    return root


def git(root, *arguments):
    command = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def make_record(**changes):
    record = RunRecord(
        name="nano-1", profile="nano", started="t", revision="r", lock_sha256="l", python="3.11", machine="m",
        config_digest="c", inputs={"vlm": "1"}, sources={"plan": "2"},
        stages={"plan": StageResult(digest="3", cached=False)},
    )  # fmt: skip
    return record.model_copy(update=changes)


def test_name_follows_configuration_inputs_and_sources():
    config = Config()
    base = identify(config, {"a": "1"}, {"plan": "2"})
    assert base == identify(config, {"a": "1"}, {"plan": "2"})
    assert base.startswith("nano-")
    others = {
        identify(config.model_copy(update={"profile": "paper"}), {"a": "1"}, {"plan": "2"}),
        identify(config, {"a": "2"}, {"plan": "2"}),
        identify(config, {"a": "1"}, {"plan": "3"}),
    }
    assert base not in others
    assert len(others) == 3


def test_diff_holds_untracked_files_and_leaves_the_index_alone(repository):
    assert working_diff(repository) == b""
    (repository / "code.py").write_text("X = 2\n")
    (repository / "new.bin").write_bytes(bytes(range(256)))
    (repository / "data").mkdir()
    (repository / "data" / "large").write_text("ignored")
    diff = working_diff(repository)
    assert b"new.bin" in diff
    assert b"large" not in diff
    assert git(repository, "diff", "--cached") == ""


def test_restore_brings_back_commit_and_changes(repository, tmp_path, monkeypatch):
    commit = git(repository, "rev-parse", "HEAD").strip()
    (repository / "code.py").write_text("X = 2\n")
    (repository / "new.py").write_text("Y = 1\n")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "changes.diff").write_bytes(working_diff(repository))
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "later")
    (repository / "code.py").write_text("X = 3\n")
    commands = []
    monkeypatch.setattr(reproduce, "checkout", lambda: repository)
    record = make_record(
        revision=f"{commit}+dirty", lock_sha256=reproduce.file_sha256(repository / "requirements.lock")
    )
    original = subprocess.run

    def without_dvc(command, **options):
        return original(command, **options) if "git" in command[0] else commands.append(command)

    monkeypatch.setattr(reproduce.subprocess, "run", without_dvc)
    python = reproduce.restore(record, folder, tmp_path / "tree")
    assert (tmp_path / "tree" / "code.py").read_text() == "X = 2\n"
    assert (tmp_path / "tree" / "new.py").read_text() == "Y = 1\n"
    assert commands == [[str(python), "-m", "dvc", "pull", "--quiet"]]
    with pytest.raises(ValueError, match="not in this repository"):
        reproduce.restore(make_record(revision="0" * 40), folder, tmp_path / "other")


@pytest.mark.parametrize(
    ("change", "code", "line"),
    [
        ({}, 0, "all 4 digests are equal"),
        ({"stages": {"plan": StageResult(digest="9", cached=False)}}, 1, "1 of 4 digests differ"),
        ({"inputs": {}, "sources": {"plan": "8"}}, 1, "2 of 4 digests differ"),
    ],
)
def test_every_digest_is_compared(change, code, line, capsys):
    assert reproduce.report(make_record(), make_record(**change)) == code
    assert line in capsys.readouterr().out


def test_unknown_run_is_named():
    with pytest.raises(ValueError, match="run 'nano-x': not found"):
        load_run("nano-x")


N = 60


@pytest.fixture
def measured_runs(tmp_path, monkeypatch):
    """Three finished runs, 40, 41 and 58 of 60 answers right; their answers lie in the store."""
    monkeypatch.setenv("ARTIAGENT_HOME", str(tmp_path))
    root = tmp_path / "checkout"
    root.mkdir()
    (root / "requirements.lock").write_text("a==1\n")
    image = encode(np.zeros((16, 16, 3), dtype=np.uint8))
    rows = [
        {"id": f"i{k}", "image": image, "has_artifacts": k % 2 == 0, "bboxes": [], "explanation": ""} for k in range(N)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "bench.parquet")
    benchmark = BenchmarkSet(name="bench", path=str(tmp_path / "bench.parquet"))
    names = []
    for right in (40, 41, 58):
        config = Config.model_validate(
            {
                "profile": "compared", "sft": {"seed": right}, "evaluation": {"resamples": 300},
                "inputs": {"benchmarks": [benchmark.model_dump()]},
            }
        )  # fmt: skip
        digests = {"benchmark:bench": benchmark_sha256(benchmark)}
        record = open_run(config, digests, (), {}, root)
        writer = DatasetWriter(dataset_dir("predictions-tuned", str(right)), "predictions")
        answers = [k % 2 == 0 if k < right else k % 2 == 1 for k in range(N)]
        writer.write("a", [Row(f"bench/i{k}", prediction(f"i{k}", str(right), a)) for k, a in enumerate(answers)])
        stages = {
            "finetune": StageResult(digest=str(right), cached=False),
            "evaluate_tuned": StageResult(digest=writer.finish().digest, cached=False),
        }
        save(record.model_copy(update={"stages": stages}))
        names.append(record.name)
    return names


def prediction(item, sha, verdict):
    return Prediction(
        benchmark="bench", item_id=item, model="tuned", model_sha256=sha, prompt_hash="p", verdict=verdict,
        score=float(verdict),
    )  # fmt: skip


def test_several_runs_are_compared_image_by_image(measured_runs):
    first, second, third = measured_runs
    topics = compare(*measured_runs)
    assert topics["configuration"]["sft.seed"] == (40, 41, 58)
    assert topics["inputs"] == {}
    (found,) = paired_scores(measured_runs)
    assert (found.n, set(found.differences)) == (N, {second, third})
    little, much = (found.differences[name]["accuracy"] for name in (second, third))
    assert little.value == pytest.approx(1 / N)
    assert little.low == 0
    assert much.low > 0.1
    said = text(measured_runs, topics, [found])
    assert said.count("higher in") == said.count(f"higher in {third}") > 0
    assert mlflow_link(measured_runs) is None  # none of them was tracked


def test_runs_that_cannot_be_compared_say_why(measured_runs, tmp_path):
    rows = pq.read_table(tmp_path / "bench.parquet").slice(0, N - 1)
    pq.write_table(rows, tmp_path / "bench.parquet")
    (found,) = paired_scores(measured_runs)
    assert "its files are" in found.note and not found.differences
    assert "not compared: benchmark 'bench' was" in text(measured_runs, {}, [found])

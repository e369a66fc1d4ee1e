"""The command: who is evaluated, what is written and found again, what a person reads."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from artiagent.cli import main
from artiagent.config import BenchmarkSet
from artiagent.evaluation.found import evaluations, read_evaluation
from artiagent.records import CheckpointRef
from tests.evaluation.test_runners import Seer
from tests.vlm.servers import ServerThread

Options = list[str]


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARTIAGENT_HOME", str(tmp_path / "home"))


@pytest.fixture
def options(benchmark: BenchmarkSet) -> Options:
    sets = f"[{{name: drawn, path: {benchmark.path}}}, {{name: again, path: {benchmark.path}}}]"
    short = ("resamples=200", "batch_size=6", "threads=1", "device=cpu", "max_new_tokens=3", "max_box_tokens=3")
    given = [f"inputs.benchmarks={sets}", *(f"evaluation.{one}" for one in short)]
    return [part for one in given for part in ("--set", one)]


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    table = tmp_path / "answers.jsonl"
    rows = [{"item_id": f"item-{k}", "verdict": k % 2 == 0, "score": 1.0 - k % 2} for k in range(6)]
    table.write_text("\n".join(map(json.dumps, rows)))
    return table


def test_a_served_model_is_evaluated_written_and_found(options: Options, capsys: pytest.CaptureFixture[str]) -> None:
    with ServerThread(Seer()) as server:
        served = ["--set", f"evaluation.vlm.base_url={server.url}", "--set", "evaluation.prompts=defined"]
        assert main(["evaluate", "--model", "openai:org/seer-vl", *options, *served]) == 0
        asked = len(server.handler.bodies)
        assert main(["evaluate", "--model", "openai:org/seer-vl", *options, *served]) == 0
        assert len(server.handler.bodies) == asked == 15  # both benchmarks show the same images
    printed = capsys.readouterr().out
    (folder,) = evaluations()
    model, report = read_evaluation(folder)
    assert (model.name, model.kind, model.prompts) == ("seer-vl", "server", "defined")
    assert model.location == f"openai:org/seer-vl {server.url}" and re.match(r"20\d\d-\d\d-\d\dT", model.date)
    assert report.models == {"seer-vl": model.sha256} and [part.benchmark for part in report.further] == ["again"]
    assert "seer-vl" in printed and re.search(r"localization +iou +pixel_f1", printed)
    assert re.search(r"seer-vl +1\.00 \[1\.00, 1\.00\] ", printed) and "detection ok 6" in printed
    assert "30 calls, 15 from the cache, 0 without an answer" in printed
    rows = list(csv.DictReader((folder / "scores.csv").open()))
    assert {row["benchmark"] for row in rows} == {"drawn", "again"} and {row["model"] for row in rows} > {"always_yes"}
    assert any(row["group"] == "omission" and row["metric"] == "iou" and row["n"] == "1" for row in rows)


def test_a_local_model_and_predictions_from_files(
    options: Options, answers: Path, tiny_vlm: CheckpointRef, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--model", tiny_vlm.uri, "--name", "mine", "--benchmark", "again", *options]) == 0
    assert main(["evaluate", "--predictions", str(answers), "--name", "LEGION", *options]) == 0
    local, files = (read_evaluation(folder) for folder in reversed(evaluations()))
    assert (local[0].name, local[0].kind, local[0].sha256) == ("mine", "folder", tiny_vlm.sha256)
    assert local[1].benchmark == "again" and not local[1].further
    assert (files[0].name, files[0].kind, files[1].prompt_hash) == ("LEGION", "files", "files")
    assert files[1].scores["LEGION"]["macro_f1"].value == 1 and "iou" not in files[1].scores["LEGION"]
    assert "calls" not in capsys.readouterr().out
    out = tmp_path / "mine"
    assert main(["evaluate", "--predictions", str(answers), "--name", "x", "--out", str(out), *options]) == 0
    assert read_evaluation(out)[0].name == "x" and len(evaluations()) == 2


def test_heat_maps_come_with_other_thresholds(
    options: Options, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maps, out = tmp_path / "maps", tmp_path / "out"
    maps.mkdir()
    for k in range(6):
        heat = np.zeros((128, 128), np.float32)
        heat[16:48, 16:48] = 0.35
        np.save(maps / f"item-{k}.npy", heat)
    assert main(["evaluate", "--predictions", str(maps), "--name", "PAL", "--out", str(out), *options]) == 0
    table = json.loads((out / "thresholds.json").read_text())["drawn"]
    assert [table[t]["iou"]["value"] for t in ("0.1", "0.3", "0.4")] == [1, 1, 0]
    assert "drawn, threshold" in capsys.readouterr().out


def test_the_newest_evaluation_comes_first_and_unfinished_ones_do_not(options: Options, answers: Path) -> None:
    for name in ("first", "second"):
        assert main(["evaluate", "--predictions", str(answers), "--name", name, *options]) == 0
    newest, older = evaluations()
    assert read_evaluation(newest)[0].name == "second"
    os.utime(newest / "evaluation.json", (1, 1))
    assert evaluations() == [older, newest]
    (older / "model.json").unlink()
    assert evaluations() == [newest]
    (newest / "evaluation.json").write_text("{")
    with pytest.raises(ValueError, match=r"evaluation\.json: no readable EvaluationReport"):
        read_evaluation(newest)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "m", "--benchmark", "nosuch"], "--benchmark 'nosuch': expected a name of inputs.benchmarks"),
        (["--model", "openai:"], "expected openai:NAME"),
        (["--model", "no/such/folder"], "no such file or folder"),
        (["--predictions", "nowhere", "--name", "x"], "--predictions nowhere: no such file or folder"),
        (["--predictions", "nowhere"], "--name is missing"),
        (["--predictions", "ANSWERS", "--name", "always_yes"], "expected a name without '/', other than always_yes"),
    ],
)
def test_bad_arguments_are_named_and_leave_nothing(
    arguments: Options, message: str, options: Options, answers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(answers) if one == "ANSWERS" else one for one in arguments]
    assert main(["evaluate", *given, *options]) == 2
    assert message in capsys.readouterr().err
    assert evaluations() == []


def test_the_data_that_a_model_was_trained_on_is_known_from_its_folder(
    options: Options, tiny_vlm: CheckpointRef, tmp_path: Path
) -> None:
    folder = tmp_path / "tuned"
    shutil.copytree(tiny_vlm.uri, folder)
    (folder / "finetune.json").write_text(json.dumps({"data": {"kind": "conversations", "digest": "abc"}}))
    assert main(["evaluate", "--model", str(folder), *options, "--set", "evaluation.limit=2"]) == 0
    (found,) = evaluations()
    assert read_evaluation(found)[0].data_digest == "abc" and read_evaluation(found)[0].name == "tuned"

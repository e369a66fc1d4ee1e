"""The leaderboard in MLflow: one run for the same figures, the table readable as a table, the files beside it."""

from __future__ import annotations

import pytest

from artiagent.cli import main
from steps.tracking import connect, experiment, log_leaderboard


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("ARTIAGENT_HOME", str(tmp_path / "home"))


def test_the_same_figures_are_one_run(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "leaderboard.csv").write_text("model\n")
    table = {"model": ["a", "b"], "metric": ["iou", "iou"], "value": [0.1, 0.25], "low": [0.0, None]}
    client = connect()
    run = log_leaderboard(client, "nano", table, tmp_path / "out")
    assert log_leaderboard(client, "nano", table, tmp_path / "out") == run
    assert log_leaderboard(client, "nano", {**table, "value": [0.1, 0.3]}, tmp_path / "out") != run
    assert "leaderboard.csv" in {file.path for file in client.list_artifacts(run)}
    loaded = client.load_table(experiment(client, "nano"), "leaderboard-table.json", run_ids=[run])
    assert loaded["model"].tolist() == ["a", "b"] and loaded["value"].tolist() == [0.1, 0.25]


def test_the_command_tracks_in_a_checkout(benchmark, evaluated, tmp_path, capsys):
    folder = evaluated(benchmark, "good", 12)
    settings = ["--set", f"inputs.benchmarks.0.path={benchmark.path}", "--set", "evaluation.resamples=100"]
    assert main(["leaderboard", "--evaluation", str(folder), "--strips", "0", *settings]) == 0
    printed = capsys.readouterr().out
    run = printed.split("MLflow run ")[1].split()[0]
    assert {file.path for file in connect().list_artifacts(run)} == {
        "leaderboard-table.json", "leaderboard.csv", "leaderboard.html", "leaderboard.json"
    }  # fmt: skip

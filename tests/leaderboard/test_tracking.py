"""The leaderboard in MLflow: one run for the same figures, the table readable as a table, the files beside it."""

from __future__ import annotations

import json
from pathlib import Path

from artiagent.cli import main
from steps.tracking import connect, log_leaderboard


def test_the_same_figures_are_one_run(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "leaderboard.csv").write_text("model\n")
    table = {"model": ["a", "b"], "metric": ["iou", "iou"], "value": [0.1, 0.25], "low": [0.0, None]}
    client = connect()
    run = log_leaderboard(client, "nano", table, tmp_path / "out")
    assert log_leaderboard(client, "nano", table, tmp_path / "out") == run
    assert log_leaderboard(client, "nano", {**table, "value": [0.1, 0.3]}, tmp_path / "out") != run
    assert "leaderboard.csv" in {file.path for file in client.list_artifacts(run)}
    stored = json.loads(Path(client.download_artifacts(run, "leaderboard-table.json", str(tmp_path))).read_text())
    assert stored["columns"] == list(table)
    assert [list(values) for values in zip(*stored["data"], strict=True)] == list(table.values())
    tables = json.loads(client.get_run(run).data.tags["mlflow.loggedArtifacts"])
    assert tables == [{"path": "leaderboard-table.json", "type": "table"}]  # MLflow shows and loads it as a table


def test_the_command_tracks_in_a_checkout(benchmark, evaluated, tmp_path, capsys):
    folder = evaluated(benchmark, "good", 12)
    settings = ["--set", f"inputs.benchmarks.0.path={benchmark.path}", "--set", "evaluation.resamples=100"]
    assert main(["leaderboard", "--evaluation", str(folder), "--strips", "0", *settings]) == 0
    printed = capsys.readouterr().out
    run = printed.split("MLflow run ")[1].split()[0]
    assert {file.path for file in connect().list_artifacts(run)} == {
        "leaderboard-table.json", "leaderboard.csv", "leaderboard.html", "leaderboard.json"
    }  # fmt: skip

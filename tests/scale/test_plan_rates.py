"""Where rates come from, and what the command prints and writes."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import pytest
import yaml

from artiagent.cli import _add, _config_options
from artiagent.config import Config
from artiagent.run_config import ConfigError, load_config
from artiagent.scale.cli import add_commands
from artiagent.scale.rates import Rates, load_rates
from artiagent.scale.sources import card, fitted

FAST = ("--runs", "20")


def plan(*options: str) -> int:
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers(), _add, _config_options)
    arguments = parser.parse_args(["plan", *options])
    return arguments.command(arguments)


@pytest.fixture
def rehearsal() -> dict:
    """Of FLUX.1-dev at 512 px, two of its blocks, on two cores; here as if all of them had been there."""
    report = json.loads(Path("bench/rehearsal.json").read_text())
    return {**report, "projection": {**report["projection"], "extrapolated_by": 1.0}}


@pytest.mark.slow
def test_a_rehearsal_of_today_can_be_read(tmp_path: Path):
    from artiagent.synthesis.rehearsal import Rehearsal, rehearse, synthesis_section

    section = synthesis_section("paper", [], device="cpu", dtype="float32")
    path = tmp_path / "rehearsal.json"
    path.write_text(json.dumps(rehearse(Rehearsal("tiny-flux", size=64, variants=2), section)))
    assert [rate.unit for rate in load_rates(path).rates] == ["row", "row"]


def test_a_rehearsal_of_synthesis_is_seconds_here_and_operations_elsewhere(rehearsal: dict, tmp_path: Path):
    path = tmp_path / "rehearsal.json"
    path.write_text(json.dumps(rehearsal))
    here, counted = load_rates(path).rates
    assert (here.stage, here.unit, here.device, here.seconds.basis) == ("synthesize", "row", "cpu", "measured")
    assert here.seconds.value * 78 == pytest.approx(rehearsal["projection"]["seconds_per_pair"], rel=1e-6)
    assert "artiagent rehearse synthesis --backbone flux-dev --size 512" in here.seconds.source
    assert (counted.device, counted.flops.basis, counted.basis) == ("*", "counted", "assumed")
    assert here.misfits(Config()) == [
        "perception.short_side=512, not 128",
        "inputs.generator='black-forest-labs/FLUX.1-dev', not 'data/weights/nano-flux'",
    ]  # fmt: skip


def test_a_measured_rate_takes_the_place_of_an_assumed_one(rehearsal: dict, tmp_path: Path):
    machine = {**rehearsal["machine"], "type": "cuda", "device": "NVIDIA H100 80GB HBM3"}
    path = tmp_path / "h100.json"
    path.write_text(json.dumps({**rehearsal, "machine": machine}))
    config = load_config("configs/paper.yaml")
    chosen = Rates.load([load_rates(path)]).choose("synthesize", "row", ("H100",), config)
    assert chosen.seconds.basis == "measured"
    assert Rates.load().choose("synthesize", "row", ("H100",), config).seconds.basis == "assumed"
    smaller = config.model_copy(update={"perception": config.perception.model_copy(update={"short_side": 256})})
    with pytest.raises(ConfigError, match="perception.short_side=512, not 256.*measure one with 'artiagent rehearse"):
        Rates.load([load_rates(path)]).choose("synthesize", "row", ("H100",), smaller)


def test_a_rehearsal_of_a_part_of_the_blocks_is_no_measurement(tmp_path: Path):
    reports = json.loads(Path("bench/finetune.json").read_text())["reports"]
    (report,) = (r for r in reports if r["rehearsal"]["model"] == "qwen2.5-vl-7b")
    path = tmp_path / "finetune.json"
    path.write_text(json.dumps(report))
    here, _ = load_rates(path).rates
    assert (here.stage, here.unit, here.seconds.basis) == ("finetune", "frozen_sample", "assumed")
    assert "extrapolated" in here.seconds.source


def run_folder(
    folder: Path, finished: str = "2026-01-01T00:05:00+00:00", cached: bool = False, times: int = 1, start: float = 0
) -> Path:
    """A run of 100 sources, 300 pairs tried and 240 accepted, in five minutes; or of so many times as much, and what
    curation begins with."""
    folder.mkdir()
    shutil.copy("configs/nano.yaml", folder / "config.yaml")
    seconds = {"synthesize": 120.0, "curate": start + 60.0 * times, "evaluate_base": 20.0, "finetune": 80.0}
    record = {
        "name": "nano-0", "started": "2026-01-01T00:00:00+00:00", "finished": finished, "machine": "x86_64, 2 cores",
        "stages": {name: {"digest": "", "cached": cached, "seconds": s} for name, s in seconds.items()},
    }  # fmt: skip
    pairs = {"tried": 300 * times, "accepted": 240 * times, "benign": 25 * times}
    summary = {"pairs": {"scored": {"pairs": pairs}, "unscored": {}}, "evaluation": {"n": 40, "further": [{"n": 10}]}}
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_a_run_is_seconds_per_unit_and_an_acceptance(tmp_path: Path):
    found = load_rates(run_folder(tmp_path / "nano-0"))
    seconds = {(rate.stage, rate.unit): rate.seconds.value for rate in found.rates}
    assert seconds["curate", "job"] == pytest.approx(60 / 325)
    assert seconds["evaluate_base", "item"] == pytest.approx(20 / 50)
    assert seconds["report", "run"] == pytest.approx(300 - 280)  # what no stage took
    assert found.acceptance.value == pytest.approx(0.8)
    assert {rate.seconds.basis for rate in found.rates} == {"run"}


def test_two_runs_tell_what_a_stage_begins_with(tmp_path: Path, capsys: pytest.CaptureFixture):
    """20 s and 60 s per 325 jobs: 80 and 200 s at one and three times the size, so 140 s at twice."""
    folders = [run_folder(tmp_path / f"nano-{n}", times=n, start=20) for n in (1, 3)]
    (fit,) = fitted([load_rates(folder) for folder in folders])
    (curate,) = (rate for rate in fit.rates if rate.stage == "curate")
    assert (curate.fixed.value, curate.seconds.value) == pytest.approx((20, 60 / 325))
    rates = [option for folder in folders for option in ("--rates", str(folder))]
    plan("--local", "--config", "configs/nano.yaml", "--pairs", "480", *rates, "--json", "--runs", "400")
    (tree,) = json.loads(capsys.readouterr().out)["plans"]
    curated = next(stage for stage in tree["stages"] if stage["name"] == "curate")
    assert curated["hours"]["p50"] * 3600 == pytest.approx(140, rel=0.05)


@pytest.mark.parametrize("broken", [{"cached": True}, {"finished": ""}])
def test_a_run_that_did_nothing_says_nothing(tmp_path: Path, broken: dict):
    with pytest.raises(ConfigError, match="no stage of this run did anything"):
        load_rates(run_folder(tmp_path / "nano-0", **broken))


def test_files_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"none\.json: no such file; expected a rate file, a rehearsal"):
        load_rates(tmp_path / "none.json")
    (tmp_path / "torn.json").write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        load_rates(tmp_path / "torn.json")
    (tmp_path / "odd.json").write_text(json.dumps({"rates": [{"stage": "plan", "unit": "source", "device": "cpu"}]}))
    with pytest.raises(ConfigError, match=r"odd\.json: .*expected either seconds or flops"):
        load_rates(tmp_path / "odd.json")
    (tmp_path / "half.json").write_text(json.dumps({"rehearsal": {}, "synthesis": {}}))
    with pytest.raises(ConfigError, match="a rehearsal's report without 'rows'"):
        load_rates(tmp_path / "half.json")


@pytest.mark.parametrize(
    ("device", "model"),
    [("NVIDIA H100 80GB HBM3", "H100"), ("NVIDIA H200", "H200"), ("NVIDIA A100-SXM4-80GB", "A100"), ("cpu", "cpu")],
)
def test_cards(device: str, model: str):
    assert card(device) == model


def test_the_command_says_what_is_measured_and_what_is_assumed(tmp_path: Path, capsys: pytest.CaptureFixture):
    out = tmp_path / "plan"
    assert plan("--config", "configs/paper.yaml", "--gpus", "64xH100", "--out", str(out), *FAST) == 0
    told = capsys.readouterr().out
    assert told == (out / "plan.txt").read_text()
    for words in ("critical path", "runs that fail", "storage, GB", "check before you rely on it", "judge_views"):
        assert words in told
    measured, assumed = told.split("measured (")[1].split("ASSUMED (")
    assert "plan per source" in measured
    assert "synthesize per row" in assumed
    assert "finetune per frozen_sample" in assumed
    assert {path.name for path in out.iterdir()} == {"plan.json", "plan.txt", "plan-stages.png", "plan-shards.png"}
    (tree,) = json.loads((out / "plan.json").read_text())["plans"]
    pasted = yaml.safe_load(told.split("to paste below parameters.config:\n")[1].splitlines()[0])
    best = {curve["stage"]: curve["best"] for curve in tree["shards"]}
    assert pasted == {"scale": {"shards": best}}
    assert Config.model_validate(pasted).scale.shards == best


def test_alternatives_side_by_side(capsys: pytest.CaptureFixture):
    plan("--config", "configs/paper.yaml", "--gpus", "8xH100", "--gpus", "64xH100", *FAST)
    last = capsys.readouterr().out.split("\n\n")[-1].splitlines()
    assert last[0].split() == ["8xH100", "64xH100"]
    hours = last[1].removeprefix("hours, p50 and p95").replace("|", "").split()
    assert float(hours[0]) > float(hours[2])


def test_a_local_plan_of_a_run_is_that_run(tmp_path: Path, capsys: pytest.CaptureFixture):
    """Rates of a run, asked for the same again: the same time, but for the stages that the run did not have."""
    folder = run_folder(tmp_path / "nano-0")
    plan("--local", "--config", "configs/nano.yaml", "--pairs", "240", "--rates", str(folder), "--json", *FAST)
    (tree,) = json.loads(capsys.readouterr().out)["plans"]
    assert tree["acceptance"]["value"] == pytest.approx(0.8)
    stages = {stage["name"]: stage for stage in tree["stages"]}
    (rate,) = stages["curate"]["rates"]
    assert rate["amount"] * rate["seconds"]["value"] == pytest.approx(60)
    assert tree["gpu_hours"]["p95"] == 0
    assert tree["money_by"]["API"]["p50"] == 0


def test_acceptance_is_asked_for(capsys: pytest.CaptureFixture):
    plan("--config", "configs/paper.yaml", "--gpus", "8xH100", "--acceptance", "0.5", "--json", *FAST)
    (tree,) = json.loads(capsys.readouterr().out)["plans"]
    assert tree["amounts"]["tried"]["p95"] == 100_000
    with pytest.raises(ValueError, match="expected more than 0 and at most 1"):
        plan("--config", "configs/paper.yaml", "--gpus", "8xH100", "--acceptance", "1.5")

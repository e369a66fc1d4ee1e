"""``artiagent finetune`` and ``artiagent rehearse finetune`` as a person types them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch

from artiagent.learning import rehearsal
from artiagent.learning.architectures import ARCHITECTURES, empty_model, layer_counts
from artiagent.learning.cli import add_commands, add_rehearsal
from artiagent.records import CheckpointRef, DatasetRef

STAGE = '[{"name": "language", "train_vision": false, "max_steps": 1}]'
FAST = [
    f"--set=sft.{setting}"
    for setting in ("device=cpu", "threads=1", "batch_pairs=4", "mirror=false", "autocast=none", f"stages={STAGE}")
]
SHORT = ["--model=nano", "--device=cpu", "--pixels=4096", "--batch-pairs=1", "--steps=1", "--dtype=float32"]


def run(*arguments: str) -> int:
    """The command as `artiagent.cli` would dispatch it."""
    commands = argparse.ArgumentParser().add_subparsers(required=True)

    def add(to: argparse._SubParsersAction, name: str, text: str, command: object) -> argparse.ArgumentParser:
        made = to.add_parser(name, help=text)
        made.set_defaults(command=command)
        return made

    def config_options(to: argparse.ArgumentParser) -> None:
        to.add_argument("--config", type=Path, default="configs/nano.yaml")
        to.add_argument("--set", action="append", default=[])

    add_commands(commands, add, config_options)
    add_rehearsal(commands.add_parser("rehearse").add_subparsers(required=True), add)
    kinds = {"finetune": commands.choices["finetune"], "rehearse": commands.choices["rehearse"]}
    parsed = kinds[arguments[0]].parse_args(arguments[1:])
    return parsed.command(parsed)


def test_a_version_of_the_data_is_trained_on_and_the_result_is_told(
    conversations: DatasetRef, tiny_vlm: CheckpointRef, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tuned"
    command = ("finetune", "--conversations", conversations.uri, "--model", tiny_vlm.uri, "--out", str(out), *FAST)
    assert run(*command, "--set", "sft.method=lora") == 0
    shown = capsys.readouterr().out
    assert f"adapter              {out}/adapter" in shown and f"model and processor  {out}" in shown
    assert shown.splitlines()[1].split()[:2] == ["language", "1"]
    assert run(*command, "--set", "sft.method=lora") == 0  # again: what is there
    assert capsys.readouterr().out == shown


def test_conversations_are_made_of_a_curated_set(
    curated: DatasetRef, conversations: DatasetRef, tiny_vlm: CheckpointRef, tmp_path: Path
) -> None:
    scenes = Path(conversations.uri).parent / "scenes"
    command = ("finetune", "--curated", curated.uri, "--model", tiny_vlm.uri, "--out", str(tmp_path / "tuned"), *FAST)
    with pytest.raises(ValueError, match="add --scenes DIR"):
        run(*command)
    assert run(*command, "--scenes", str(scenes)) == 0
    made = json.loads((tmp_path / "tuned" / "finetune.json").read_text())
    assert made["data"]["digest"] == conversations.digest
    with pytest.raises(ValueError, match="leave --scenes out"):
        run("finetune", "--data", conversations.uri, "--scenes", str(scenes), "--out", str(tmp_path / "x"))


@pytest.mark.parametrize(("method", "stage"), [("lora", "language"), ("full", "vision")])
def test_a_rehearsal_measures_and_projects(
    method: str, stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.json"
    assert run("rehearse", "finetune", *SHORT, "--method", method, "--stage", stage, "--samples", "3600",
               "--depth", "0.5", "--out", str(out)) == 0  # fmt: skip
    report = json.loads(out.read_text())
    assert report["model"]["layers"] == {"language": 2, "vision": 3}
    assert report["tokens"] == {"rows": 2, "image": 16, "text": 231, "labelled": 110}
    step, ahead = report["seconds"]["step"], report["projection"]
    assert 1 < ahead["extrapolated_by"] < 2
    assert ahead["device_hours"] == pytest.approx(step * ahead["extrapolated_by"] / 2)  # 3600 samples, 2 a step
    assert (report["model"]["trained"] == report["model"]["parameters"]) == (method == "full")
    assert report["compute"]["step_model_flops"] > report["compute"]["forward_language_flops"]
    assert "device-hours for 3,600 samples, extrapolated" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "gpt-5"], "expected one of qwen2.5-vl-7b"),
        (["--model", "nano", "--depth", "0"], "depth 0.0"),
        (["--model", "nano", "--batch-pairs", "0"], "batch_pairs 0"),
        (["--model", "nano", "--pixels", "9"], "raise --pixels"),
        (["--model", "internvl3.5-8b", "--pixels", "100000", "--depth", "0.01"], "one tile has 200704"),
    ],
)
def test_what_cannot_be_rehearsed_is_refused(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "random_model", lambda *_: pytest.fail("built all the same"))
    with pytest.raises(ValueError, match=message):
        run("rehearse", "finetune", "--device", "cpu", *arguments)


def test_weights_that_do_not_fit_are_refused_before_they_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "random_model", lambda *_: pytest.fail("built all the same"))
    with pytest.raises(ValueError, match=r"need 1\d\d\.\d GiB on cpu.*--depth"):
        run("rehearse", "finetune", "--model", "qwen2.5-vl-7b", "--method", "full", "--stage", "vision",
            "--dtype", "float32", "--device", "cpu")  # fmt: skip


@pytest.mark.parametrize(
    ("name", "parameters", "layers"),
    [
        ("qwen2.5-vl-7b", 8_292_166_656, {"language": 28, "vision": 32}),
        ("qwen2.5-vl-3b", 3_754_622_976, {"language": 36, "vision": 32}),
        ("qwen3-vl-8b", 8_767_123_696, {"language": 36, "vision": 27}),
        ("internvl3.5-8b", 8_528_318_464, {"language": 36, "vision": 24}),
    ],
)
def test_the_named_architectures_have_their_published_sizes(name: str, parameters: int, layers: dict) -> None:
    config = ARCHITECTURES[name].config(1.0)
    model = empty_model(config)
    model.tie_weights()
    assert sum(p.numel() for p in model.parameters()) == parameters and layer_counts(config) == layers
    assert {p.device for p in model.parameters()} == {torch.device("meta")}
    assert layer_counts(ARCHITECTURES[name].config(0.001)) == {"language": 1, "vision": 1}

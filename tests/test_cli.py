import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from artiagent import cli
from artiagent.config import Config
from artiagent.doctor import diagnose, examine
from artiagent.store import checkout

ROOT = checkout()
HEAVY = ("torch", "diffusers", "transformers", "zenml", "mlflow", "pydantic", "numpy")


def run(*arguments, cwd=None, env=None):
    return subprocess.run(
        [sys.executable, "-m", "artiagent.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=env,
        check=False,
    )


def test_help_is_quick_and_imports_nothing_heavy():
    code = "import sys; from artiagent import cli\ntry: cli.main(['--help'])\nexcept SystemExit: pass\n"
    code += f"print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "artiagent run --config configs/nano.yaml" in done.stdout
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 1.0  # processor time: machines are shared


COMMANDS = (
    "run ablate study rehearse synthesize curate calibrate finetune evaluate leaderboard attention promote rollback "
    "models inspect serve search fix audit plan stack kubeflow runs data nano doctor ui"
)


@pytest.mark.parametrize("command", COMMANDS.split())
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    assert f"artiagent {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--config", "none.yaml"], "no such configuration file"),
        (["run", "--set", "synthesis.stepz=3"], "did you mean 'steps'"),
        (["run", "--annotations", "a.json"], "without --images"),
        (["synthesize", "--out", "o", "--set", "inputs.generator=nowhere"], "no such file or folder"),
        (["synthesize", "--out", "o", "--shard", "0/4"], "give --scenes and --jobs"),
        (["synthesize", "--out", "o", "--scenes", "s", "--images", "i", "--jobs", "j"], "give either"),
        (["synthesize", "--out", "o", "--scenes", "s", "--jobs", "j"], "s: no complete data set, expected scenes"),
        *(
            (["synthesize", "--out", "o", "--scenes", "s", "--jobs", "j", "--shard", bad], f"shard '{bad}': expected")
            for bad in ("5/4", "4/4", "x", "1", "/4", "1/0", "0.5/2", "")
        ),
        (["evaluate", "--model", "nowhere"], "no such file or folder"),
        (["inspect", "picture.png", "--model", "nowhere"], "no such file or folder"),
        (["nano", "scenes", "--first-seed", "600000"], "expected at least one, all inside"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("artiagent: ")
    assert len(error.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("*.parquet"))


def test_debug_shows_the_traceback():
    done = run("evaluate", "--model", "nowhere", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_pipelines_outside_a_checkout(tmp_path):
    shutil.copytree(ROOT / "artiagent", tmp_path / "artiagent", ignore=shutil.ignore_patterns("__pycache__"))
    done = run("runs", "list", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "artiagent: this command needs a checkout of the repository: clone it and run 'make setup' there"
    )


def test_configuration_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.parser().parse_args(["run"]).config == ROOT / "configs" / "nano.yaml"
    (tmp_path / "mine.yaml").write_text("")
    assert cli.parser().parse_args(["run", "--config", "mine.yaml"]).config == Path("mine.yaml")


def test_folder_of_another_configuration_is_refused(tmp_path):
    out = cli._stamped(tmp_path / "o", "one")
    assert cli._stamped(out, "one") == out
    with pytest.raises(ValueError, match="another configuration"):
        cli._stamped(out, "two")


def test_nano_scenes(tmp_path):
    assert cli.main(["nano", "scenes", "--out", str(tmp_path / "s"), "--count", "2"]) == 0
    coco = json.loads((tmp_path / "s" / "annotations.json").read_text())
    assert len(coco["images"]) == 2


def test_recipes_take_their_own_options():
    done = run("nano", "train", "clip", "--help")
    assert done.returncode == 0
    assert "--minutes" in done.stdout


def test_doctor_names_what_is_missing(capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret-token")
    config = Config()
    lacking = config.model_copy(update={"inputs": config.inputs.model_copy(update={"vlm": "nowhere"})})
    assert examine(lacking) == 1
    shown = capsys.readouterr().out
    assert "vlm" in shown.splitlines()[-1]
    assert "secret-token" not in shown
    tokens = [f for f in diagnose(config) if f.name == "HF_TOKEN"]
    assert tokens[0].value.startswith("set")


def test_blind_needs_pairs_or_verdicts(tmp_path, capsys):
    assert cli.main(["blind", "--out", str(tmp_path)]) == 2
    assert "--curated is missing" in capsys.readouterr().err


def test_blind_scores_verdicts(tmp_path, capsys):
    key = {"1": {"side": "left", "type": "omission"}}
    (tmp_path / "key.json").write_text(json.dumps(key))
    (tmp_path / "verdicts.json").write_text(json.dumps({"1": {"side": "right", "type": "omission"}}))
    assert cli.main(["blind", "--out", str(tmp_path), "--verdicts", str(tmp_path / "verdicts.json")]) == 0
    assert json.loads(capsys.readouterr().out)["all"] == {"n": 1, "side": 0, "type": 1}


def test_nano_measurements_name_what_is_missing(tmp_path, capsys):
    assert cli.main(["nano", "truth", "--curated", str(tmp_path), "--parser", str(tmp_path)]) == 2
    assert "no nano-parser here" in capsys.readouterr().err

"""A real server, started by the command: its health, the same command and a foreign client asking it, its end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from artiagent import cli
from artiagent.images import encode
from artiagent.nano.scenes import render_scene
from artiagent.serving.process import require_free
from tests.serving.conftest import FOLDER, Running

CLIENT = Path(__file__).resolve().parents[2] / "examples" / "client.py"
ONE_THREAD = ("--set", "evaluation.threads=1", "--set", "evaluation.device=cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("scenes")
    for seed in range(6):
        (made / f"{seed}.png").write_bytes(encode(render_scene(seed).image))
    return made


def test_it_is_well(served: Running, capsys) -> None:
    assert cli.main(["serve", "--check", served.url]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"well: {served.url}/v1 holds /") and "nano-vl; answered" in said and " ms" in said


def test_a_served_model_says_what_it_says_in_process(served: Running, folder: Path, tmp_path: Path, capsys) -> None:
    call = ["inspect", str(folder), *ONE_THREAD, "--format", "json"]
    assert cli.main([*call, "--server", served.url, "--out", str(tmp_path / "served")]) == 0
    assert cli.main([*call, "--model", FOLDER, "--out", str(tmp_path / "local")]) == 0
    told, known = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("served", "local"))
    assert [row.pop("score") for row in told] == [None] * 6  # transformers serve tells no probabilities
    assert all(0 <= row.pop("score") <= 1 for row in known)
    assert told == known and {row["verdict"] for row in told} <= {"artifacts", "clean"}


def test_the_example_client_says_the_same(served: Running, folder: Path, tmp_path: Path, capsys) -> None:
    for image in sorted(folder.iterdir())[:3]:
        call = ["inspect", str(image), *ONE_THREAD, "--server", served.url, "--json", "--out", str(tmp_path / "o.png")]
        assert cli.main(call) == 0
        known = json.loads(capsys.readouterr().out)
        done = subprocess.run(
            [sys.executable, CLIENT, served.url, image, "--unit", "16"], capture_output=True, text=True, check=True
        )
        told = json.loads(done.stdout)
        assert told == {name: known[name] for name in told} and set(known) - set(told) == {
            "annotated", "model", "model_sha256", "prompt_hash",
        }  # fmt: skip


def test_a_threshold_needs_probabilities(served: Running, folder: Path, tmp_path: Path, capsys) -> None:
    call = ["inspect", str(folder), "--server", served.url, "--threshold", "0.9", "--out", str(tmp_path / "o")]
    assert cli.main(call) == 2
    assert "the server tells no probabilities" in capsys.readouterr().err


def test_only_this_machine_is_listened_to(served: Running) -> None:
    port = int(served.url.rpartition(":")[2])
    with pytest.raises(ValueError, match="choose another --host or --port"):
        require_free("127.0.0.1", port)
    require_free("127.0.0.2", port)


def test_an_interrupt_ends_server_and_command(served: Running) -> None:
    """The last test of the server: afterwards it is gone."""
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(30) == 0, served.log.read_text()
    with pytest.raises(OSError):
        urllib.request.urlopen(f"{served.url}/health", timeout=2)
    assert "Traceback" not in served.log.read_text()

"""Command lines of servers, word by word; nothing is started here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from aiohttp import web

from artiagent import cli
from artiagent.checkpoints import locate
from artiagent.config import EvaluationSection
from artiagent.images import encode
from artiagent.records import CheckpointRef
from artiagent.serving import backends
from artiagent.serving.backends import BACKENDS, Listen, command_line, image_budget
from artiagent.serving.check import tiny_image
from tests.serving.conftest import FOLDER
from tests.vlm.servers import ServerThread, completion

MODEL = CheckpointRef(name="artiagent-vlm-paper@champion", uri="/models/seven", sha256="ab")


def test_transformers() -> None:
    command = command_line("transformers", MODEL, EvaluationSection(device="cpu"), Listen("127.0.0.1", 8001))
    assert Path(command[0]).name == "transformers" and command[1:] == [
        "serve", "/models/seven", "--host", "127.0.0.1", "--port", "8001", "--device", "cpu", "--dtype", "float32",
        "--no-trust-remote-code",
    ]  # fmt: skip


def test_vllm_keeps_name_and_image_budget() -> None:
    model = MODEL.model_copy(update={"uri": str(locate(FOLDER))})
    command = command_line("vllm", model, EvaluationSection(dtype="bfloat16"), Listen("127.0.0.1", 8000))
    assert command[1:] == [
        "serve", model.uri, "--host", "127.0.0.1", "--port", "8000", "--served-model-name", MODEL.name,
        "--dtype", "bfloat16", "--limit-mm-per-prompt", '{"image": 1, "video": 0}',
        "--mm-processor-kwargs", '{"max_pixels": 16384}',
    ]  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_server_runs_code_out_of_a_folder(backend) -> None:
    assert "--trust-remote-code" not in command_line(backend, MODEL, EvaluationSection(), Listen("127.0.0.1", 1))


@pytest.mark.parametrize(
    ("name", "told", "budget"),
    [
        ("processor_config.json", {"image_processor": {"size": {"longest_edge": 5, "shortest_edge": 1}}}, 5),
        ("preprocessor_config.json", {"min_pixels": 1, "max_pixels": 7}, 7),
        ("preprocessor_config.json", {"size": {"height": 224, "width": 224}}, None),
        ("config.json", {}, None),
    ],
)
def test_image_budget(tmp_path: Path, name: str, told: dict, budget: int | None) -> None:
    (tmp_path / name).write_text(json.dumps(told))
    assert image_budget(tmp_path) == budget


def test_dry_run_prints_a_command_and_warns_beyond_this_machine(capsys) -> None:
    assert cli.main(["serve", "--model", FOLDER, "--backend", "vllm", "--dry-run"]) == 0
    said = capsys.readouterr()
    assert "serve /" in said.out and "--host 127.0.0.1" in said.out and not said.err
    assert cli.main(["serve", "--model", FOLDER, "--host", "0.0.0.0", "--dry-run"]) == 0
    said = capsys.readouterr()
    assert "--host 0.0.0.0" in said.out and "warning" in said.err and "without a key" in said.err


def test_a_missing_backend_is_told_with_the_way_to_install_it(capsys, monkeypatch) -> None:
    monkeypatch.setattr(backends, "program", lambda backend: None)
    for backend, hint in (("vllm", "pip install vllm"), ("transformers", "transformers[serving]")):
        assert cli.main(["serve", "--model", FOLDER, "--backend", backend]) == 2
        assert hint in capsys.readouterr().err


def test_no_champion_is_told_with_the_remedy(capsys) -> None:
    assert cli.main(["serve", "--set", "registry.vlm_name=artiagent-vlm-nobody", "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert "models:/artiagent-vlm-nobody@champion: no such registered model" in error and "registers" in error


@pytest.mark.parametrize(("said", "code"), [("Yes", 0), ("no.", 0), ("banana", 1), ("", 1)])
def test_a_check_wants_a_yes_or_no(said: str, code: int, capsys) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/models"):
            return web.json_response({"data": [{"id": "small-vl"}]})
        return web.json_response({**completion(said), "model": "small-vl"})

    with ServerThread(answer) as server:
        assert cli.main(["serve", "--check", server.url]) == code
    told = capsys.readouterr()
    assert ("holds small-vl" in told.out) if code == 0 else told.err.startswith("not well: ")


def test_a_check_where_nobody_is(capsys) -> None:
    assert cli.main(["serve", "--check", "http://127.0.0.1:9"]) == 1
    assert "no server answers there" in capsys.readouterr().err


@pytest.mark.parametrize(("named", "known"), [("m", True), ("another", False)])
def test_weights_are_stamped_only_where_the_server_names_them(named: str, known: bool, tmp_path: Path, capsys) -> None:
    (tmp_path / "i.png").write_bytes(encode(tiny_image()))
    folder = locate(FOLDER)

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response({**completion("No"), "model": str(folder) if named == "m" else named, "data": []})

    with ServerThread(answer) as server:
        call = ["inspect", str(tmp_path / "i.png"), "--server", server.url, "--model", FOLDER, "--json"]
        assert cli.main([*call, "--out", str(tmp_path / "o.png")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "clean" and bool(found["model_sha256"]) == known
    assert found["model"] == ("nano-vl" if known else "another")

"""The key is in the header of a request and nowhere else: a canary goes through every failure, all that comes out is
searched."""

from __future__ import annotations

import logging
import os
import sqlite3
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from aiohttp import web

from artiagent.config import VlmSection
from artiagent.vlm.agent import consult
from artiagent.vlm.openai import OpenAiVlm
from tests.vlm.calls import backend, question
from tests.vlm.servers import ServerThread, completion, free_port

CANARY = "canary-7f3a9c21e5b84d60"
ECHO = {"error": {"message": f"you sent Bearer {CANARY}, unsupported seed", "code": CANARY}}


async def _hang(request: web.Request) -> web.Response:
    import asyncio

    await asyncio.sleep(60)
    return web.Response()


async def _reset(request: web.Request) -> web.Response:
    request.transport.abort()
    return web.Response()


async def _cut(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "500"})
    await response.prepare(request)
    await response.write(CANARY.encode())
    request.transport.close()
    return response


def _say(status: int, body: object = ECHO, **headers: str) -> object:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response(body, status=status, headers=headers)

    return handler


SERVERS = {
    "401": _say(401), "403": _say(403), "404": _say(404), "402": _say(402), "400": _say(400), "422": _say(422),
    "413": _say(413, {"detail": [CANARY]}), "429": _say(429, ECHO, **{"Retry-After": CANARY}), "500": _say(500),
    "redirect": _say(302, ECHO, Location=f"http://127.0.0.1:1/?key={CANARY}"),
    "not a completion": _say(200), "empty": _say(200, completion(None, refusal=CANARY)),
    "in the answer": _say(200, completion(f'{{"label": "{CANARY}"}}')), "timeout": _hang, "reset": _reset, "cut": _cut,
}  # fmt: skip


def everything_that_comes_out(vlm: OpenAiVlm, folder: Path, caplog: pytest.LogCaptureFixture) -> str:
    """Answers, records, errors with their tracebacks, representations, the account, logs and the cache."""
    said = []
    try:
        outcomes = consult(vlm, (question(n, yes_no=n == 1) for n in range(3)), lambda text: text)
        said += [repr(outcomes), *(o.call.model_dump_json() for o in outcomes)]
        assert outcomes[0].call.status
    except ValueError as error:
        said += [repr(error), "".join(traceback.format_exception(error))]
        while (error := error.__cause__ or error.__context__) is not None:
            said.append(f"{error!r} {vars(error)}")
    said += [repr(vlm), repr(vlm.spent()), repr(vlm.section), caplog.text, *map(repr, caplog.records)]
    said += [repr(record.args) for record in caplog.records]
    vlm.cache.close()
    return "\n".join(said) + "".join(path.read_bytes().decode("latin-1") for path in folder.rglob("*"))


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("CANARY_KEY", CANARY)
    caplog.set_level(logging.DEBUG)


@pytest.mark.parametrize("case", SERVERS)
def test_no_failure_gives_the_key_away(case: str, key: None, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str | None] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("Authorization"))
        return await SERVERS[case](request)

    with ServerThread(handler) as server:
        fields = {"api_key_env": "CANARY_KEY", "timeout": 0.5, "attempts": 2, "structured": "prompt"}
        text = everything_that_comes_out(backend(server.url, tmp_path, **fields), tmp_path, caplog)
    assert seen and set(seen) == {f"Bearer {CANARY}"}  # it was really sent
    assert CANARY not in text and len(text) > 500


def test_a_server_that_is_down_and_a_key_that_no_header_carries(
    key: None, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    text = everything_that_comes_out(backend(url, tmp_path, api_key_env="CANARY_KEY"), tmp_path, caplog)
    assert "cannot be reached" in text and CANARY not in text
    for broken in (f"{CANARY}\r\nX-Injected: 1", f"{CANARY}\u00e9"):
        monkeypatch.setenv("CANARY_KEY", broken)
        text = everything_that_comes_out(backend(url, tmp_path, api_key_env="CANARY_KEY"), tmp_path, caplog)
        assert "CANARY_KEY: the key holds characters" in text and CANARY not in text


@pytest.mark.parametrize(
    "url", [f"http://user:{CANARY}@127.0.0.1/v1", f"http://{CANARY}@127.0.0.1", f"http://127.0.0.1/v1?key={CANARY}",
            f"http://127.0.0.1/v1#{CANARY}", f"http://[{CANARY}@/", f"http://u:{CANARY}@h:port/"],
)  # fmt: skip
def test_a_url_with_a_secret_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"base_url\s+Value error, no user, password or query") as caught:
        backend(url)
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    unchecked = VlmSection(backend="openai", model="m").model_copy(update={"base_url": url})
    with pytest.raises(ValueError, match=r"curation\.vlm\.base_url: expected") as caught:
        OpenAiVlm(unchecked, None, "curation.vlm")
    assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_the_key_is_read_when_it_is_sent_and_may_be_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.json_response(completion("EMPTY means nothing"))

    with ServerThread(handler) as server:
        vlm = backend(server.url, tmp_path, api_key_env="CANARY_KEY")
        for number, value in enumerate((None, CANARY, "EMPTY")):
            if value:
                monkeypatch.setenv("CANARY_KEY", value)
            (answer,) = vlm.ask([question(number, schema=None)])
    assert seen == [None, f"Bearer {CANARY}", "Bearer EMPTY"]
    assert answer.text == "EMPTY means nothing"  # a placeholder is no secret
    with sqlite3.connect(vlm.cache.path) as connection:
        assert CANARY not in repr(connection.execute("SELECT * FROM answers").fetchall())


STEP = f"""
import os
from zenml import pipeline, step
from zenml.client import Client

@step(enable_cache=False)
def look() -> bool:
    return len(os.environ.get("CANARY_KEY", "")) == {len(CANARY)}  # the store keeps the source of steps

@pipeline(enable_cache=False)
def asking() -> None:
    look()

Client().create_secret("vlm-key", {{"CANARY_KEY": "{CANARY}"}})
run = asking.with_options(config_path="config.yaml")()
print("seen by the step:", run.steps["look"].output.load(), "left behind:", "CANARY_KEY" in os.environ)
"""


@pytest.mark.slow  # a new ZenML store
def test_a_zenml_secret_reaches_the_step_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("secrets: [vlm-key]\n")
    environment = {**os.environ, "ZENML_CONFIG_PATH": str(tmp_path / "zenml")}
    environment.pop("CANARY_KEY", None)
    (tmp_path / "asking.py").write_text(STEP)
    command = [sys.executable, str(tmp_path / "asking.py")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "seen by the step: True left behind: False" in done.stdout, done.stderr
    (tmp_path / "asking.py").unlink()
    assert CANARY not in done.stdout + done.stderr
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and CANARY.encode() in p.read_bytes()]

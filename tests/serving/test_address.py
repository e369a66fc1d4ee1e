"""Addresses in their spellings, and how a server's model is found out."""

from __future__ import annotations

import pytest
from aiohttp import web

from artiagent.serving.address import NoServer, address, base_url, is_healthy, model_id
from tests.vlm.servers import ServerThread, free_port


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000/v1"),
        ("https://host/models/v1", "https://host/models/v1"),
    ],
)
def test_addresses(given: str, expected: str) -> None:
    assert base_url(given) == expected


@pytest.mark.parametrize("given", ["127.0.0.1:8000", "ftp://h", "http://", "http://u:secret@h", "http://h?key=secret"])
def test_what_is_no_address_is_refused_without_repeating_it(given: str) -> None:
    with pytest.raises(ValueError, match="expected a server's address") as error:
        base_url(given)
    assert "secret" not in str(error.value)


def test_where_a_host_is_reached() -> None:
    assert address("0.0.0.0", 1) == "http://127.0.0.1:1" and address("::", 2) == "http://[::1]:2"
    assert address("127.0.0.1", 3) == "http://127.0.0.1:3"


class Names:
    """Answers ``/models`` with ``listed`` (None: an error, as transformers serve without a hub's cache)."""

    def __init__(self, listed: list[str] | None, named: str | None) -> None:
        self.listed, self.named, self.keys = listed, named, []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.keys.append(request.headers.get("Authorization"))
        if request.path.endswith("/models"):
            if self.listed is None:
                return web.Response(status=500, text="Internal Server Error")
            return web.json_response({"data": [{"id": name} for name in self.listed]})
        return (
            web.json_response({"model": self.named, "choices": []}) if self.named != "400" else web.Response(status=400)
        )


@pytest.mark.parametrize(
    ("listed", "named", "expected"),
    [
        (["artiagent-vlm-nano@champion"], None, "artiagent-vlm-nano@champion"),
        (None, "/models/nano@main", "/models/nano"),
        (["a", "b"], "a", "a"),
        ([], "name@champion", "name@champion"),
    ],
)
def test_a_servers_model(listed, named, expected, monkeypatch) -> None:
    monkeypatch.setenv("SOME_KEY", "very-secret-key")
    with ServerThread(Names(listed, named)) as server:
        assert model_id(server.url, "SOME_KEY") == expected
        assert set(server.handler.keys) == {"Bearer very-secret-key"}


@pytest.mark.parametrize("named", [None, "400"])
def test_a_server_that_does_not_tell(named) -> None:
    with ServerThread(Names(None, named)) as server, pytest.raises(NoServer, match="with --model"):
        model_id(server.url)


def test_nobody_there() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert not is_healthy(url)
    with pytest.raises(NoServer, match="no server answers there"):
        model_id(f"{url}/v1")


def test_a_key_does_not_follow_a_redirect(monkeypatch) -> None:
    monkeypatch.setenv("SOME_KEY", "very-secret-key")
    with ServerThread(Names(["thief"], "thief")) as other:

        async def away(request: web.Request) -> web.StreamResponse:
            raise web.HTTPTemporaryRedirect(f"{other.url}/models")

        with ServerThread(away) as server, pytest.raises(NoServer):
            model_id(server.url, "SOME_KEY")
        assert other.handler.keys == []

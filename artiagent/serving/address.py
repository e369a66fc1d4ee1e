"""Where a server listens and which model it holds.

Knows URLs and two requests of OpenAI-compatible servers. Does not know questions or how servers are started.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

_TIMEOUT = 60.0  # seconds; the first question may wait until the model is loaded


class NoServer(ValueError):
    """Nobody answers at an address, or somebody who serves no model; the message says what to do."""


class _Stay(urllib.request.HTTPRedirectHandler):
    """Redirects are errors: a key goes to nobody else."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay)


def base_url(url: str) -> str:
    """``http://host:port/v1`` of any of its usual spellings. Raises ValueError for what is no such address."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in url or parts.query or parts.fragment:
        raise ValueError("expected a server's address such as http://127.0.0.1:8000, without user, password or query")
    return url.rstrip("/") + ("" if parts.path.strip("/") else "/v1")


def address(host: str, port: int) -> str:
    """The URL at which this machine reaches a server that listens on ``host``."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://{f'[{reached}]' if ':' in reached else reached}:{port}"


def is_healthy(url: str) -> bool:
    """Whether ``/health`` answers with success."""
    try:
        _open(urllib.request.Request(f"{url.removesuffix('/v1')}/health"), timeout=5)
    except OSError:
        return False
    return True


def model_id(url: str, api_key_env: str = "OPENAI_API_KEY") -> str:
    """The server's own name of the model it holds.

    From ``/models`` where that lists one; ``transformers serve`` lists the hub's cache instead, and names its model in
    an answer to a question that names none.

    Args:
        url: result of ``base_url``.
        api_key_env: environment variable of the key; unset: none is sent.

    Raises NoServer.
    """
    if (listed := _listed(url, api_key_env)) is not None:
        return listed
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}], "max_tokens": 1}
    try:
        answer = _json(f"{url}/chat/completions", api_key_env, body)
    except urllib.error.HTTPError as error:
        raise NoServer(f"{url}: tells no model (http {error.code}); give its name with --model") from None
    except OSError as error:
        raise NoServer(
            f"{url}: no server answers there ({getattr(error, 'reason', error)}); start one with 'artiagent serve'"
        ) from None
    name, _, revision = str(answer.get("model") or "").rpartition("@")
    found = name if revision == "main" else str(answer.get("model") or "")
    if not found:
        raise NoServer(f"{url}: its answer names no model; give it with --model")
    return found


def _listed(url: str, api_key_env: str) -> str | None:
    try:
        models = _json(f"{url}/models", api_key_env).get("data")
    except OSError:
        return None
    names = [model.get("id") for model in models or () if isinstance(model, dict)]
    return names[0] if len(names) == 1 and isinstance(names[0], str) else None


def _json(url: str, api_key_env: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Raises OSError (urllib's errors are) also for an answer that is no JSON object."""
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if key := os.environ.get(api_key_env, "").strip():
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    try:
        value = json.loads(_open(urllib.request.Request(url, data, headers), _TIMEOUT))
    except ValueError:
        raise OSError("the answer is no JSON") from None
    if not isinstance(value, dict):
        raise OSError("the answer is no JSON object")
    return value


def _open(request: urllib.request.Request, timeout: float) -> bytes:
    with _OPENER.open(request, timeout=timeout) as response:
        return response.read()

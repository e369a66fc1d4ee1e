"""One request to a server, and the thread on whose event loop all of them run.

Knows HTTP, timeouts and the key: it is read from the environment when it is sent, and cut out of everything that comes
back. Redirects are not followed, so that it goes to nobody else. Does not know retries or what a body says.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp

from artiagent.vlm.limits import retry_after
from artiagent.vlm.protocol import VlmUnavailable

T = TypeVar("T")
_CONNECT = 10.0  # seconds at most until a connection stands
_SECRET = 8  # characters: shorter keys are the placeholders of local servers, and words of ordinary answers
_JOIN = 10.0


class Unreachable(Exception):
    """No connection: nothing was sent. The message says why."""


class Lost(Exception):
    """Sent, but no whole answer came back: "timeout" or "connection". It may have been paid for."""


@dataclass(frozen=True)
class Response:
    """What a server answered, without the key. `wait` is its Retry-After in seconds, `location` of a redirect."""

    status: int
    text: str
    wait: float | None = None
    location: str = ""


class Endpoint:
    """``base_url``/chat/completions.

    Args:
        base_url: http(s)://host[:port]/path, without user, password and query.
        api_key_env: environment variable of the key; unset: no key is sent.
        timeout: seconds for one request.
        setting: prefix of the settings that errors name.

    Raises ValueError for another kind of URL, without repeating it.
    """

    def __init__(self, base_url: str, api_key_env: str, timeout: float, setting: str) -> None:
        self.api_key_env, self.setting = api_key_env, setting
        self.base_url = _checked(base_url, setting)
        self._url = f"{self.base_url}/chat/completions"
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=min(timeout, _CONNECT))

    async def post(self, session: aiohttp.ClientSession, body: Mapping[str, Any]) -> Response:
        """Send and read to the end. Raises Unreachable, Lost, and VlmUnavailable for a key that cannot be sent."""
        return await self._send(session, "POST", self._url, json.dumps(body).encode())

    async def get(self, session: aiohttp.ClientSession, path: str) -> Response:
        """``base_url``/path; raises as `post`."""
        return await self._send(session, "GET", f"{self.base_url}/{path}", None)

    async def _send(self, session: aiohttp.ClientSession, method: str, url: str, data: bytes | None) -> Response:
        try:
            async with session.request(
                method, url, data=data, headers=self._headers(), timeout=self._timeout, allow_redirects=False
            ) as response:
                raw = await response.read()
                wait = retry_after(response.headers.get("Retry-After"))
                location = self.scrub(response.headers.get("Location", ""))
                return Response(response.status, self.scrub(raw.decode(errors="replace")), wait, location)
        except aiohttp.ConnectionTimeoutError:
            raise Unreachable("no connection in time") from None
        except aiohttp.ClientConnectorError as error:
            raise Unreachable(self.scrub(str(error.os_error.strerror or error.os_error))) from None
        except TimeoutError:
            raise Lost("timeout") from None
        except (aiohttp.ClientError, OSError):
            raise Lost("connection") from None  # the library's errors hold the headers that were sent

    def scrub(self, text: str) -> str:
        """The text without the key."""
        key = self._key()
        return text.replace(key, "***") if len(key) >= _SECRET else text

    def _key(self) -> str:
        return os.environ.get(self.api_key_env, "").strip()

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if not (key := self._key()):
            return headers
        if not (key.isascii() and key.isprintable()):
            raise VlmUnavailable(f"{self.api_key_env}: the key holds characters that no header can carry; set it again")
        return {**headers, "Authorization": f"Bearer {key}"}


class LoopThread:
    """An event loop in a thread of its own, with an HTTP session; `close` cancels what is under way and ends it.

    Args:
        slots: requests under way at a time.
    """

    def __init__(self, slots: int) -> None:
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main(slots, ready)), daemon=True, name="vlm")
        self._thread.start()
        ready.result()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, function: Callable[[], None]) -> None:
        """Run a function in the thread, between whatever else it does."""
        self._loop.call_soon_threadsafe(function)

    def close(self) -> None:
        with suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(self._stop.set)
        if threading.current_thread() is not self._thread:  # a forgotten iterator may be collected anywhere
            self._thread.join(_JOIN)

    async def _main(self, slots: int, ready: Future[None]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.slots = asyncio.Semaphore(slots)
        try:
            connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300)
            async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as self.session:
                ready.set_result(None)
                await self._stop.wait()
                await _cancel_others()
        except Exception as error:
            if ready.done():
                raise
            ready.set_exception(error)


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _checked(base_url: str, setting: str) -> str:
    """Raises ValueError; the URL itself stays out of the message where it may hold a password."""
    expected = f"{setting}.base_url: expected http(s)://host[:port]/path, e.g. http://127.0.0.1:8000/v1"
    try:
        url = urlsplit(base_url)
        host, _ = url.hostname, url.port
    except ValueError:
        raise ValueError(f"{expected}; got something else") from None
    if "@" in base_url or url.query or url.fragment:
        raise ValueError(f"{expected}, without user, password or query: a key comes from {setting}.api_key_env")
    if url.scheme not in ("http", "https") or not host:
        raise ValueError(f"{expected}; got {base_url!r}")
    return base_url.rstrip("/")

"""Real servers on 127.0.0.1, each in a thread: one that answers chat completions from what it is asked."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Self

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
TEXT_SCHEMA = {
    "type": "object",
    "properties": {"label": {"type": "string"}},
    "required": ["label"],
    "additionalProperties": False,
}


class ServerThread:
    """Serves one handler for POST on every path; ``with`` starts and stops it."""

    def __init__(self, handler: Handler, port: int = 0) -> None:
        self.handler, self.port = handler, port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_soon()
        self._thread.join(20)

    def stop_soon(self) -> None:
        """No further connection is taken; may be said twice."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self.handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()


class Answering:
    """Answers every question after ``delay(content)`` seconds with a label made from its content; notes what it saw.

    `asked` counts requests by content, `most` is how many were under way at once, `bodies` and `keys` are what came.
    """

    def __init__(self, delay: Callable[[str], float] = lambda content: 0.0) -> None:
        self.delay = delay
        self.asked: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.most = self.now = 0

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        content = content_of(body)
        self.asked[content] += 1
        self.bodies.append(body)
        self.keys.append(request.headers.get("Authorization"))
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(self.delay(content))
        finally:
            self.now -= 1
        return web.json_response(completion(label_of(body)))


def content_of(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body["messages"]).encode()).hexdigest()[:16]


def text_of(body: dict[str, Any]) -> str:
    return body["messages"][0]["content"][-1]["text"]


def label_of(body: dict[str, Any]) -> str:
    """The deterministic answer to a question: its first line, as the label."""
    return json.dumps({"label": f"seen: {text_of(body).splitlines()[0]}"})


def completion(text: str | None, finish: str = "stop", tokens: tuple[int, int] = (100, 10), **message: Any) -> dict:
    return {
        "object": "chat.completion",
        "choices": [
            {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
        ],
        "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]},
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

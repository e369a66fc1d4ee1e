"""A proxy in front of a chat server that spoils a seeded share of the answers, in every way a server may fail."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import aiohttp
from aiohttp import web

from tests.vlm.servers import completion, content_of

KINDS = (
    "429", "429 after seconds", "429 after date", "500", "timeout", "truncated", "no json", "wrong schema",
    "wrong language", "reset",
)  # fmt: skip
CHINESE = "狗的尾巴不见了"


@dataclass
class FaultProxy:
    """What happens to the n-th request for a content depends on the seed, the content and n alone.

    `log` holds (content, what was done) in order; "good" is an answer that was passed on whole.
    """

    upstream: str
    share: float = 0.3
    seed: int = 0
    kinds: tuple[str, ...] = KINDS
    log: list[tuple[str, str]] = field(default_factory=list)
    times: Counter[str] = field(default_factory=Counter)

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        content = content_of(body)
        self.times[content] += 1
        dice = random.Random(f"{self.seed} {content} {self.times[content]}")
        fault = dice.choice(self.kinds) if dice.random() < self.share else "good"
        self.log.append((content, fault))
        if fault == "good":
            return await self._pass_on(request)
        return await self._spoil(fault, request)

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        headers = {"Content-Type": "application/json"}
        path = request.path.removeprefix("/v1")
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.upstream}{path}", data=await request.read(), headers=headers) as answer,
        ):
            return web.Response(status=answer.status, body=await answer.read(), content_type="application/json")

    async def _spoil(self, fault: str, request: web.Request) -> web.StreamResponse:
        if fault.startswith("429"):
            soon = format_datetime(datetime.now(UTC) + timedelta(seconds=0.5), usegmt=True)
            wait = {"429 after seconds": {"Retry-After": "0.05"}, "429 after date": {"Retry-After": soon}}
            return web.json_response({"error": {"message": "slow down"}}, status=429, headers=wait.get(fault))
        if fault == "500":
            return web.Response(status=500, text="<html>oops</html>")
        if fault == "timeout":
            await asyncio.sleep(60)
        if fault == "reset":
            request.transport.abort()
        if fault == "truncated":
            return await self._cut(request)
        texts = {"wrong schema": '{"answer": 1}', "wrong language": json.dumps({"label": CHINESE}, ensure_ascii=False)}
        body = json.dumps(completion(texts[fault])) if fault in texts else '{"choices": [{"mess'
        return web.Response(text=body, content_type="application/json")

    async def _cut(self, request: web.Request) -> web.StreamResponse:
        whole = json.dumps(completion("x" * 200)).encode()
        response = web.StreamResponse(headers={"Content-Length": str(len(whole)), "Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(whole[: len(whole) // 2])
        request.transport.close()
        return response

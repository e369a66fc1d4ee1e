"""Any server that speaks OpenAI's chat completions: hosted models, vLLM, Ollama, ``transformers serve``.

Knows how a stream of requests becomes a stream of answers: from the cache, from an identical call under way, or from
the server (`caller`). Does not know the wire (`chat`), HTTP (`transport`) or any question.

The thread that asks reads requests, looks into the cache and hands out answers; whatever needs the server runs on an
event loop in a second thread, which lives as long as somebody iterates over answers.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path

from artiagent.config import VlmSection
from artiagent.images import scaled_size
from artiagent.instruction.coordinates import CoordinateSpace
from artiagent.vlm import chat
from artiagent.vlm.account import Account
from artiagent.vlm.cache import AnswerCache
from artiagent.vlm.caller import Caller
from artiagent.vlm.pictures import Encoder, digest
from artiagent.vlm.protocol import Answer, Request
from artiagent.vlm.transport import LoopThread

_AHEAD = 2  # times the concurrency: calls that wait for a request or between attempts
_KEPT = 16  # times the concurrency: answers that wait for an earlier one


class OpenAiVlm:
    """The backend ``openai`` of the section.

    Args:
        section: who is asked and how.
        cache_folder: where answers are kept across runs, e.g. ``store.home() / "vlm-cache"``; None: nowhere.
        setting: where the section stands, for messages.

    Raises ValueError for a section without a model or with an unusable URL, CacheError for an unusable cache.
    """

    def __init__(self, section: VlmSection, cache_folder: Path | None, setting: str = "perception.vlm") -> None:
        if not section.model:
            raise ValueError(f"{setting}.model: expected the server's name of the model, e.g. Qwen/Qwen2.5-VL-7B")
        self.name = Path(section.model).name if Path(section.model).is_absolute() else section.model
        self.section, self.setting = section, setting
        self.account = Account(section.price_in, section.price_out)
        self.cache = AnswerCache(cache_folder) if section.cache and cache_folder is not None else None
        self._caller = Caller(section, setting, self.account)
        self._lock = threading.Lock()
        self._life: _Life | None = None
        self._users = 0

    def space(self, width: int, height: int) -> CoordinateSpace:
        """``coordinates`` of the section; auto: pixels of the image that is sent. A server that scales it once more
        speaks of other ones: choose ``image_side`` so that it need not."""
        convention = "pixels" if self.section.coordinates == "auto" else self.section.coordinates
        units = CoordinateSpace.named(convention, *scaled_size(width, height, self.section.image_side))
        return CoordinateSpace(width, height, units.model_width, units.model_height)

    def spent(self) -> dict[str, float | int]:
        return self.account.spent()

    def ask(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Answers in the order of the requests, which are read a bounded number ahead.

        A cached answer, and one shared with an identical call under way, is `cached` and costs nothing. Whoever stops
        iterating cancels what is under way. Raises VlmUnavailable and CacheError.
        """
        stream, more = iter(requests), True
        window = _Window(self.section.concurrency)
        life: _Life | None = None
        try:
            while more or not window.empty:
                while more and window.has_room:
                    if (request := next(stream, None)) is None:
                        more = False
                        break
                    key, digests = self._key(request)
                    self.account.note(calls=1)
                    if (answer := self._stored(key)) is not None:
                        window.add(answer)
                        continue
                    life = life or self._begin()
                    window.add(life.loop.submit(self._shared(life, key, digests, request)))
                if window.wait(more):
                    yield window.pop()
        finally:
            if life is not None:
                life.loop.run(window.cancel)  # all at one moment: no freed slot goes to a call that is about to end
                self._end()

    def _key(self, request: Request) -> tuple[bytes, list[bytes]]:
        """Hash of all that an answer depends on, and the digests of the images."""
        section, prompt = self.section, request.prompt
        digests = [digest(image) for image in request.images]
        asked = [
            section.model, section.structured, section.image_format, section.max_tokens, request.yes_no, prompt.text,
            prompt.schema and json.dumps(prompt.schema, sort_keys=True),
            [scaled_size(image.shape[1], image.shape[0], section.image_side) for image in request.images],
        ]  # fmt: skip
        hashed = hashlib.sha256(json.dumps(asked).encode())
        for one in digests:
            hashed.update(one)
        return hashed.digest(), digests

    def _stored(self, key: bytes) -> Answer | None:
        if self.cache is None or (kept := self.cache.get(key)) is None:
            return None
        self.account.note(cached=1)
        self._caller.prove()
        return Answer(
            kept["text"], "", kept["probability"], kept["tokens_in"], kept["tokens_out"], cached=True, attempts=0
        )

    async def _shared(self, life: _Life, key: bytes, digests: list[bytes], request: Request) -> Answer:
        """Join an identical call under way, or start one; it is cancelled when the last who waits for it is."""
        call = life.under_way.get(key)
        owner = call is None
        if call is None:
            call = life.under_way[key] = _Call(asyncio.ensure_future(self._obtain(life, key, digests, request)))
        call.waiting += 1
        try:
            answer = await asyncio.shield(call.task)
        finally:
            call.waiting -= 1
            if not call.waiting:
                del life.under_way[key]
                call.task.cancel()
        if answer.error:
            self.account.note(failed=1)
        if owner:
            return answer
        self.account.note(coalesced=1)
        return replace(answer, cached=not answer.error, cost=0.0, attempts=0)

    async def _obtain(self, life: _Life, key: bytes, digests: list[bytes], request: Request) -> Answer:
        """From the server; a good answer is on disk before anybody sees it."""
        sizes = [scaled_size(image.shape[1], image.shape[0], self.section.image_side) for image in request.images]

        def pictures() -> asyncio.Future[list[str]]:
            return asyncio.gather(*map(life.encoder.uri, request.images, digests))

        answer = await self._caller.call(
            life.loop.session,
            life.loop.slots,
            request,
            chat.estimate(request, sizes),
            pictures,
            lambda: self._stored(key),
        )
        if self.cache is not None and not answer.cached and not answer.error:
            self._keep(key, request, answer)
        return answer

    def _keep(self, key: bytes, request: Request, answer: Answer) -> None:
        if not chat.conforms(answer.text, request.prompt.schema):
            return  # asked again by the next run: it may have been an accident of the server
        kept = {name: getattr(answer, name) for name in ("text", "probability", "tokens_in", "tokens_out")}
        self.cache.put(key, {**kept, "model": self.name, "prompt": request.prompt.identity})

    def _begin(self) -> _Life:
        with self._lock:
            if self._life is None:
                section = self.section
                self._caller.begin()
                encoder = Encoder(section.image_side, section.image_format, kept=2 * section.concurrency)
                self._life = _Life(LoopThread(section.concurrency), encoder)
            self._users += 1
            return self._life

    def _end(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._life is not None:
                self._life.loop.close()
                self._life = None


@dataclass
class _Call:
    """A call under way and how many wait for it."""

    task: asyncio.Future[Answer]
    waiting: int = 0


@dataclass
class _Life:
    """What exists while somebody asks."""

    loop: LoopThread
    encoder: Encoder
    under_way: dict[bytes, _Call] = field(default_factory=dict)


class _Window:
    """Answers in order, finished or not; full when too many are unfinished, or wait for an earlier one."""

    def __init__(self, concurrency: int) -> None:
        self._ahead, self._kept = _AHEAD * concurrency, _KEPT * concurrency
        self._items: deque[Answer | Future[Answer]] = deque()
        self._changed = threading.Condition()
        self._unfinished = 0
        self._broken: BaseException | None = None

    @property
    def empty(self) -> bool:
        return not self._items

    @property
    def has_room(self) -> bool:
        return self._broken is None and self._unfinished < self._ahead and len(self._items) < self._kept

    def add(self, item: Answer | Future[Answer]) -> None:
        self._items.append(item)
        if isinstance(item, Future):
            with self._changed:
                self._unfinished += 1
            item.add_done_callback(self._finished)

    def wait(self, more: bool) -> bool:
        """Wait until the first answer is there (True) or another can be asked for (False). Raises what broke a call."""
        with self._changed:
            self._changed.wait_for(lambda: self.empty or self._ready or self._broken or (more and self.has_room))
        if self._ready:
            return True
        if self._broken is not None:
            raise self._broken
        return False

    def pop(self) -> Answer:
        item = self._items.popleft()
        return item.result() if isinstance(item, Future) else item

    def cancel(self) -> None:
        for item in self._items:
            if isinstance(item, Future):
                item.cancel()
        self._items.clear()

    @property
    def _ready(self) -> bool:
        """The first is an answer, not a failure."""
        if self.empty:
            return False
        first = self._items[0]
        return not isinstance(first, Future) or (first.done() and not first.cancelled() and first.exception() is None)

    def _finished(self, item: Future[Answer]) -> None:
        with self._changed:
            self._unfinished -= 1
            error = RuntimeError("the thread that asks ended") if item.cancelled() else item.exception()
            self._broken = self._broken or error
            self._changed.notify_all()

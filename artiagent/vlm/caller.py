"""One call: attempts until there is an answer or a reason why not.

Knows which failures pass, which are final and when it is plain that nobody answers. Does not know caches or the order
of answers.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import aiohttp

from artiagent.config import VlmSection
from artiagent.vlm import chat
from artiagent.vlm.account import Account
from artiagent.vlm.limits import TokenBucket, backoff
from artiagent.vlm.protocol import Answer, Request, VlmUnavailable
from artiagent.vlm.transport import Endpoint, Lost, Response, Unreachable

log = logging.getLogger(__name__)
_FIRST = 3  # attempts of a call while the server has never been heard of: a wrong address is told soon
_IN_A_ROW = 16  # lost calls without a success between them after which a run ends; at least twice the concurrency
_BUSY = (408, 409, 425, 429)


@dataclass(eq=False)
class _Passing(Exception):
    """A failure that may pass.

    `wait`: seconds the server asks for. `unreachable`: there was no connection. `counts`: as an attempt.
    """

    reason: str
    wait: float | None = None
    unreachable: bool = False
    counts: bool = True


class Caller:
    """Retries, rates and what has been learned about one server; safe for one event loop at a time.

    Args:
        section: model, limits, attempts.
        setting: prefix of the settings that errors name.
        account: where requests, retries and tokens are counted.
    """

    def __init__(self, section: VlmSection, setting: str, account: Account) -> None:
        self.section, self.setting, self.account = section, setting, account
        self.endpoint = Endpoint(section.base_url, section.api_key_env, section.timeout, setting)
        per_minute = section.requests_per_minute, section.tokens_per_minute
        self._requests, self._tokens = (TokenBucket(rate) if rate else None for rate in per_minute)
        self._without: frozenset[str] = frozenset()  # optional fields that the server does not take
        self._not_before = -math.inf  # the server asked for silence until then
        self._heard = -math.inf  # when the server answered last, with whatever status
        self._proven = False  # some answer was good, of this process or from the cache
        self._row = 0  # lost calls since
        self._over: VlmUnavailable | None = None  # what ended the run: nothing is sent any more

    def begin(self) -> None:
        """A new run: what ended the last one may have been mended."""
        self._over = None

    def prove(self) -> None:
        """Somebody has answered such calls before: refusals are about the calls, not about the settings."""
        self._proven = True

    async def call(
        self,
        session: aiohttp.ClientSession,
        slots: asyncio.Semaphore,
        request: Request,
        tokens: int,
        images: Callable[[], asyncio.Future[list[str]]],
        known: Callable[[], Answer | None],
    ) -> Answer:
        """An answer, possibly with `error`. Raises VlmUnavailable.

        A call that finds no connection is never lost: as long as others are answered it is tried again.

        Args:
            session: of the running loop.
            slots: one is held while a request is under way, none between attempts.
            request: what is asked.
            tokens: estimate of the question's tokens.
            images: makes the data URIs.
            known: looks before every attempt whether somebody else was answered meanwhile.
        """
        started = silent_since = time.monotonic()
        attempts = failures = 0  # failures: in a row, less those forgiven because others were answered
        while True:
            if (answer := known()) is not None:
                return answer
            try:
                async with slots:
                    if self._over is not None:
                        raise self._over
                    answer = await self._attempt(session, request, tokens, await images())
                return replace(answer, attempts=attempts + 1, seconds=time.monotonic() - started)
            except _Passing as failure:
                attempts, failures = attempts + failure.counts, failures + failure.counts
                if 2 * failures <= self.section.attempts:
                    silent_since = time.monotonic()
                if failure.counts and self._is_last(failure, failures, silent_since):
                    if not failure.unreachable:
                        seconds = time.monotonic() - started
                        return self._lost(Answer(error=failure.reason, attempts=attempts, seconds=seconds))
                    failures, silent_since = self.section.attempts // 2, time.monotonic()
                await asyncio.sleep(self._pause(failure, failures))
                self.account.note(retries=1)

    async def _attempt(
        self, session: aiohttp.ClientSession, request: Request, tokens: int, images: Sequence[str]
    ) -> Answer:
        body = chat.body(self.section, request, images, self._without)
        await self._admission(tokens + self.section.max_tokens)
        self.account.note(requests=1)
        try:
            response = await self.endpoint.post(session, body)
        except Unreachable as error:
            raise _Passing(f"connection: {error}", unreachable=True) from None
        except Lost as error:
            self._maybe_paid(tokens, timeouts=int(str(error) == "timeout"))
            raise _Passing(str(error)) from None
        except asyncio.CancelledError:
            self._maybe_paid(tokens)
            raise
        self._heard = time.monotonic()
        if response.status // 100 == 2:
            return self._read(response, request, tokens)
        return self._refused(response, body.keys())

    async def _admission(self, tokens: int) -> None:
        silence = self._not_before - time.monotonic()
        waits = [silence + random.uniform(0, self.section.backoff) if silence > 0 else 0.0]  # not all at once
        waits += [bucket.take(n) for bucket, n in ((self._requests, 1), (self._tokens, tokens)) if bucket]
        if (wait := max(waits)) > 0:
            await asyncio.sleep(wait)

    def _read(self, response: Response, request: Request, tokens: int) -> Answer:
        try:
            answer = chat.read(response.text, request)
        except chat.Unreadable:
            self._maybe_paid(tokens)
            raise _Passing("unreadable") from None
        if not answer.tokens_in + answer.tokens_out:  # a server that does not count
            answer = replace(answer, tokens_in=tokens, tokens_out=math.ceil(len(answer.text) / 4))
        used = answer.tokens_in + answer.tokens_out
        if self._tokens:
            self._tokens.correct(used - tokens - self.section.max_tokens)
        self.account.note(tokens_in=answer.tokens_in, tokens_out=answer.tokens_out)
        self._proven, self._row = True, 0
        return replace(answer, cost=self.account.cost(answer.tokens_in, answer.tokens_out))

    def _refused(self, response: Response, sent: Collection[str]) -> Answer:
        """What an answer that is none says. Raises _Passing and VlmUnavailable."""
        status, said = response.status, chat.refusal(response.text)
        reason = f"http {status}"
        if status // 100 == 3:
            raise self._unavailable(f"redirects to {response.location or 'nowhere'}; give the final address")
        if status in (401, 403):
            raise self._denied(f"{reason}: {said.message}")
        if status == 402 or said.code == "insufficient_quota":
            raise self._unavailable(f"nothing is left to pay with ({reason}: {said.message})")
        if status == 404:
            raise self._unavailable(
                f"no model {self.section.model!r} there, or no such path ({reason}: {said.message}); "
                f"check {self.setting}.model and the address"
            )
        if status in _BUSY or status >= 500:
            if response.wait is not None:
                self._not_before = max(self._not_before, time.monotonic() + response.wait)
            raise _Passing(reason, response.wait)
        if field := said.unknown_field(sent):
            self._leave_out(field, said.message)
            raise _Passing(reason, 0.0, counts=False)
        hint = f"; try {self.setting}.structured: prompt" if "response_format" in said.message else ""
        return self._lost(Answer(error=f"{reason}: {said.message}{hint}"), refused=True)

    def _leave_out(self, field: str, message: str) -> None:
        if field in self._without:  # a call that was under way when another one learned it
            return
        self._without |= {field, "top_logprobs"} if field == "logprobs" else {field}
        instead = {
            "response_format": f"; the prompt shows the schema instead (set {self.setting}.structured: prompt)",
            "max_tokens": "; max_completion_tokens goes in its place",
            "temperature": "; answers may vary",
        }
        log.warning(
            "%s does not take %r and is asked without it from now on%s (%s)",
            self.endpoint.base_url, field, instead.get(field, ""), message,
        )  # fmt: skip

    def _is_last(self, failure: _Passing, failures: int, silent_since: float) -> bool:
        """Raises VlmUnavailable where there is no connection, and no call was answered in the later half of the
        attempts; a server that has never been heard of gets few."""
        unheard = self._heard == -math.inf and failure.unreachable
        if failures < (min(self.section.attempts, _FIRST) if unheard else self.section.attempts):
            return False
        if failure.unreachable and (unheard or self._heard < silent_since):
            raise self._unavailable(
                f"cannot be reached ({failure.reason}; {failures} attempts); start the server or correct the address"
            )
        return True

    def _lost(self, answer: Answer, refused: bool = False) -> Answer:
        """Count a call without an answer; raises VlmUnavailable where there are too many in a row."""
        if refused and self._proven:
            return answer
        self._row += 1
        if self._row >= max(_IN_A_ROW, 2 * self.section.concurrency):
            raise self._unavailable(f"no answer to {self._row} calls in a row; to the last one: {answer.error}")
        return answer

    def _pause(self, failure: _Passing, failures: int) -> float:
        if failure.wait is None:
            return backoff(self.section.backoff, failures)
        return failure.wait + (random.uniform(0, self.section.backoff) if failure.counts else 0.0)

    def _maybe_paid(self, tokens: int, **counts: int) -> None:
        self.account.note_possible(tokens, self.section.max_tokens, **counts)

    def _denied(self, why: str) -> VlmUnavailable:
        name = self.endpoint.api_key_env
        return self._unavailable(f"the key is not accepted ({why}); set environment variable {name} to a valid one")

    def _unavailable(self, what: str) -> VlmUnavailable:
        where = f"{self.setting}.base_url {self.endpoint.base_url}"
        self._over = VlmUnavailable(f"{where}: {what}. Finished work is kept; a rerun resumes")
        return self._over

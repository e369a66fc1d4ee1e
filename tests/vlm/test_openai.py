"""The backend ``openai`` against real servers on this machine."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from artiagent.images import data_uri, decode, encode
from artiagent.vlm import pictures
from artiagent.vlm.protocol import Answer, Request, VlmUnavailable
from tests.vlm.calls import answer_to, asking_threads, backend, image, question
from tests.vlm.servers import Answering, ServerThread, completion, free_port, text_of


@pytest.fixture(scope="module")
def shuffling() -> Iterator[tuple[Answering, ServerThread]]:
    """Answers after 0 to 20 ms."""
    answering = Answering(delay=lambda content: random.Random(content).random() * 0.02)
    with ServerThread(answering) as server:
        yield answering, server


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(numbers=st.lists(st.integers(0, 15), max_size=60), concurrency=st.sampled_from([1, 3, 16]), cached=st.booleans())
def test_answers_come_in_the_order_of_the_requests(
    shuffling: tuple[Answering, ServerThread], tmp_path: Path, numbers: list[int], concurrency: int, cached: bool
) -> None:
    vlm = backend(shuffling[1].url, tmp_path if cached else None, concurrency=concurrency)
    answers = list(vlm.ask(question(number) for number in numbers))
    assert [answer.text for answer in answers] == [answer_to(number) for number in numbers]
    assert asking_threads() == 0
    spent = vlm.spent()
    assert spent["calls"] == len(numbers) == spent["requests"] + spent["cached"] + spent["coalesced"]


def test_requests_are_read_a_bounded_number_ahead_and_so_many_are_under_way() -> None:
    answering = Answering(delay=lambda content: 0.01)
    read = 0

    def stream() -> Iterator[Request]:
        nonlocal read
        for number in range(300):
            read += 1
            yield question(number)

    with ServerThread(answering) as server:
        for received, _ in enumerate(backend(server.url, concurrency=8).ask(stream())):
            assert read <= received + 1 + 16 * 8
    assert received == 299 and 6 <= answering.most <= 8


def test_a_slow_answer_does_not_hold_up_later_questions() -> None:
    slow = question(0).prompt.text
    done: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        import asyncio

        body = await request.json()
        while text_of(body) == slow and len(done) < 60:
            await asyncio.sleep(0.01)
        done.append(text_of(body))
        return web.json_response(completion(text_of(body)))

    with ServerThread(handler) as server:
        answers = list(backend(server.url, concurrency=4).ask(question(n, schema=None) for n in range(64)))
    assert [answer.text for answer in answers] == [f"question {n}" for n in range(64)]
    assert done.index(slow) >= 60


def test_identical_calls_under_way_are_one_request(tmp_path: Path) -> None:
    answering = Answering(delay=lambda content: 0.2)
    with ServerThread(answering) as server:
        vlm = backend(server.url, tmp_path, concurrency=8, price_in=1.0, price_out=2.0)
        answers = list(vlm.ask([question(1), question(1), question(2), question(1)]))
    assert sorted(answering.asked.values()) == [1, 1]
    assert [answer.cached for answer in answers] == [False, True, False, True]
    assert [answer.cost for answer in answers] == pytest.approx([120e-6, 0, 120e-6, 0])
    spent = vlm.spent()
    assert (spent["calls"], spent["requests"], spent["coalesced"], spent["cached"]) == (4, 2, 2, 0)
    assert spent["cost"] == pytest.approx(240e-6) and spent["tokens_in"] == 200


def test_two_threads_share_a_request_and_one_may_leave(tmp_path: Path) -> None:
    answering = Answering(delay=lambda content: 0.4)
    with ServerThread(answering) as server, ThreadPoolExecutor(2) as threads:
        vlm = backend(server.url, None)
        leaving = vlm.ask(iter([question(1), question(2)]))
        staying = threads.submit(lambda: list(vlm.ask([question(1)])))
        first = threads.submit(lambda: next(leaving))
        assert first.result(20).text == staying.result(20)[0].text == answer_to(1)
        leaving.close()
    assert sum(answering.asked.values()) <= 2 and asking_threads() == 0


def test_what_was_answered_once_is_never_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answering = Answering()
    with ServerThread(answering) as server:
        list(backend(server.url, tmp_path).ask(question(n) for n in range(20)))
        assert sum(answering.asked.values()) == 20
        monkeypatch.setattr(pictures, "encode", None)  # nothing is encoded for a hit
        again = backend(server.url, tmp_path, price_in=1.0)
        answers = list(again.ask(question(n) for n in range(20)))
        assert sum(answering.asked.values()) == 20
    assert [answer.text for answer in answers] == [answer_to(n) for n in range(20)]
    assert all(answer.cached and answer.cost == 0 and answer.tokens_in == 100 for answer in answers)
    assert again.spent()["cached"] == 20 and again.spent()["cost"] == again.spent()["requests"] == 0


def test_what_another_process_was_answered_meanwhile_is_not_asked_for(tmp_path: Path) -> None:
    other = backend("http://127.0.0.1:1/v1", tmp_path)
    kept = {"text": answer_to(1), "probability": None, "tokens_in": 5, "tokens_out": 6}
    seen = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request)
        other.cache.put(other._key(question(1))[0], kept)
        return web.Response(status=500)

    with ServerThread(handler) as server:
        vlm = backend(server.url, tmp_path)
        (answer,) = vlm.ask([question(1)])
    assert (answer.text, answer.cached, len(seen)) == (answer_to(1), True, 1)
    assert vlm.spent()["cached"] == vlm.spent()["requests"] == 1


def test_an_answer_depends_on_all_that_is_asked_and_on_nothing_else(tmp_path: Path) -> None:
    base = question(1)
    others = [
        replace(base, prompt=replace(base.prompt, text="another")), replace(base, images=(image(2),)),
        replace(base, prompt=replace(base.prompt, schema=None)), replace(base, images=(image(1), image(1))),
        replace(base, images=()), replace(base, images=(image(1).reshape(16, 64, 3),)), replace(base, yes_no=True),
    ]  # fmt: skip
    same = replace(base, key="x", facts={"a": 1}, seed="s", prompt=replace(base.prompt, hash="other"))
    vlm = backend("http://127.0.0.1:1/v1", tmp_path)
    keys = [vlm._key(request)[0] for request in (base, *others)]
    assert len(set(keys)) == len(keys) and vlm._key(same)[0] == keys[0]
    for field, value in {"model": "m2", "max_tokens": 9, "structured": "prompt", "image_format": "jpeg"}.items():
        assert backend("http://127.0.0.1:1/v1", tmp_path, **{field: value})._key(base)[0] not in keys
    assert backend("http://127.0.0.1:1/v1", tmp_path, image_side=28)._key(base)[0] != keys[0]
    elsewhere = backend("http://127.0.0.1:2/v2", tmp_path, concurrency=1, image_side=500)
    assert elsewhere._key(base)[0] == keys[0]


def test_without_a_cache_everything_is_asked_again(tmp_path: Path) -> None:
    answering = Answering()
    with ServerThread(answering) as server:
        for vlm in (backend(server.url, None), backend(server.url, tmp_path, cache=False)):
            list(vlm.ask([question(1)]))
    assert sum(answering.asked.values()) == 2 and not list(tmp_path.iterdir())


def test_images_are_scaled_down_and_encoded_once() -> None:
    answering = Answering(delay=lambda content: 0.05)
    large = image(7, (300, 150))
    with ServerThread(answering) as server:
        vlm = backend(server.url, image_side=100)
        with pytest.MonkeyPatch.context() as patch:
            encoded: list[np.ndarray] = []
            patch.setattr(pictures, "encode", lambda array, form: encoded.append(array) or encode(array, form))
            list(vlm.ask(replace(question(n), images=(large, image(1, (20, 30)))) for n in range(20)))
    assert sorted(array.shape for array in encoded) == [(20, 30, 3), (100, 50, 3)]
    sent = {part["image_url"]["url"] for body in answering.bodies for part in body["messages"][0]["content"][:2]}
    assert sent == {data_uri(encode(array)) for array in encoded}
    assert vlm.space(150, 300).to_model((15, 30, 150, 300)) == [5, 10, 50, 100]
    assert backend("http://127.0.0.1:1", coordinates="per_mille").space(500, 250).to_model((0, 0, 250, 250)) == [
        0, 0, 500, 1000,
    ]  # fmt: skip
    assert decode(encode(encoded[0])).shape == encoded[0].shape


def test_whoever_stops_iterating_cancels_what_is_under_way() -> None:
    answering = Answering(delay=lambda content: 0.0 if len(answering.bodies) < 3 else 60.0)
    with ServerThread(answering) as server:
        vlm = backend(server.url, timeout=60.0, price_out=1.0)
        answers = vlm.ask(question(n) for n in range(100))
        next(answers)
        while answering.now < 8:
            time.sleep(0.01)
        started = time.monotonic()
        answers.close()
        assert time.monotonic() - started < 5 and asking_threads() == 0
    spent = vlm.spent()
    assert spent["possibly_paid"] == 8 and spent["cost_possible"] == pytest.approx(8 * 512e-6)
    assert len(answering.bodies) == spent["requests"]  # no freed slot went to another call


INTERRUPTED = """
import signal
import sys
from tests.vlm.calls import backend, question
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell runs in the background
vlm = backend(sys.argv[1], timeout=60.0)
try:
    list(vlm.ask(question(n) for n in range(100)))
finally:
    print(vlm.spent()["possibly_paid"])
"""


def test_an_interrupt_ends_the_process() -> None:
    answering = Answering(delay=lambda content: 60.0)
    with ServerThread(answering) as server:
        command = [sys.executable, "-c", INTERRUPTED, server.url]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while answering.now < 8 and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode and out == "8\n" and err.rstrip().endswith("KeyboardInterrupt")
    assert "never" not in err and "destroyed" not in err


def test_a_server_that_is_down_is_told_at_once_and_nothing_is_lost(tmp_path: Path) -> None:
    port = free_port()
    vlm = backend(f"http://127.0.0.1:{port}/v1", tmp_path, backoff=0.5, attempts=9)
    started = time.monotonic()
    with pytest.raises(VlmUnavailable) as caught:
        list(vlm.ask(question(n) for n in range(1000)))
    assert time.monotonic() - started < 5
    assert str(caught.value).startswith(f"curation.vlm.base_url http://127.0.0.1:{port}/v1: cannot be reached")
    assert "a rerun resumes" in str(caught.value) and "\n" not in str(caught.value)
    assert asking_threads() == 0 and vlm.spent()["failed"] == 0
    answering = Answering()
    with ServerThread(answering, port):
        assert [a.text for a in vlm.ask([question(1)])] == [answer_to(1)]


def test_an_outage_ends_the_run_and_a_rerun_asks_only_for_what_is_missing(tmp_path: Path) -> None:
    answering, requests = Answering(delay=lambda content: 0.02), [question(n) for n in range(60)]
    received: list[Answer] = []
    with ServerThread(answering) as server:
        answers = backend(server.url, tmp_path, concurrency=4).ask(requests)
        received += (next(answers) for _ in range(20))
    with pytest.raises(VlmUnavailable, match="cannot be reached"):
        received.extend(answers)
    assert 20 <= len(received) < 60 and not any(answer.error for answer in received)
    before = len(answering.asked)
    with ServerThread(answering, server.port):
        again = backend(server.url, tmp_path, concurrency=4)
        assert [a.text for a in again.ask(requests)] == [answer_to(n) for n in range(60)]
    # what the server was asked and could not deliver is asked twice, nothing else
    assert len(answering.asked) == 60 and sum(answering.asked.values()) <= 60 + 4
    assert again.spent()["cached"] >= before - 4


def answering_with(status: int, body: object, headers: dict[str, str] | None = None) -> tuple[list[dict], ServerThread]:
    seen: list[dict] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(await request.json())
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(status=status, text=text, headers=headers)

    return seen, ServerThread(handler)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (401, {"error": {"message": "no"}}, r"not accepted \(http 401: no\); set environment variable SOME_KEY"),
        (403, "<html>", "the key is not accepted .*SOME_KEY"),
        (404, {"error": {"message": "no `small-vl`"}}, r"no model 'small-vl' there.*curation\.vlm\.model"),
        (402, "", "nothing is left to pay with"),
        (429, {"error": {"message": "quota", "code": "insufficient_quota"}}, "nothing is left to pay with"),
    ],
)  # fmt: skip
def test_what_no_repetition_can_mend_is_said_once(status: int, body: object, expected: str) -> None:
    seen, thread = answering_with(status, body)
    with thread as server, pytest.raises(VlmUnavailable, match=expected) as caught:
        list(backend(server.url, api_key_env="SOME_KEY", concurrency=2).ask(question(n) for n in range(50)))
    assert len(seen) <= 2 and f"curation.vlm.base_url {server.url}: " in str(caught.value)


def test_redirects_are_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "canary-0123456789")
    answering = Answering()
    with ServerThread(answering) as other:
        _, thread = answering_with(307, "", {"Location": f"{other.url}/chat/completions?k=canary-0123456789"})
        with thread as server, pytest.raises(VlmUnavailable, match="redirects to http.*k=\\*\\*\\*"):
            list(backend(server.url, api_key_env="SOME_KEY").ask([question(1)]))
    assert not answering.keys


def test_a_refused_call_is_an_answer_with_the_servers_words() -> None:
    async def handler(request: web.Request) -> web.Response:
        body = await request.json()
        if text_of(body) == "question 3":
            return web.json_response({"error": {"message": "image too small\nfor us"}}, status=400)
        return web.json_response(completion('{"label": "fine"}'))

    with ServerThread(handler) as server:
        vlm = backend(server.url)
        answers = list(vlm.ask(question(n) for n in range(6)))
    assert [answer.error for answer in answers] == ["", "", "", "http 400: image too small for us", "", ""]
    assert vlm.spent()["failed"] == 1 and vlm.spent()["retries"] == 0


def test_a_server_that_refuses_everything_ends_the_run() -> None:
    seen, thread = answering_with(400, {"detail": "Server is pinned to 'large-vl'; requested 'small-vl'."})
    with thread as server, pytest.raises(VlmUnavailable, match="no answer to 16 calls in a row.*pinned to 'large-vl'"):
        list(backend(server.url, concurrency=2).ask(question(n) for n in range(1000)))
    assert len(seen) < 40


def test_a_server_that_only_fails_ends_the_run() -> None:
    seen, thread = answering_with(500, "oops")
    with (
        thread as server,
        pytest.raises(VlmUnavailable, match="no answer to 16 calls in a row; to the last one: http 500"),
    ):
        list(backend(server.url, concurrency=4, attempts=2).ask(question(n) for n in range(1000)))
    assert 32 <= len(seen) < 80


def test_calls_refused_for_their_content_do_not_end_a_run_that_has_answers(tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.Response:
        if text_of(await request.json()) == "question 0":
            return web.json_response(completion('{"label": "fine"}'))
        return web.json_response({"error": {"message": "against our policy"}}, status=400)

    with ServerThread(handler) as server:
        first = list(backend(server.url, tmp_path, concurrency=1).ask(question(n) for n in range(40)))
        again = list(backend(server.url, tmp_path, concurrency=1).ask(question(n) for n in range(40)))
    for answers in (first, again):
        assert [a.error for a in answers] == ["", *["http 400: against our policy"] * 39]


def test_a_schema_that_is_refused_comes_with_a_hint() -> None:
    said = {"error": {"message": "Invalid schema for response_format 'label': 'minItems' is not permitted."}}
    seen, thread = answering_with(400, said)
    with thread as server:
        (answer,) = backend(server.url).ask([question(1)])
    assert answer.error.endswith("; try curation.vlm.structured: prompt") and len(seen) == 1


def test_fields_a_server_does_not_know_are_dropped_once_and_for_all(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[set[str]] = []

    async def handler(request: web.Request) -> web.Response:
        body = await request.json()
        seen.append(set(body))
        if unknown := set(body) & {"seed", "logprobs", "top_logprobs", "response_format"}:
            return web.json_response({"detail": f"Unexpected fields in the request: {unknown}"}, status=422)
        return web.json_response(completion(f"Yes {text_of(body)}"))

    with ServerThread(handler) as server:
        vlm = backend(server.url, concurrency=1)
        first = list(vlm.ask([question(1, yes_no=True)]))
        assert len(seen) == 4  # logprobs and top_logprobs go together
        later = list(vlm.ask(question(n, yes_no=True) for n in range(2, 9)))
    assert len(seen) == 4 + 7
    assert all(answer.probability is None and not answer.error and answer.attempts == 1 for answer in first + later)
    assert "JSON schema" in later[0].text  # the prompt shows it now
    lines = [record.getMessage() for record in caplog.records if "does not take" in record.getMessage()]
    assert len(lines) == 3 and any("curation.vlm.structured: prompt" in line for line in lines)


def test_retry_after_is_waited_for_by_everybody() -> None:
    times: list[float] = []

    async def handler(request: web.Request) -> web.Response:
        times.append(time.monotonic())
        if len(times) == 1:
            return web.Response(status=429, headers={"Retry-After": "0.7"})
        return web.json_response(completion(answer_to(0)))

    with ServerThread(handler) as server:
        answers = list(backend(server.url, concurrency=1).ask(question(n) for n in range(4)))
    assert [answer.attempts for answer in answers] == [2, 1, 1, 1]
    assert times[1] - times[0] >= 0.7


def test_rates_are_kept() -> None:
    with ServerThread(Answering()) as server:
        started = time.monotonic()
        list(backend(server.url, requests_per_minute=1200.0).ask(question(n) for n in range(32)))  # 20 a second
        by_requests = time.monotonic() - started
        started = time.monotonic()
        list(backend(server.url, tokens_per_minute=110 * 1200.0, max_tokens=64).ask(question(n) for n in range(32)))
        by_tokens = time.monotonic() - started
    assert by_requests >= 0.5 and by_tokens >= 0.5  # a second's worth at once, then 12 more at 20 a second


def test_a_timeout_is_possibly_paid() -> None:
    answering = Answering(delay=lambda content: 60.0 if len(answering.bodies) == 1 else 0.0)
    with ServerThread(answering) as server:
        vlm = backend(server.url, timeout=1.0, concurrency=1, price_in=1e6, price_out=1e6, max_tokens=50)
        (answer,) = vlm.ask([question(1)])
    spent = vlm.spent()
    assert answer.text == answer_to(1) and answer.attempts == 2 and answer.seconds > 1.0
    assert spent["timeouts"] == spent["possibly_paid"] == 1 and spent["cost"] == 110
    assert 50 < spent["cost_possible"] < 200


def test_a_call_that_never_succeeds_is_an_answer_with_its_reason() -> None:
    async def handler(request: web.Request) -> web.Response:
        if text_of(await request.json()) == "question 1":
            return web.Response(status=503)
        return web.json_response(completion('{"label": "fine"}'))

    with ServerThread(handler) as server:
        vlm = backend(server.url, attempts=3)
        answers = list(vlm.ask(question(n) for n in range(3)))
    assert [(a.error, a.attempts) for a in answers] == [("", 1), ("http 503", 3), ("", 1)]
    assert vlm.spent()["failed"] == 1 and vlm.spent()["retries"] == 2


def test_answers_that_cannot_be_of_the_schema_are_not_kept(tmp_path: Path) -> None:
    _, thread = answering_with(200, completion('{"answer": 1}'))
    with thread as server:
        (bad,) = backend(server.url, tmp_path).ask([question(1)])
        assert bad.text == '{"answer": 1}' and not bad.error  # the agent repairs it
        vlm = backend(server.url, tmp_path)
        list(vlm.ask([question(1)]))
        assert vlm.spent()["cached"] == 0
        list(vlm.ask([question(1, schema=None)] * 2))
        assert vlm.spent()["requests"] == 2


def test_an_error_of_the_stream_reaches_the_caller_and_ends_everything() -> None:
    def stream() -> Iterator[Request]:
        yield question(1)
        raise OSError("no more images")

    answering = Answering(delay=lambda content: 0.5)
    with ServerThread(answering) as server, pytest.raises(OSError, match="no more images"):
        list(backend(server.url).ask(stream()))
    assert asking_threads() == 0


def test_settings_that_cannot_work_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"curation\.vlm\.model: expected"):
        backend("http://127.0.0.1:1/v1", model=None)
    for url in ("127.0.0.1:8000", "ftp://host/v1", "", "http://", "http://[broken", "http://host:port/"):
        with pytest.raises(ValueError, match=r"curation\.vlm\.base_url: expected http"):
            backend(url)
    assert backend("http://127.0.0.1:1/v1", model="/a/b/nano-vl").name == "nano-vl"
    assert backend("http://127.0.0.1:1/v1", model="Qwen/Qwen2.5-VL-7B").name == "Qwen/Qwen2.5-VL-7B"
    with pytest.raises(ValueError, match="uint8"):
        list(backend("http://127.0.0.1:1/v1").ask([replace(question(1), images=(np.zeros((4, 4)),))]))
    assert threading.active_count() < 20

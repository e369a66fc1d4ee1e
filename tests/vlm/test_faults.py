"""A server of which 30 % of the answers fail, in every way there is."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from artiagent.vlm.agent import Outcome, consult, english, json_reader
from artiagent.vlm.openai import OpenAiVlm
from tests.vlm.calls import backend, question
from tests.vlm.fault_proxy import KINDS, FaultProxy
from tests.vlm.servers import Answering, ServerThread

PAID = ("timeout", "truncated", "no json", "reset")  # no whole answer, but the server may have made one
READ = ("good", "wrong schema", "wrong language")
NUMBERS = [n // 2 if n % 7 == 0 else n for n in range(120)]  # some contents twice


class Label(BaseModel):
    model_config = ConfigDict(extra="forbid")
    label: str


def read(text: str) -> Label:
    value = json_reader(Label)(text)
    english(value.label)
    return value


def run(vlm: OpenAiVlm) -> list[Outcome[Label]]:
    return consult(vlm, (question(n) for n in NUMBERS), read)


def assert_nothing_asked_after_success(log: list[tuple[str, str]]) -> None:
    by_content: dict[str, list[str]] = defaultdict(list)
    for content, fault in log:
        by_content[content].append(fault)
    for faults in by_content.values():
        assert "good" not in faults[:-1], faults


def test_thirty_percent_of_faults(tmp_path: Path) -> None:
    answering = Answering(delay=lambda content: 0.01)
    with ServerThread(answering) as upstream, ServerThread(FaultProxy(upstream.url, 0.3, seed=1)) as server:
        vlm = backend(server.url, tmp_path, timeout=5.0, attempts=6, price_in=1.0, price_out=1.0, concurrency=16)
        outcomes = run(vlm)
        log = server.handler.log
    done = Counter(fault for _, fault in log)
    assert len(outcomes) == len(NUMBERS) and set(KINDS) <= set(done)
    assert_nothing_asked_after_success(log)
    assert set(answering.asked.values()) == {1}

    assert [o.value.label for o in outcomes if o.value] == [
        f"seen: question {n}" for n, o in zip(NUMBERS, outcomes, strict=True) if o.value
    ]
    assert sum(o.value is not None for o in outcomes) >= 0.95 * len(NUMBERS)
    assert {o.call.status for o in outcomes} <= {"ok", "repaired", "invalid"}
    assert any(o.call.status == "repaired" for o in outcomes)
    assert all(o.error for o in outcomes if o.value is None)

    spent = vlm.spent()
    assert spent["requests"] == len(log) and spent["timeouts"] == done["timeout"]
    assert spent["possibly_paid"] == sum(done[fault] for fault in PAID) and spent["cost_possible"] > 0
    assert spent["tokens_in"] == 100 * sum(done[fault] for fault in READ)
    assert spent["coalesced"] + spent["cached"] > 0
    assert sum(o.call.cost for o in outcomes) == pytest.approx(spent["cost"], abs=1e-6)


def test_every_loss_has_a_reason_and_a_rerun_asks_for_the_losses_alone(tmp_path: Path) -> None:
    answering = Answering()
    with ServerThread(answering) as upstream:
        with ServerThread(FaultProxy(upstream.url, 0.3, seed=2)) as server:
            vlm = backend(server.url, tmp_path, timeout=5.0, attempts=1, concurrency=16)
            first = run(vlm)
            good = {content for content, fault in server.handler.log if fault == "good"}
        lost = [o for o in first if o.value is None]
        assert lost and len(first) == len(NUMBERS) and vlm.spent()["failed"] > 0
        assert {o.error for o in lost if o.call.status != "invalid"} == {
            "http 429", "http 500", "timeout", "unreadable", "connection",
        }  # fmt: skip
        assert all(o.error and o.call.status for o in lost)
        with ServerThread(FaultProxy(upstream.url, 0.0)) as server:
            second = run(backend(server.url, tmp_path))
            assert not good & {content for content, _ in server.handler.log}
    # what the server answered twice in Chinese stays said, and its loss recorded
    rejected = {o.call.key for o in first if "expected text in English" in o.error}
    assert {o.call.key for o in second if o.value is None} <= rejected and len(rejected) < 5
    assert set(answering.asked.values()) == {1}

from __future__ import annotations

import numpy as np
import pytest
from pydantic import BaseModel

from artiagent.vlm.agent import consult, english, json_reader, json_text
from artiagent.vlm.calls import ANSWERED
from artiagent.vlm.prompt import render
from artiagent.vlm.protocol import Answer, Request

IMAGE = np.zeros((8, 8, 3), np.uint8)


class Found(BaseModel):
    count: int


def requests(number: int) -> list[Request]:
    return [Request("caption", render("caption"), (IMAGE,), key=f"image-{k}") for k in range(number)]


def test_values_come_in_order_with_a_call_each(scripted) -> None:
    vlm = scripted(lambda r: f'{{"count": {r.key[-1]}}}')
    found = consult(vlm, requests(4), json_reader(Found))
    assert [o.value.count for o in found] == [0, 1, 2, 3] and {o.error for o in found} == {""}
    call = found[2].call
    assert (call.key, call.task, call.prompt, call.model, call.status) == (
        "image-2", "caption", "caption@2", "scripted", "ok",
    )  # fmt: skip
    assert call.prompt_hash == render("caption").hash and call.tokens_in == 10 and call.verdict == '{"count": 2}'


def test_a_malformed_answer_is_repaired_once_with_the_complaint(scripted) -> None:
    vlm = scripted(lambda r: '{"count": 7}' if "not valid" in r.prompt.text else '{"cuont": 7}')
    (found,) = consult(vlm, requests(1), json_reader(Found))
    assert found.value.count == 7 and found.call.status == "repaired"
    assert (found.call.tokens_in, found.call.attempts) == (20, 2)
    assert "count: Field required" in vlm.asked[1].prompt.text and "cuont" in vlm.asked[1].prompt.text
    assert vlm.asked[1].prompt.hash == vlm.asked[0].prompt.hash


def test_what_stays_malformed_is_recorded_and_costs_nobody_else(scripted) -> None:
    vlm = scripted(lambda r: "no idea" if r.key == "image-1" else '{"count": 1}')
    found = consult(vlm, requests(3), json_reader(Found))
    assert [o.value is None for o in found] == [False, True, False] and len(vlm.asked) == 4
    assert found[1].call.status == "invalid" and "no idea" in found[1].error


def test_a_failed_call_is_not_repeated_and_keeps_its_reason(scripted) -> None:
    vlm = scripted(lambda r: Answer(error="timeout", attempts=5))
    (found,) = consult(vlm, requests(1), json_reader(Found))
    assert (found.value, found.error, found.call.status, found.call.attempts) == (None, "timeout", "timeout", 5)
    assert len(vlm.asked) == 1 and not set(ANSWERED) & {found.call.status}


@pytest.mark.parametrize(
    "text",
    [
        '{"count": 3}',
        'Sure!\n```json\n{"count": 3}\n```\nHope it helps.',
        'The answer is {"count": 3}.',
        '```{"count": 3}```',
    ],
)
def test_json_is_found_inside_an_answer(text: str) -> None:
    assert json_reader(Found)(text).count == 3


def test_an_answer_without_json_stays_what_it_is() -> None:
    assert json_text(" none ") == "none"


@pytest.mark.parametrize(
    "text", ["extra ear", "The dog has an extra ear.", "a cat on grass", "Two of its wheels are gone."]
)
def test_english_passes(text: str) -> None:
    assert english(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "123",
        "犬には耳が多すぎます",
        "El perro tiene demasiadas orejas grandes",
        "У собаки лишнее ухо",
        "Der Hund hat hier ein Ohr zu viel",
    ],
)
def test_other_languages_do_not(text: str) -> None:
    with pytest.raises(ValueError, match="English"):
        english(text)

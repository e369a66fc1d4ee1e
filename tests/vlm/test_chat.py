"""What is sent and what is read, for the many dialects of servers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from artiagent.config import VlmSection
from artiagent.vlm import chat
from artiagent.vlm.prompt import Prompt
from artiagent.vlm.protocol import Request
from tests.vlm.servers import TEXT_SCHEMA, completion

IMAGE = np.zeros((8, 8, 3), np.uint8)


def request(schema: dict | None = TEXT_SCHEMA, yes_no: bool = False) -> Request:
    prompt = Prompt("explain local", 1, "h", "What is wrong?", schema)
    return Request("local", prompt, (IMAGE, IMAGE), "key", {"part": "facts-are-not-sent"}, "seed-neither", yes_no)


def section(**fields: Any) -> VlmSection:
    return VlmSection(backend="openai", model="m", **fields)


def test_a_body_carries_images_then_text_and_nothing_a_model_must_not_see() -> None:
    body = chat.body(section(max_tokens=9), request(), ["data:a", "data:b"])
    content = body["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url", "image_url", "text"]
    assert [part["image_url"]["url"] for part in content[:2]] == ["data:a", "data:b"]
    assert {key: body[key] for key in ("model", "temperature", "seed", "max_tokens")} == {
        "model": "m", "temperature": 0, "seed": 0, "max_tokens": 9,
    }  # fmt: skip
    assert "facts-are-not-sent" not in json.dumps(body) and "seed-neither" not in json.dumps(body)


def test_how_a_schema_is_asked_for() -> None:
    def form_and_text(structured: str, schema: dict | None = TEXT_SCHEMA, without: tuple[str, ...] = ()) -> tuple:
        body = chat.body(section(structured=structured), request(schema), [], without)
        return body.get("response_format"), body["messages"][0]["content"][-1]["text"]

    strict = {"name": "explain_local", "strict": True, "schema": TEXT_SCHEMA}
    assert form_and_text("json_schema") == ({"type": "json_schema", "json_schema": strict}, "What is wrong?")
    form, shown = form_and_text("json_object")
    assert form == {"type": "json_object"} and shown.endswith(json.dumps(TEXT_SCHEMA)) and "JSON" in shown
    assert form_and_text("prompt") == (None, shown)
    assert form_and_text("json_schema", without=("response_format",)) == (None, shown)
    for structured in ("json_schema", "json_object", "prompt"):
        assert form_and_text(structured, schema=None) == (None, "What is wrong?")


def test_fields_that_a_server_does_not_take_are_left_out_or_renamed() -> None:
    full = chat.body(section(), request(yes_no=True), [])
    assert full["logprobs"] is True and full["top_logprobs"] == 20
    less = chat.body(section(), request(yes_no=True), [], chat.OPTIONAL)
    assert set(less) == {"model", "messages", "max_completion_tokens"}


@pytest.mark.parametrize(
    ("payload", "text", "error"),
    [
        (completion(" fine "), "fine", ""),
        (completion("cut", finish="length"), "", "truncated"),
        (completion(None, refusal="I cannot"), "", "refused"),
        (completion("", finish="content_filter"), "", "refused"),
        (completion(None), "", "empty"),
        (completion("  \n"), "", "empty"),
        (completion([{"type": "text", "text": "in "}, {"type": "text", "text": "parts"}]), "in parts", ""),
    ],
)  # fmt: skip
def test_what_an_answer_says(payload: dict, text: str, error: str) -> None:
    answer = chat.read(json.dumps(payload), request())
    assert (answer.text, answer.error, answer.tokens_in, answer.tokens_out) == (text, error, 100, 10)


@pytest.mark.parametrize(
    "body",
    ["", "<html>", '{"choices": [{"mess', "[]", "null", "{}", '{"choices": []}', '{"choices": [null]}',
     '{"choices": [{"message": "x"}]}', '{"error": {"code": 503}}', "[" * 100_000],
)  # fmt: skip
def test_what_is_no_answer_can_be_asked_again(body: str) -> None:
    with pytest.raises(chat.Unreadable):
        chat.read(body, request())


@pytest.mark.parametrize("usage", [None, [], {}, {"prompt_tokens": "3", "completion_tokens": 1}, {"prompt_tokens": 3}])
def test_a_server_that_does_not_count_is_not_believed_half(usage: Any) -> None:
    answer = chat.read(json.dumps(completion("a") | {"usage": usage}), request())
    assert (answer.tokens_in, answer.tokens_out) == (0, 0)


def with_logprobs(text: str, *tokens: dict[str, float]) -> str:
    content = [
        {
            "token": next(iter(top)),
            "logprob": next(iter(top.values())),
            "top_logprobs": [{"token": token, "logprob": value} for token, value in top.items()],
        }
        for top in tokens
    ]
    payload = completion(text)
    payload["choices"][0]["logprobs"] = {"content": content}
    return json.dumps(payload)


@pytest.mark.parametrize(
    ("text", "tokens", "probability"),
    [
        ("Yes", [{"Yes": np.log(0.6), "No": np.log(0.2)}], 0.75),
        ("No", [{" no": np.log(0.5), "No": np.log(0.1), "yes": np.log(0.1), "ĠYes": np.log(0.1), "Maybe": -1}], 0.25),
        ("Yes.", [{"\n": -0.01, "Yes": -5}, {"Yes.": np.log(0.9), "NO": np.log(0.1)}], 0.9),  # a line break first
        ("yes", [{"Yes": -0.1, "Yesterday": -0.2}], 1.0),
        ("No, it is not.", [], None),
        ("**Yes**", [{"Perhaps": -0.1}], None),
        ("Not sure", [], None),
        ("", [{"Yes": -9999.0, "No": 0.0}], 0.0),
    ],
)  # fmt: skip
def test_probability_of_yes(text: str, tokens: list[dict[str, float]], probability: float | None) -> None:
    answer = chat.read(with_logprobs(text, *tokens), request(None, yes_no=True))
    assert answer.probability == (None if probability is None else pytest.approx(probability))


@pytest.mark.parametrize(
    ("tokens", "probability"),
    [
        (
            [{'{"': 0.0}, {"artifacts": 0.0}, {'":': 0.0}, {" true": np.log(0.6), " false": np.log(0.2)}, {"}": 0.0}],
            0.75,
        ),
        ([{'{"artifacts":': 0.0, "Yes": -9.0}, {"false}": np.log(0.9), "true": np.log(0.1)}], 0.1),
        ([{"Yes": -0.1, "No": -2.0}], None),
        ([], None),
    ],
)
def test_probability_of_true_where_json_is_asked_for(tokens: list[dict[str, float]], probability: float | None) -> None:
    answer = chat.read(with_logprobs('{"artifacts": true}', *tokens), request(yes_no=True))
    assert answer.probability == (None if probability is None else pytest.approx(probability))
    assert answer.text == '{"artifacts": true}' and not answer.error


def test_a_long_yes_is_a_yes_and_other_calls_have_no_probability() -> None:
    cut = chat.read(json.dumps(completion("Yes, because", finish="length")), request(None, yes_no=True))
    assert (cut.text, cut.error, cut.probability) == ("Yes, because", "", None)
    assert chat.read(json.dumps(completion("It", finish="length")), request(None, yes_no=True)).error == "truncated"
    assert chat.read(with_logprobs("Yes", {"Yes": -0.1}), request(None)).probability is None


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        ('{"error": {"message": "bad  thing\\n here", "code": "x"}}', "bad thing here", "x"),
        ('{"error": "plain"}', "plain", ""),
        ('{"detail": "Unexpected fields"}', "Unexpected fields", ""),
        ('{"object": "error", "message": "vllm of old", "code": 404}', "vllm of old", "404"),
        ('{"detail": [{"loc": ["body", "seed"]}]}', '[{"loc": ["body", "seed"]}]', ""),
        ("<html>gone</html>", "<html>gone</html>", ""),
        ('{"error": {"message": "Incorrect API key provided: sk-pro***wxyz; sent Bearer abc.def"}}',
         "Incorrect API key provided: ***; sent ***", ""),
    ],
)  # fmt: skip
def test_messages_of_refusals(body: str, message: str, code: str) -> None:
    assert chat.refusal(body) == chat.Refusal(message, code)
    assert len(chat.refusal("x" * 5000).message) == 300


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ("Unexpected fields in the request: {'seed', 'top_logprobs'}", "top_logprobs"),
        ('[{"type": "extra_forbidden", "loc": ["body", "logprobs"], "msg": "Extra inputs are not permitted"}]',
         "logprobs"),
        ("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
         "max_tokens"),
        ("Unsupported value: 'temperature' does not support 0 with this model.", "temperature"),
        ("'response_format' of type 'json_schema' is not supported with this model.", "response_format"),
        ("Invalid schema for response_format 'x': 'minItems' is not permitted.", None),
        ("Unknown model", None),
        ("seed must be an integer", None),
        ("Unexpected fields in the request: {'stream'}", None),
    ],
)  # fmt: skip
def test_which_field_a_server_does_not_take(message: str, field: str | None) -> None:
    assert chat.Refusal(message).unknown_field(chat.OPTIONAL) == field


def test_only_an_object_with_the_required_keys_can_be_an_answer() -> None:
    assert chat.conforms('```json\n{"label": 1}\n```', TEXT_SCHEMA) and chat.conforms("anything", None)
    for text in ('{"answer": 1}', "[1]", '{"label": ', "no", ""):
        assert not chat.conforms(text, TEXT_SCHEMA)


def test_tokens_are_estimated_from_characters_and_pixels() -> None:
    few = chat.estimate(request(None), [(28, 28)])
    assert few == 4 + 1 and chat.estimate(request(None), [(280, 29)]) == 4 + 20
    assert chat.estimate(request(), [(28, 28)]) > few

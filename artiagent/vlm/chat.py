"""Chat completions as OpenAI-compatible servers speak them: a request's body, and what its answer says.

Knows fields and their failings. Does not know HTTP, retries, caches or what an answer means to an agent.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from artiagent.config import VlmSection
from artiagent.vlm.agent import json_text
from artiagent.vlm.protocol import Answer, Request

# fields in which servers differ
OPTIONAL = ("response_format", "logprobs", "top_logprobs", "seed", "temperature", "max_tokens")
_TOP = 20  # tokens whose probability is asked for: the most that servers give
_UNKNOWN = re.compile(
    r"unexpected|unknown|unrecogni[sz]ed|unsupported|does not support|not (?:be )?(?:supported|permitted|allowed)",
    re.IGNORECASE,
)
_KEY = re.compile(r"(?i)\bbearer\s+\S+|\bsk-[\w*.-]+")
_SHOWN = 300  # characters of a server's message
_WORDS, _VALUES = ("yes", "no"), ("true", "false")  # of an answer in words, and in JSON
_SAID = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)
_SCHEMA = "\n\nAnswer with one JSON object of this JSON schema and with nothing else:\n"


class Unreadable(ValueError):
    """An answer that is no chat completion; asking again may help."""


@dataclass(frozen=True)
class Refusal:
    """Message and code of an error that a server answered."""

    message: str
    code: str = ""

    def unknown_field(self, sent: Collection[str]) -> str | None:
        """The optional field among ``sent`` that the server does not take, if the message says so.

        A response format that is taken, but not with this schema, is none.
        """
        if not _UNKNOWN.search(self.message) or "invalid schema" in self.message.lower():
            return None
        found = [name for name in OPTIONAL if name in sent and re.search(rf"\b{name}\b", self.message)]
        return found[0] if found else None


def body(section: VlmSection, request: Request, images: Sequence[str], without: Collection[str] = ()) -> dict[str, Any]:
    """The request in JSON.

    Args:
        section: model and parameters.
        request: what is asked.
        images: a data URI for each of the request's images.
        without: optional fields that the server does not take. Without ``response_format`` the prompt shows the schema,
            ``max_tokens`` becomes ``max_completion_tokens``.
    """
    form = None if "response_format" in without else _response_format(section, request)
    text = request.prompt.text
    if request.prompt.schema is not None and (form is None or form["type"] == "json_object"):
        text += _SCHEMA + json.dumps(request.prompt.schema)
    pictures = [{"type": "image_url", "image_url": {"url": uri}} for uri in images]
    fields: dict[str, Any] = {
        "model": section.model,
        "messages": [{"role": "user", "content": [*pictures, {"type": "text", "text": text}]}],
        "temperature": 0,
        "seed": 0,
        "max_tokens": section.max_tokens,
    }
    if "max_tokens" in without:
        fields["max_completion_tokens"] = section.max_tokens
    if form is not None:
        fields["response_format"] = form
    if request.yes_no and "logprobs" not in without:
        fields |= {"logprobs": True, "top_logprobs": _TOP}
    return {name: value for name, value in fields.items() if name not in without}


def read(text: str, request: Request) -> Answer:
    """What a completion says; text with probability, or an ``error``: truncated, refused, empty. Tokens 0 if untold.

    A yes/no question is answered by its first word; by the value where the prompt asks for JSON. The probability is
    None where the server gives no log probabilities of it.

    Raises Unreadable for anything that is not a completion.
    """
    payload = _object(text)
    choices = payload.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise Unreadable("no choices")
    message = choices[0].get("message")
    if not isinstance(message, dict):
        raise Unreadable("no message")
    answer = _with_usage(Answer(text=_content(message).strip()), payload)
    reason = choices[0].get("finish_reason")
    if request.yes_no:
        chance = _probability(choices[0], _VALUES if request.prompt.schema is not None else _WORDS)
        answer = replace(answer, probability=chance)
        if chance is not None or _SAID.match(answer.text):
            return answer  # the first word is all that is wanted, the rest may be cut
    if message.get("refusal") or reason == "content_filter":
        return replace(answer, text="", error="refused")
    if reason == "length":
        return replace(answer, text="", error="truncated")
    return answer if answer.text else replace(answer, error="empty")


def refusal(text: str) -> Refusal:
    """The message in an error's body, in whichever of the usual shapes, on one line and cut; without keys."""
    try:
        payload = _object(text)
    except Unreadable:
        return Refusal(_short(text))
    inner = payload.get("error", payload)
    if not isinstance(inner, dict):
        return Refusal(_short(str(inner)))
    message = next((inner[key] for key in ("message", "detail", "error") if inner.get(key)), inner)
    return Refusal(_short(message if isinstance(message, str) else json.dumps(message)), str(inner.get("code") or ""))


def conforms(text: str, schema: Mapping[str, Any] | None) -> bool:
    """Whether an answer can be one of this schema: an object with the required keys. Agents check the rest."""
    if schema is None:
        return True
    try:
        value = json.loads(json_text(text))
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and set(schema.get("required", ())) <= set(value)


def estimate(request: Request, sizes: Sequence[tuple[int, int]]) -> int:
    """Tokens of the question, roughly: four characters each, and 28 x 28 pixels each as Qwen2.5-VL counts."""
    schema = json.dumps(request.prompt.schema) if request.prompt.schema else ""
    pixels = sum(math.ceil(width / 28) * math.ceil(height / 28) for width, height in sizes)
    return math.ceil((len(request.prompt.text) + len(schema)) / 4) + pixels


def _response_format(section: VlmSection, request: Request) -> dict[str, Any] | None:
    if request.prompt.schema is None or section.structured == "prompt":
        return None
    if section.structured == "json_object":
        return {"type": "json_object"}
    name = re.sub(r"[^A-Za-z0-9_-]", "_", request.prompt.name)[:64] or "answer"
    return {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": request.prompt.schema}}


def _object(text: str) -> dict[str, Any]:
    try:
        payload = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable("no JSON") from error
    if not isinstance(payload, dict):
        raise Unreadable("no JSON object")
    return payload


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):  # some servers answer in parts
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _with_usage(answer: Answer, payload: Mapping[str, Any]) -> Answer:
    usage = payload.get("usage")
    counts = [usage.get(key) for key in ("prompt_tokens", "completion_tokens")] if isinstance(usage, dict) else []
    if not counts or not all(isinstance(count, int) and count >= 0 for count in counts):
        return answer
    return replace(answer, tokens_in=counts[0], tokens_out=counts[1])


def _probability(choice: Mapping[str, Any], words: tuple[str, str]) -> float | None:
    """P(first) / (P(first) + P(second)) of the words of a yes/no answer; None without log probabilities of them."""
    shares = _deciding_token(choice, json_value=words == _VALUES)
    yes, no = (sum(p for token, p in shares if token == word) for word in words)
    return yes / (yes + no) if yes + no > 0 else None


def _deciding_token(choice: Mapping[str, Any], *, json_value: bool) -> list[tuple[str, float]]:
    """(word, probability) of the alternatives of the first token that is a word, or that is true or false."""
    logprobs = choice.get("logprobs")
    tokens = logprobs.get("content") if isinstance(logprobs, dict) else None
    for token in tokens if isinstance(tokens, list) else ():
        if not isinstance(token, dict) or not (word := _word(token.get("token"))):
            continue
        if not json_value or word in _VALUES:
            return [
                (_word(item.get("token")), math.exp(min(item["logprob"], 0)))
                for item in token.get("top_logprobs") or [token]
                if isinstance(item, dict) and isinstance(item.get("logprob"), int | float)
            ]
    return []


def _word(token: Any) -> str:
    """A token as it would be compared: of "ĠYes", "▁Yes", " yes" and "Yes" the same word."""
    return re.sub(r"[\s\u0120\u2581]+|[.,!:*\"'}]+$|^[*\"']+", "", token).lower() if isinstance(token, str) else ""


def _short(message: str) -> str:
    line = _KEY.sub("***", " ".join(message.split()))
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 3]}..."

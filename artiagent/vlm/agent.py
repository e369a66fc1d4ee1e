"""What every agent does with a vision-language model: ask, read the answer by a schema, ask once more if malformed.

Knows how an answer becomes a value or a recorded error. Does not know any agent's question. A call that fails is an
outcome without a value, reason ``vlm_error``: it never ends a run; a server that is gone does (`VlmUnavailable`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from artiagent.records import AgentCall
from artiagent.vlm.protocol import Answer, Request, Vlm

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
_FENCED = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL)
_SHOWN = 2000  # characters of a malformed answer that are shown back to the model
_BRIEF = 120
_ENGLISH = frozenset(
    {
        "the", "an", "is", "are", "was", "of", "in", "on", "at", "by", "it", "its", "to", "and", "or", "has", "have",
        "with", "there", "where", "not", "this", "that", "from", "into", "as", "one", "two",
    }
)  # fmt: skip
_SENTENCE = 5  # words from which a text must have a word that hardly any English sentence does without


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """The value an answer stands for; None with the `error` that is left after one repair.

    `chance` is P(Yes) of a yes/no question where the backend can tell, and 1 or 0 where it only answers.
    """

    value: T | None
    error: str
    call: AgentCall
    chance: float | None = None


def consult(vlm: Vlm, requests: Iterable[Request], read: Callable[[str], T]) -> list[Outcome[T]]:
    """Ask everything at once, then everything malformed once more, with the complaint.

    Args:
        vlm: any backend.
        requests: calls; order is kept.
        read: text -> value; raises ValueError (pydantic's included) saying what is wrong.
    """
    asked = list(requests)
    first = [_outcome(vlm, request, answer, read) for request, answer in zip(asked, vlm.ask(asked), strict=True)]
    broken = [i for i, outcome in enumerate(first) if outcome.call.status == "invalid"]
    again = [_repair(asked[i], first[i]) for i in broken]
    for i, request, answer in zip(broken, again, vlm.ask(again) if again else (), strict=True):
        first[i] = _joined(first[i], _outcome(vlm, request, answer, read))
    return first


def json_reader(model: type[M]) -> Callable[[str], M]:
    """Reads one JSON object into a pydantic model; code fences and prose around the outermost braces are forgiven."""

    def read(text: str) -> M:
        try:
            return model.model_validate_json(json_text(text))
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'answer'}: {e['msg']}" for e in error.errors()[:5])
            raise ValueError(problems) from error

    return read


def json_text(text: str) -> str:
    """The JSON object inside an answer; the text itself where there is none."""
    if (fenced := _FENCED.search(text)) is not None:
        text = fenced[1]
    start, end = text.find("{"), text.rfind("}")
    return text[start : end + 1] if 0 <= start < end else text.strip()


def english(text: str) -> str:
    """The text, if it is in English as far as letters and the commonest words tell; raises ValueError otherwise."""
    letters = [c for c in text if c.isalpha()]
    words = re.findall(r"[a-z']+", text.lower())
    foreign = sum(not c.isascii() for c in letters) > 0.2 * len(letters)
    if not letters or foreign or (len(words) >= _SENTENCE and not _ENGLISH.intersection(words)):
        raise ValueError("expected text in English")
    return text


def call_of(model: str, request: Request, answer: Answer, status: str, verdict: str) -> AgentCall:
    """The call as it is accounted for."""
    return AgentCall(
        key=request.key, task=request.task, prompt=f"{request.prompt.name}@{request.prompt.version}",
        prompt_hash=request.prompt.hash, model=model, status=status, verdict=verdict,
        tokens_in=answer.tokens_in, tokens_out=answer.tokens_out, cost=answer.cost, cached=answer.cached,
        attempts=answer.attempts, seconds=round(answer.seconds, 4),
    )  # fmt: skip


def _outcome(vlm: Vlm, request: Request, answer: Answer, read: Callable[[str], T]) -> Outcome[T]:
    value: T | None = None
    error = answer.error
    status = "ok"
    if error:
        status = error
    else:
        try:
            value = read(answer.text)
        except ValueError as problem:
            status, error = "invalid", f"{problem} (answer: {answer.text[:_SHOWN]!r})"
    chance = answer.probability
    if chance is None and isinstance(value, bool):
        chance = float(value)
    call = call_of(vlm.name, request, answer, status, _brief(value, chance))
    return Outcome(value, error, call, None if value is None else chance)


def _repair(request: Request, failed: Outcome[Any]) -> Request:
    """The same question with the complaint; a cached malformed answer is thus never asked for again in vain."""
    prompt = request.prompt
    complaint = f"\n\nYour last answer was not valid: {failed.error}\nAnswer again, with valid JSON of the schema only."
    if prompt.schema is None:
        complaint = f"\n\nYour last answer was not valid: {failed.error}\nAnswer again."
    return replace(request, prompt=replace(prompt, text=prompt.text + complaint))


def _joined(first: Outcome[T], second: Outcome[T]) -> Outcome[T]:
    """The second outcome, accounted for with both calls."""
    one, two = first.call, second.call
    call = two.model_copy(
        update={
            "status": "repaired" if two.status == "ok" else two.status,
            "tokens_in": one.tokens_in + two.tokens_in, "tokens_out": one.tokens_out + two.tokens_out,
            "cost": one.cost + two.cost, "cached": one.cached and two.cached,
            "attempts": one.attempts + two.attempts, "seconds": round(one.seconds + two.seconds, 4),
        }
    )  # fmt: skip
    return replace(second, call=call)


def _brief(value: Any, chance: float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return f"{'yes' if value else 'no'}, P(yes) {chance:.3f}"
    return brief(json.dumps(value.model_dump(mode="json")) if isinstance(value, BaseModel) else str(value))


def brief(text: str) -> str:
    """The beginning of an answer, for the account."""
    return text if len(text) <= _BRIEF else f"{text[: _BRIEF - 3]}..."

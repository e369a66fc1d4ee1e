"""The one protocol through which every agent talks to a vision-language model.

Knows what a call consists of and what comes back. Does not know models, prompts' wording or what an answer is for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from artiagent.instruction.coordinates import CoordinateSpace
from artiagent.vlm.prompt import Prompt

Task = Literal[
    "vocabulary", "presence", "judge", "label", "local", "global", "caption",
    "detection", "localization", "explanation",
]  # fmt: skip


@dataclass(frozen=True)
class Request:
    """One call of an agent.

    Args:
        task: which agent asks, or which task of a benchmark it is.
        prompt: what a model reads, with its version and the JSON schema of the answer, if it has one.
        images: uint8 [H, W, 3] each, in the order in which the prompt speaks of them; sizes may differ.
        key: what the call is about (a source or job id), for the account and the trace.
        facts: what is already known from records. A backend without eyes answers from it, a model never sees it.
        seed: varies the wording of a backend without a model.
        yes_no: the answer's first token is Yes or No and its probability is wanted.
    """

    task: Task
    prompt: Prompt
    images: tuple[np.ndarray, ...]
    key: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    seed: str = ""
    yes_no: bool = False


@dataclass(frozen=True)
class Answer:
    """What came back, or why nothing did.

    `error` is "" or a short reason without any secret, e.g. "timeout", "http 500". `probability` is
    P(Yes) / (P(Yes) + P(No)) where the backend can tell, else None. `cost` is in the currency of the configured prices.
    """

    text: str = ""
    error: str = ""
    probability: float | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    cached: bool = False
    attempts: int = 1
    seconds: float = 0.0


class VlmUnavailable(ValueError):
    """Nobody answers at all; the message names the address and the setting. Finished work stays, a rerun resumes."""


class Vlm(Protocol):
    """`name` goes into records; `spent` is the account of all calls so far, JSON-ready."""

    name: str

    def space(self, width: int, height: int) -> CoordinateSpace:
        """Units in which boxes inside a prompt about an image of this many pixels are spoken of."""
        ...

    def ask(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Answers in the order of the requests, which are consumed as a stream. A failed call is an answer with
        `error`; raises VlmUnavailable when no call can succeed."""
        ...

    def spent(self) -> dict[str, float | int]:
        """Calls, requests, retries, cache hits, tokens, cost..."""
        ...


class Sighted(Protocol):
    """A model in process, of which evaluation and the nano recipes ask bare questions about one image each."""

    name: str

    def space(self, width: int, height: int) -> CoordinateSpace: ...

    def generate(self, images: Sequence[np.ndarray], prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Greedy answers, stripped."""
        ...

    def yes_no(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """P(Yes) / (P(Yes) + P(No)) of the first answer token, float64 [n]."""
        ...

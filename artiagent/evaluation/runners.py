"""Who answers a benchmark's questions: a model in process, batched, or one behind an OpenAI-compatible server.

Knows how the questions of an item become parsed replies. Does not know benchmarks' files, predictions on disk or
metrics. Decoding is greedy; boxes are asked for on every image, explanations on faulty ones only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Protocol
from urllib.parse import urlsplit

import numpy as np

from artiagent.config import EvaluationSection, VlmSection
from artiagent.evaluation.benchmarks import BenchmarkItem
from artiagent.evaluation.parsing import (
    parse_boxes,
    parse_explanation,
    parse_said_verdict,
    parse_verdict,
    status_of_error,
)
from artiagent.evaluation.questions import VERDICTS, Task, key_of, prompt_of
from artiagent.images import decode
from artiagent.instruction.coordinates import CoordinateSpace
from artiagent.records import AgentCall, Box, CheckpointRef, stable_hash
from artiagent.vlm.agent import brief, call_of
from artiagent.vlm.protocol import Answer, Request, Vlm

SERVED = "openai:"  # before a server's name of a model
_GROUP = 64  # items of a served model that are asked together: more than are under way at a time
_SETTING = "evaluation.vlm"

Shown = Sequence[tuple[BenchmarkItem, bytes]]


@dataclass
class Reply:
    """A model's parsed answers on one item; ``calls`` account for them where a server was asked."""

    verdict: bool | None = None
    score: float | None = None
    boxes: tuple[Box, ...] = ()
    explanation: str = ""
    status: dict[str, str] = field(default_factory=dict)
    calls: tuple[AgentCall, ...] = ()


class Runner(Protocol):
    """`group`: items that are asked and kept together. `vlm`: whose account of calls is kept, None where there is
    none."""

    group: int
    vlm: Vlm | None

    def replies(self, benchmark: str, shown: Shown) -> Iterator[Reply]:
        """One for each item, in order. Raises VlmUnavailable when nobody answers any more."""
        ...


def load_runner(section: EvaluationSection, model: CheckpointRef) -> Runner:
    """The way to ask a model: `ServedRunner` where its uri is ``openai:NAME``, else `LocalRunner`."""
    return ServedRunner(section, model) if model.uri.startswith(SERVED) else LocalRunner(section, model)


def group_of(section: EvaluationSection, model: CheckpointRef) -> int:
    """``group`` of the runner, without loading it."""
    return ServedRunner.group if model.uri.startswith(SERVED) else section.batch_size


def served_ref(section: EvaluationSection, location: str) -> CheckpointRef:
    """Reference of ``openai:NAME`` as a model: its digest is of the name, the server's host and what it says of it.

    Raises VlmUnavailable when the server does not answer or does not accept the key, ValueError without a name.
    """
    from artiagent.vlm.served import served_model

    asked = _served(section, location)
    url = urlsplit(asked.base_url)
    said = served_model(asked, _SETTING)
    facts = [f"{name}={value}" for name, value in sorted(said.items())]
    sha256 = stable_hash(SERVED, asked.model, url.hostname or "", str(url.port or ""), url.path, *facts, length=64)
    return CheckpointRef(name=str(asked.model).rsplit("/", 1)[-1], uri=location, sha256=sha256)


def served_digest(section: EvaluationSection, model: CheckpointRef) -> str:
    """How a served model is asked, as far as answers depend on it; "" of a model in process."""
    return _served(section, model.uri).digest() if model.uri.startswith(SERVED) else ""


class LocalRunner:
    """A model folder in process: every image is encoded once for all questions about it."""

    vlm = None

    def __init__(self, section: EvaluationSection, model: CheckpointRef) -> None:
        from artiagent.vlm.local import LocalVlm

        self.section, self.group = section, section.batch_size
        self._model = LocalVlm(model.uri, section.device, section.dtype, section.threads, section.batch_size)

    def replies(self, benchmark: str, shown: Shown) -> Iterator[Reply]:
        looks = self._model.look([decode(data) for _, data in shown])
        spaces = [self._model.space(item.width, item.height) for item, _ in shown]
        replies = [Reply() for _ in shown]
        for task in self.section.tasks:
            rows = [i for i, (item, _) in enumerate(shown) if task in tasks_of(self.section, item)]
            texts = [prompt_of(self.section, task, spaces[i]).text for i in rows]
            chosen = [looks[i] for i in rows]
            if task == "detection":
                for i, chance in zip(
                    rows, self._model.yes_no(chosen, texts, VERDICTS[self.section.prompts]), strict=True
                ):
                    _fill_verdict(replies[i], float(chance))
                continue
            most = self.section.max_box_tokens if task == "localization" else self.section.max_new_tokens
            for i, said in zip(rows, self._model.generate(chosen, texts, most), strict=True):
                _fill(replies[i], task, said, key_of(self.section, task), spaces[i])
        yield from replies


class ServedRunner:
    """A model behind a server: concurrent calls, answers on disk, an account of what they cost.

    Answers are cached apart for every identity of a model: another server may give the same name to other weights.
    """

    group = _GROUP

    def __init__(self, section: EvaluationSection, model: CheckpointRef) -> None:
        from artiagent.store import home
        from artiagent.vlm.openai import OpenAiVlm

        self.section = section
        asked = _served(section, model.uri)
        self.vlm: Vlm = OpenAiVlm(asked, home() / "vlm-cache" / model.sha256[:16] if asked.cache else None, _SETTING)

    def replies(self, benchmark: str, shown: Shown) -> Iterator[Reply]:
        under_way: deque[Request] = deque()
        with closing(self.vlm.ask(self._requests(benchmark, shown, under_way))) as answers:
            for item, _ in shown:
                reply = Reply()
                for task in tasks_of(self.section, item):
                    answer, request = next(answers), under_way.popleft()
                    self._read(reply, task, answer, self.vlm.space(item.width, item.height))
                    call = call_of(self.vlm.name, request, answer, answer.error or "ok", brief(answer.text))
                    reply.calls += (call,)
                yield reply

    def _requests(self, benchmark: str, shown: Shown, under_way: deque[Request]) -> Iterator[Request]:
        for item, data in shown:
            image = decode(data)
            space = self.vlm.space(item.width, item.height)
            for task in tasks_of(self.section, item):
                prompt, key = prompt_of(self.section, task, space), f"{benchmark}/{item.item_id}"
                request = Request(task, prompt, (image,), key, yes_no=task == "detection")
                under_way.append(replace(request, images=()))
                yield request

    def _read(self, reply: Reply, task: Task, answer: Answer, space: CoordinateSpace) -> None:
        if answer.error:
            reply.status[task] = status_of_error(answer.error)
        elif task == "detection" and answer.probability is not None:
            _fill_verdict(reply, answer.probability)
        else:
            _fill(reply, task, answer.text, key_of(self.section, task), space)


def tasks_of(section: EvaluationSection, item: BenchmarkItem) -> tuple[Task, ...]:
    """What is asked about an item: a clean one has nothing to explain."""
    return tuple(task for task in section.tasks if item.faulty or task != "explanation")


def _fill(reply: Reply, task: Task, said: str, key: str | None, space: CoordinateSpace) -> None:
    if task == "detection":
        reply.verdict, reply.status[task] = parse_said_verdict(said, key)
    elif task == "localization":
        reply.boxes, reply.status[task] = parse_boxes(said, space, key)
    else:
        reply.explanation, reply.status[task] = parse_explanation(said, key)


def _fill_verdict(reply: Reply, chance: float) -> None:
    reply.score = None if np.isnan(chance) else chance
    reply.verdict, reply.status["detection"] = parse_verdict(chance)


def _served(section: EvaluationSection, location: str) -> VlmSection:
    name = location.removeprefix(SERVED)
    if not name or not location.startswith(SERVED):
        raise ValueError(f"{location!r}: expected {SERVED}NAME, NAME being the server's name of the model")
    return section.vlm.model_copy(update={"backend": "openai", "model": name})

"""The judge: a vision-language model says whether an artifact is one. Two ways to ask.

``presence`` asks "is there a <part> in <box>?" about the twin and about the artifact image. A weak judge rarely flips
its answer but does move, so what counts is the difference of P(Yes), which also cancels its prejudice about the place.
``views`` is the paper's: three views of the place, yes or no by the rules of the tool. Distortions are not asked about
there; the perceptual window decides them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from artiagent.config import CurationSection
from artiagent.curation.views import View, three_views
from artiagent.instruction.prompts import NO, PART_IN_BOX, YES, both_of, with_article
from artiagent.instruction.prompts import render as render_question
from artiagent.records import AgentCall, Reason, Record, Tool
from artiagent.vlm.agent import Outcome, consult, json_reader
from artiagent.vlm.prompt import question, render
from artiagent.vlm.protocol import Request, Vlm

PROMPT_OF_TOOL: dict[str, str] = {"add": "judge_add", "remove": "judge_remove", "fuse": "judge_fuse"}


@dataclass(frozen=True)
class Verdict:
    """What the judge says of one artifact; ``reason`` is None where it agrees. ``calls`` are what it took."""

    reason: Reason | None
    detail: str
    calls: tuple[AgentCall, ...] = ()


Judge = Callable[[Sequence[View]], list[Verdict]]


@dataclass(frozen=True)
class Opinion:
    """P(Yes) for "is there a <part> in <box>?" on the twin and on the artifact image; NaN without an answer."""

    before: float
    after: float

    def reason(self, tool: Tool, section: CurationSection) -> Reason | None:
        """Whether the difference speaks for the artifact.

        A part that was added must become more certain by `judge_margin`, one that was removed less certain. A
        distorted part or a fused entity is still somewhat itself: it only must not gain more than `judge_slack`.
        """
        gain = self.after - self.before
        if not math.isfinite(gain):
            return "vlm_error"
        if tool == "add":
            convinced = gain >= section.judge_margin
        elif tool == "remove":
            convinced = -gain >= section.judge_margin
        else:
            convinced = gain <= section.judge_slack
        return None if convinced else "judge_rejected"

    def __str__(self) -> str:
        return f"P(yes) {self.before:.2f} -> {self.after:.2f}"


class Judgement(Record):
    """Answer to the three views."""

    evidence: str
    verdict: Literal["yes", "no"]


def load_judge(section: CurationSection, vlm: Vlm | None) -> Judge | None:
    """The configured way to ask; None where nobody is asked."""
    if vlm is None or section.judge == "none":
        return None
    return partial(judge_presence if section.judge == "presence" else judge_views, vlm, section)


def judge_presence(vlm: Vlm, section: CurationSection, views: Sequence[View]) -> list[Verdict]:
    """Ask about every artifact, both sides at once."""
    requests = [_presence(vlm, view, side) for view in views for side in ("clean", "image")]
    outcomes = consult(vlm, requests, _read_yes_no)
    verdicts = []
    for view, before, after in zip(views, outcomes[::2], outcomes[1::2], strict=True):
        opinion = Opinion(*(math.nan if o.chance is None else o.chance for o in (before, after)))
        reason = opinion.reason(view.artifact.injection.tool, section)
        problems = "".join(f", {o.error}" for o in (before, after) if o.error)
        verdicts.append(Verdict(reason, f"{opinion}{problems}", (before.call, after.call)))
    return verdicts


def judge_views(vlm: Vlm, section: CurationSection, views: Sequence[View]) -> list[Verdict]:
    """Ask the paper's question of each tool; distortions pass unasked."""
    asked = [view for view in views if view.artifact.injection.tool in PROMPT_OF_TOOL]
    requests = [_three_views(view, section) for view in asked]
    answers = iter(consult(vlm, requests, json_reader(Judgement)))
    return [
        _judged(next(answers)) if view.artifact.injection.tool in PROMPT_OF_TOOL else Verdict(None, "not asked")
        for view in views
    ]


def _judged(outcome: Outcome[Judgement]) -> Verdict:
    if outcome.value is None:
        return Verdict("vlm_error", outcome.error, (outcome.call,))
    agreed = outcome.value.verdict == "yes"
    detail = f"judge: {outcome.value.verdict}, {outcome.value.evidence}"
    return Verdict(None if agreed else "judge_rejected", detail, (outcome.call,))


def _presence(vlm: Vlm, view: View, side: str) -> Request:
    injection = view.artifact.injection
    image = getattr(view, side)
    box = vlm.space(image.shape[1], image.shape[0]).to_model(view.artifact.box)
    text = render_question(PART_IN_BOX, part=injection.part or injection.entity, box=box)
    return Request("presence", question(PART_IN_BOX, text), (image,), f"{view.key}/{side}", yes_no=True)


def _three_views(view: View, section: CurationSection) -> Request:
    injection = view.artifact.injection
    name = PROMPT_OF_TOOL[injection.tool]
    prompt = render(
        name, answer=Judgement, version=section.vlm.prompts.get(name), part=injection.part, entity=injection.entity,
        a_part=with_article(injection.part), both=both_of(injection.entity, injection.other_entity),
    )  # fmt: skip
    return Request("judge", prompt, three_views(view), view.key)


def _read_yes_no(text: str) -> bool:
    words = text.strip().strip(".*\"'").split()
    first = words[0].strip(".,:;!") if words else ""
    if first.lower() not in (YES.lower(), NO.lower()):
        raise ValueError(f"expected {YES} or {NO}")
    return first.lower() == YES.lower()

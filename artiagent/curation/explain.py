"""Labels, explanations and captions of curated pairs (spec: perception and curation, section 5).

Knows what is asked of the writing agent, what it may be told and what counts as an answer. Does not know who writes:
any `Vlm` may.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, field_validator

from artiagent.config import VlmSection
from artiagent.curation.case import Case
from artiagent.curation.views import View, three_views
from artiagent.instruction.prompts import both_of
from artiagent.records import AgentCall, Artifact, Pair, Record
from artiagent.vlm.agent import Outcome, consult, english, json_reader
from artiagent.vlm.prompt import Prompt, render
from artiagent.vlm.protocol import Request, Vlm

CLEAN_LABEL = "clean"
# An explanation is for someone who sees one picture: nothing of the process, of the other views or of coordinates.
_TELLTALE = re.compile(
    r"\bimage [123]\b|\b(?:edited|inpaint\w*|inject\w*|diffusion|AI[- ]generated|duplication|omission)\b|"
    r"\[\s*\d+\s*,\s*\d+|\b(?:pixels?|coordinates?|bounding box)\b",
    re.IGNORECASE,
)


class SceneFacts(NamedTuple):
    """What perception knows of a source: its caption (may be empty) and the names of its entities."""

    caption: str
    entities: tuple[str, ...]


def _fit(text: str) -> str:
    """Raises ValueError for words that tell of the process, of the views or of coordinates, or are not English."""
    if (found := _TELLTALE.search(text)) is not None:
        raise ValueError(f"{found[0]!r} must not be mentioned: speak about the picture as a layperson sees it")
    return english(text)


Words = Annotated[str, AfterValidator(lambda text: _fit(text.strip()))]


class LocalExplanation(Record):
    """What looks wrong in one place: a brief phrase, and one or two sentences for a layperson."""

    label: str
    explanation: Words

    @field_validator("label")
    @classmethod
    def _brief(cls, text: str) -> str:
        text = text.strip().rstrip(".")
        if not 1 <= len(text.split()) <= 10:
            raise ValueError("expected a phrase of two to five words")
        return _fit(text)


class GlobalExplanation(Record):
    """What is wrong with the whole picture, in two or three sentences."""

    explanation: Words


def explain(writer: Vlm, section: VlmSection, cases: Sequence[Case], scenes: Mapping[str, SceneFacts]) -> list[Case]:
    """Label and explain the accepted artifacts of all cases, explain each picture, and caption the clean sides.

    An artifact about which the writer says nothing usable stays accepted without words, its detail says so; a turn
    without words is left out of a conversation.

    Args:
        writer: backend that writes.
        section: versions of the prompts.
        cases: pairs with verdicts.
        scenes: what is known about each pair's source. Raises ValueError for a pair without one.
    """
    for case in cases:
        if case.pair.source_id not in scenes:
            raise ValueError(
                f"pair {case.pair.job_id}: no scene {case.pair.source_id}; pass the scenes that it was made from"
            )
    cases = [_captioned(case, scenes[case.pair.source_id]) for case in cases]
    return _overall(writer, section, _local(writer, section, cases))


def _captioned(case: Case, scene: SceneFacts) -> Case:
    """Captions come from perception, which asked or knew; benign artifacts are labelled clean."""
    from artiagent.vlm.template import TemplateVlm

    request = Request("caption", render("caption"), (), case.pair.job_id, scene._asdict(), case.pair.job_id)
    caption = next(TemplateVlm().ask([request])).text
    artifacts = tuple(
        a.model_copy(update={"label": CLEAN_LABEL}) if a.injection.tool == "benign" else a for a in case.pair.artifacts
    )
    return case.with_pair(caption=caption, artifacts=artifacts)


def _local(writer: Vlm, section: VlmSection, cases: list[Case]) -> list[Case]:
    asked = [(i, j) for i, case in enumerate(cases) for j, a in enumerate(case.pair.artifacts) if a.accepted]
    requests = [_about_artifact(section, cases[i], j) for i, j in asked]
    outcomes = dict(zip(asked, consult(writer, requests, json_reader(LocalExplanation)), strict=True))
    explained = []
    for i, case in enumerate(cases):
        found = [outcomes.get((i, j)) for j in range(len(case.pair.artifacts))]
        artifacts = tuple(_worded(a, o) for a, o in zip(case.pair.artifacts, found, strict=True))
        explained.append(_noted(case.with_pair(artifacts=artifacts), [o for o in found if o]))
    return explained


def _overall(writer: Vlm, section: VlmSection, cases: list[Case]) -> list[Case]:
    asked = [i for i, case in enumerate(cases) if any(a.explanation for a in case.pair.faults)]
    requests = [_about_picture(writer, section, cases[i].pair, cases[i]) for i in asked]
    for i, outcome in zip(asked, consult(writer, requests, json_reader(GlobalExplanation)), strict=True):
        words = outcome.value.explanation if outcome.value else ""
        cases[i] = _noted(cases[i].with_pair(explanation=words), [outcome])
    return cases


def _worded(artifact: Artifact, outcome: Outcome[LocalExplanation] | None) -> Artifact:
    if outcome is None:
        return artifact
    if outcome.value is None:
        return artifact.model_copy(update={"detail": f"{artifact.detail}, not explained: vlm_error {outcome.error}"})
    return artifact.model_copy(update=outcome.value.model_dump())


def _noted(case: Case, outcomes: Sequence[Outcome]) -> Case:
    calls: list[AgentCall] = [o.call for o in outcomes if o.call.model != "template"]
    return replace(case, calls=(*case.calls, *calls))


def _about_artifact(section: VlmSection, case: Case, index: int) -> Request:
    pair, artifact = case.pair, case.pair.artifacts[index]
    injection = artifact.injection
    subject = injection.part or injection.entity
    if injection.tool == "fuse":
        subject = both_of(injection.entity, injection.other_entity).removeprefix("the ")
    elif injection.part:
        subject = f"{injection.part} of the {injection.entity}"
    prompt = _prompt("explain_local", LocalExplanation, section, subject=subject)
    views = three_views(View(case.clean, case.image, artifact))
    key = f"{pair.job_id}:{index}"
    return Request("local", prompt, views, key, _facts(artifact), key)


def _about_picture(writer: Vlm, section: VlmSection, pair: Pair, case: Case) -> Request:
    space = writer.space(pair.width, pair.height)
    faults = [{"box": space.to_model(a.box), "explanation": a.explanation} for a in pair.faults if a.explanation]
    units = "" if (space.model_width, space.model_height) == (pair.width, pair.height) else ", in units of your own"
    prompt = _prompt("explain_global", GlobalExplanation, section, faults=faults, units=units)
    facts = {"faults": [_facts(a) for a in pair.faults if a.explanation]}
    return Request("global", prompt, (case.image,), pair.job_id, facts, pair.job_id)


def _prompt(name: str, answer: type[Record], section: VlmSection, **fields: object) -> Prompt:
    return render(name, answer=answer, version=section.prompts.get(name), **fields)


def _facts(artifact: Artifact) -> dict[str, str]:
    injection = artifact.injection
    return {
        "tool": injection.tool,
        "entity": injection.entity,
        "part": injection.part,
        "other": injection.other_entity,
    }

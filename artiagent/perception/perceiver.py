"""How perception looks at a window of images: vocabulary, grounding, linking, in the order that the configuration sets.

Knows where vocabularies and masks may come from and how they go together. Does not know files, resuming or data sets.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from artiagent.config import InputSet, PerceptionSection
from artiagent.perception.agents import Seen, ask_captions, ask_vocabularies, named_terms
from artiagent.perception.grounding import Grounder, Grounding
from artiagent.perception.intake import Intake
from artiagent.perception.linking import link
from artiagent.perception.sources import SourceError, known_grounder, licence_of
from artiagent.perception.vocabulary import Vocabulary, template
from artiagent.records import AgentCall, CheckpointRef, Scene
from artiagent.vlm import load_vlm
from artiagent.vlm.agent import Outcome
from artiagent.vlm.protocol import Vlm

SETTING = "perception.vlm"
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_PLURALS = {"person": "people", "man": "men", "woman": "women", "child": "children", "mouse": "mice", "knife": "knives"}


class Skip(Exception):
    """This image yields no scene; ``args`` are the reason code and the detail."""


@dataclass
class Look:
    """An image on its way to a scene; ``reason`` is set when it ends early."""

    source_id: str
    name: str
    subject: str
    taken: Intake
    known: Grounding | None = None
    vocabulary: Vocabulary | None = None
    caption: str = ""
    found: Grounding | None = None
    reason: str = ""
    calls: list[AgentCall] = field(default_factory=list)
    agents: dict[str, str] = field(default_factory=dict)

    @property
    def seen(self) -> Seen:
        return Seen(self.source_id, self.taken.pixels)


@dataclass
class Perceiver:
    """The four steps of perception on windows of images: intake, vocabulary, grounding, linking.

    ``known`` are the annotations of the sets that have some; ``detector`` searches where annotations do not decide.
    """

    section: PerceptionSection
    known: dict[str, Grounder | None]
    detector: Grounder | None = None
    vlm: Vlm | None = None

    @classmethod
    def load(cls, section: PerceptionSection, sets: Sequence[InputSet], base: CheckpointRef | None) -> Perceiver:
        """Load what the section asks for. Raises ValueError where vocabulary, grounding and sets do not go together."""
        from_annotations = section.grounding == "annotations"
        known = {source.name: known_grounder(source) for source in sets}
        if from_annotations or section.vocabulary == "template":
            _check_annotated(section, known)
        if section.vocabulary == "caption" and not section.terms:
            raise ValueError("perception.terms: needed for vocabulary 'caption'; give entities with their parts")
        detector = None
        if not from_annotations:
            from artiagent.perception.grounding.detect import load_grounder

            detector = load_grounder(section)
        vlm = None if section.vocabulary == "template" else load_vlm(section.vlm, base, SETTING)
        return cls(section, known, detector, vlm)

    def see(self, source: InputSet, looks: Sequence[Look]) -> None:
        """Fill in what each look finds; a look that ends early gets its reason."""
        self._read_known(source, looks)
        self._name(_standing(looks))
        for look in _standing(looks):
            if not look.vocabulary.entities:
                found = f"{len(look.known.instances)} instances, " if look.known else ""
                look.reason = f"no_vocabulary: {found}no entity with a visible part"
        self._ground(_standing(looks))

    def _read_known(self, source: InputSet, looks: Sequence[Look]) -> None:
        grounder = self.known[source.name]
        if grounder is None:
            return
        found = grounder.ground([look.taken for look in looks], [look.name for look in looks], [None] * len(looks))
        decisive = self.detector is None or self.section.vocabulary == "template"
        for look, grounding in zip(looks, found, strict=True):
            if isinstance(grounding, Grounding):
                look.known, look.caption = grounding, grounding.caption
            elif decisive:
                look.reason = f"grounding_error: {grounding}"

    def _name(self, looks: list[Look]) -> None:
        """Vocabulary and, where the annotations have none, the caption."""
        if self.section.vocabulary == "template":
            for look in looks:
                look.vocabulary = template(look.known.instances, self.section.containment)
            return
        self._caption([look for look in looks if not look.caption])
        if self.section.vocabulary == "caption":
            for look in looks:
                look.vocabulary = named_terms(self.section.terms, look.subject, look.caption)
            return
        outcomes = ask_vocabularies(self.vlm, self.section.vlm, [look.seen for look in looks])
        for look, outcome in zip(looks, outcomes, strict=True):
            look.vocabulary = _taken(look, outcome)

    def _caption(self, looks: list[Look]) -> None:
        outcomes = ask_captions(self.vlm, self.section.vlm, [look.seen for look in looks]) if looks else []
        for look, outcome in zip(looks, outcomes, strict=True):
            look.caption = _taken(look, outcome) or ""

    def _ground(self, looks: list[Look]) -> None:
        if self.detector is None:
            for look in looks:
                look.found = look.known
            return
        found = self.detector.ground(
            [look.taken for look in looks], [look.name for look in looks], [look.vocabulary for look in looks]
        )
        for look, grounding in zip(looks, found, strict=True):
            if isinstance(grounding, Grounding):
                look.found = grounding
            else:
                look.reason = f"grounding_error: {grounding}"

    def scene(self, source: InputSet, look: Look) -> Scene:
        """The linked scene; raises Skip when nothing is left of it."""
        entities, dropped = link(look.found.instances, look.vocabulary, self.section)
        dropped += look.found.dropped
        if not entities:
            reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(dropped.items())) or "nothing was found"
            raise Skip("no_entity", f"none covers {self.section.entity_min_share:.0%} of the image ({reasons})")
        width, height = look.taken.transform.size
        stated = look.known.licence if look.known else "unknown"
        return Scene(
            source_id=look.source_id,
            group=source.name,
            scored=source.scored,
            width=width,
            height=height,
            image_sha256=hashlib.sha256(look.taken.pixels.tobytes()).hexdigest(),
            caption=look.caption or describe([entity.name for entity in entities]),
            entities=entities,
            licence=stated if stated != "unknown" else licence_of(source),
            origin=look.name,
            grounding=(self.detector or self.known[source.name]).name,
            dropped=dict(sorted(dropped.items())),
            agents=look.agents,
        )


def _check_annotated(section: PerceptionSection, known: dict[str, Grounder | None]) -> None:
    bare = [name for name, grounder in known.items() if grounder is None]
    if bare:
        asks = "grounding 'annotations'" if section.grounding == "annotations" else "vocabulary 'template'"
        raise SourceError(
            f"input set {bare[0]!r}: no annotations given; {asks} needs a COCO file (key 'annotations' of the set, or "
            "--annotations COCO.json); without one, set perception.grounding to a detector and "
            "perception.vocabulary to 'vlm'"
        )


def _standing(looks: Sequence[Look]) -> list[Look]:
    return [look for look in looks if not look.reason]


def _taken(look: Look, outcome: Outcome[Any]) -> Any:
    """The value of an agent's outcome, its call noted; without a value the look ends."""
    call = outcome.call
    look.calls.append(call)
    look.agents[call.task] = call.stamp
    if outcome.value is None:
        look.reason = f"vlm_error: {call.task}: {outcome.error}"
    return outcome.value


def describe(names: Sequence[str]) -> str:
    """Template caption from entity names: ``["dog", "cat", "dog"]`` -> "two dogs and a cat"."""
    phrases = [_phrase(name, count) for name, count in Counter(names).items()]
    return " and ".join(filter(None, (", ".join(phrases[:-1]), phrases[-1])))


def _phrase(name: str, count: int) -> str:
    if count == 1:
        return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
    ending = "es" if name.endswith(("s", "x", "z", "ch", "sh")) else "s"
    return f"{_NUMBERS[count] if count < len(_NUMBERS) else count} {_PLURALS.get(name, name + ending)}"

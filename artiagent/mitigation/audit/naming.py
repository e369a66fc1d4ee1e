"""Which type of fault, of which part of which entity: read out of the VLM's explanation of an image.

The first sentence that names a type decides; what follows are reasons, or further faults. Types are those by which
grounded recall finds them (`evaluation.metrics.FAULT_WORDS`). Entities and parts are found by how English puts them
("the tail of the dog", "the dog's tail", "the dog has no tail"), so the words need not be known before. What is not
said so stays empty: a free text may say it otherwise.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from artiagent.evaluation.metrics import FAULT_WORDS
from artiagent.mitigation.audit.records import UNNAMED
from artiagent.perception.part_names import PART_LAYERS

_SENTENCE = re.compile(r"(?<=[.!?;])\s+")
# A wrong number says the type without a word for it.
_WORDS = FAULT_WORDS | {
    "duplication": rf"{FAULT_WORDS['duplication']}|\w+ \w+ although there should be only",
    "omission": rf"{FAULT_WORDS['omission']}|only \w+ \w+ instead of",
}
_ARTICLE = r"(?:the|an?|this|that|its|one)"
_NUMBER = r"(?:an?|no|only|one|two|three|four|five|six|seven|eight|extra|additional|another|second|third|more|fewer)"
_HAS = r"(?:has|have|shows?|lacks?|misses|(?:is|are) (?:missing|lacking)|should have)"
_IN_IMAGE = r"(?: in (?:this|the) (?:image|picture))?"
_PATTERNS = tuple(
    re.compile(pattern)
    for pattern in (
        r"\b(?P<entity>[a-z]+)'s (?P<part>[a-z]+(?: [a-z]+){0,2})",
        rf"\b{_ARTICLE} (?P<entity>[a-z]+){_IN_IMAGE} {_HAS} (?:{_NUMBER} )*(?P<part>[a-z]+(?: [a-z]+){{0,2}})",
        r"\b(?P<part>[a-z]+) (?:of|on) (?:the|this|an?) (?P<entity>[a-z]+)",
        rf"\b(?:{_NUMBER}|the) (?P<part>[a-z]+)(?: [a-z]+){{0,5}}? (?:of|on) (?:the|this|an?) (?P<entity>[a-z]+)",
    )
)
_BOTH = re.compile(r"\b(?:the two (?P<alike>[a-z]+)|the (?P<entity>[a-z]+) and the [a-z]+)\b")
_ALONE = re.compile(r"\bthe (?P<entity>[a-z]+)\b")
_IRREGULAR = {"feet": "foot", "people": "person", "children": "child", "leaves": "leaf", "mice": "mouse"}
# Words of a sentence about a fault that are neither an entity nor a part of one.
_NEITHER = frozenset(
    ("image", "picture", "scene", "body", "bodies", "boundary", "place", "shape", "piece", "structure", "form", "side",
     "end", "rest", "thing", "something", "visible", "many", "normal", "there", "where", "which", "it", "one", "other",
     "out", "and", "above", "left", "right", "extra", "additional", "another", "second")
)  # fmt: skip


class Named(NamedTuple):
    """Type of fault (UNNAMED where none is said), entity and part ("" where none is said), in the singular."""

    fault: str
    entity: str = ""
    part: str = ""


def named(explanation: str) -> Named:
    """What an explanation says first."""
    for sentence in _SENTENCE.split(explanation.lower()):
        if fault := _fault(sentence):
            return Named(fault, *_subject(sentence, fault))
    return Named(UNNAMED)


def _fault(sentence: str) -> str:
    """The type whose words come first; of two at one place that with the more words ("melt" and "melt into")."""
    found = {name: re.search(rf"\b(?:{words})", sentence) for name, words in _WORDS.items()}
    places = {name: (hit.start(), -hit.end()) for name, hit in found.items() if hit}
    return min(places, key=places.__getitem__) if places else ""


def _subject(sentence: str, fault: str) -> tuple[str, str]:
    """(entity, part)."""
    if fault == "fusion":
        found = _BOTH.search(sentence)
        entity = (found["alike"] or found["entity"]) if found else ""
        return _noun(entity) or _alone(sentence), ""
    for pattern in _PATTERNS:
        for found in pattern.finditer(sentence):
            entity, part = _noun(found["entity"]), _part(found["part"])
            if entity and part and entity not in PART_LAYERS:
                return entity, part
    return _alone(sentence), ""


def _alone(sentence: str) -> str:
    """The first noun with an article that is not known to be a part."""
    nouns = (_noun(found["entity"]) for found in _ALONE.finditer(sentence))
    return next((noun for noun in nouns if noun and noun not in PART_LAYERS), "")


def _part(words: str) -> str:
    """The first of a few words that is known to be a part, else the first."""
    nouns = [_noun(word) for word in words.split()]
    return next((noun for noun in nouns if noun in PART_LAYERS), nouns[0])


def _noun(word: str) -> str:
    """Singular; "" for a word that is no entity and no part."""
    single = word[:-1] if word.endswith("s") and not word.endswith(("ss", "us")) else word
    single = _IRREGULAR.get(word, single)
    return "" if {word, single} & _NEITHER else single

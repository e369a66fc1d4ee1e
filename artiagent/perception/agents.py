"""What perception asks a vision-language model: which things and parts an image shows, and a sentence about it.

Knows the two questions and how their answers become a vocabulary or a caption. Does not know where things are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from artiagent.config import VlmSection
from artiagent.instruction.prompts import plural
from artiagent.perception.vocabulary import Entry, Vocabulary
from artiagent.vlm.agent import Outcome, consult, english, json_reader, json_text
from artiagent.vlm.prompt import render
from artiagent.vlm.protocol import Request, Vlm

LONGEST_CAPTION = 400  # characters
_read_vocabulary = json_reader(Vocabulary)


class Seen(NamedTuple):
    """An image in question: the key of its calls, and uint8 [H, W, 3]."""

    key: str
    pixels: np.ndarray


def ask_vocabularies(vlm: Vlm, section: VlmSection, images: Sequence[Seen]) -> list[Outcome[Vocabulary]]:
    """The vocabulary agent (paper: perception agent): the image alone, two layers, by schema."""
    prompt = render("vocabulary", answer=Vocabulary, version=section.prompts.get("vocabulary"))
    return consult(vlm, [Request("vocabulary", prompt, (i.pixels,), i.key) for i in images], read_vocabulary)


def ask_captions(vlm: Vlm, section: VlmSection, images: Sequence[Seen]) -> list[Outcome[str]]:
    """One sentence about each image: the prompt of inversion, and the answer of a clean twin's conversation."""
    prompt = render("caption", version=section.prompts.get("caption"))
    return consult(vlm, [Request("caption", prompt, (i.pixels,), i.key) for i in images], read_caption)


def read_vocabulary(text: str) -> Vocabulary:
    """Case, blanks, repetitions and things without parts are tidied; every other breach of the rules is an error."""
    try:
        document = json.loads(json_text(text))
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error}") from error
    if isinstance(document, dict):
        document = {layer: _tidy(entries) for layer, entries in document.items()}
    return _read_vocabulary(json.dumps(document))


def read_caption(text: str) -> str:
    """Raises ValueError for an answer that is empty, no sentence, or not English."""
    caption = " ".join(text.strip().strip("\"'").split())
    if len(caption) > LONGEST_CAPTION:
        raise ValueError(f"{len(caption)} characters; expected one sentence")
    if not re.search(r"[A-Za-z]{2}", caption):
        raise ValueError("expected one sentence in English")
    return english(caption)


def named_terms(terms: Mapping[str, Mapping[str, Sequence[str]]], *texts: str) -> Vocabulary:
    """The part of a fixed vocabulary whose entities some text names, in the singular or plural, as whole words.

    Args:
        terms: entity -> layer -> parts.
        texts: captions, or the class that a data set gives the image.
    """
    said = " ".join(texts).lower()
    forms = {entity: "|".join(map(re.escape, (entity, plural(entity)))) for entity in terms}
    named = {entity: terms[entity] for entity, form in forms.items() if re.search(rf"\b(?:{form})\b", said)}
    layers = {
        layer: tuple(Entry(entity=e, subentities=tuple(parts)) for e, by in named.items() if (parts := by.get(layer)))
        for layer in ("peripheral", "intermediate")
    }
    return Vocabulary(**layers)


def _tidy(entries: object) -> object:
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return entries
    return [tidy for tidy in map(_tidy_entry, entries) if tidy.get("subentities") != []]


def _tidy_entry(entry: dict[str, object]) -> dict[str, object]:
    tidy = dict(entry)
    if isinstance(entity := entry.get("entity"), str):
        tidy["entity"] = entity.strip().lower()
    if isinstance(parts := entry.get("subentities"), list):
        tidy["subentities"] = list(dict.fromkeys(p.strip().lower() if isinstance(p, str) else p for p in parts))
    return tidy

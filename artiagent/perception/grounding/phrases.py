"""Terms of a vocabulary -> captions of an open-set detector, and what a box's token activations say about its term.

Knows captions, spans of characters and of tokens. Does not know models, images or boxes. A term owns exactly its own
tokens in the caption: nothing is ever compared as text, so that "arm" is not found in "armchair", nor "ear" in "bear".
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)
SEPARATOR = " . "
MOST_TOKENS = 256  # of a caption, [CLS] and [SEP] included: what the text encoders of Grounding DINO were trained with
_SPLITTERS = frozenset(".?")  # Grounding DINO ends a phrase at each of these tokens

Span = tuple[int, int]  # first, behind the last


@dataclass(frozen=True)
class Caption:
    """``dog . dog tail .``: terms as they were given, and where each stands.

    ``characters`` are spans of ``text``; ``tokens`` are spans of the tokenized text, [CLS] being token 0.
    """

    text: str
    terms: tuple[str, ...]
    characters: tuple[Span, ...]
    tokens: tuple[Span, ...]


@dataclass(frozen=True)
class Named:
    """What a box was found for. ``term`` is "" where the activations point to no term of the caption."""

    query: int
    term: str
    score: float


def captions(terms: Iterable[str], tokenizer: PreTrainedTokenizerBase, most_tokens: int = MOST_TOKENS) -> list[Caption]:
    """As few captions as hold all terms, in their order; lower case, terms that differ in case or blanks once.

    A term with a word that the tokenizer does not know is left out with a warning: no detector can look for it.

    Args:
        terms: nouns of any number of words.
        tokenizer: of the detector's text encoder; it must give offsets (a fast one).
        most_tokens: of one caption, [CLS] and [SEP] included.

    Raises ValueError for a term that is empty, longer than a caption, or holds a character that ends a phrase.
    """
    given = _unique(terms)
    rows: list[list[str]] = []
    used = most_tokens
    for words in given:
        ids = tokenizer(words, add_special_tokens=False).input_ids
        if tokenizer.unk_token_id in ids:
            log.warning("%r is left out: the text encoder does not know all of its words", words)
            continue
        if len(ids) + 3 > most_tokens:
            raise ValueError(f"term {words!r} is {len(ids)} tokens long, a caption has room for {most_tokens - 3}")
        if used + len(ids) + 1 > most_tokens:
            rows.append([])
            used = 2  # [CLS] and [SEP]
        rows[-1].append(words)
        used += len(ids) + 1  # and the separator
    return [_caption(row, [given[words] for words in row], tokenizer) for row in rows]


def name_boxes(caption: Caption, activations: np.ndarray, box_threshold: float, text_threshold: float) -> list[Named]:
    """Which term each box is for, in the order of the boxes; boxes without any strong token are left out.

    A box counts when its strongest token reaches ``box_threshold``, as published. It is named for the term with the
    largest mean over the term's own tokens: the strongest token alone cannot tell "dog" from "dog tail", whose "dog" is
    as active on a dog. The first of equal terms wins. The term stands when that mean reaches ``text_threshold`` and its
    strongest token, which is the score, ``box_threshold``; otherwise it is "" and the score that of the strongest
    token of all.

    Args:
        activations: float [Q, T], sigmoids of the logits, 0 for padding; T is at least the caption's length.
    """
    strongest = activations.max(axis=1)
    spans = [activations[:, first:last] for first, last in caption.tokens]
    means = np.stack([span.mean(axis=1) for span in spans], axis=1)
    peaks = np.stack([span.max(axis=1) for span in spans], axis=1)
    best = means.argmax(axis=1)
    named = []
    for query in np.flatnonzero(strongest >= box_threshold):
        term = best[query]
        stands = means[query, term] >= text_threshold and peaks[query, term] >= box_threshold
        score = peaks[query, term] if stands else strongest[query]
        named.append(Named(int(query), caption.terms[term] if stands else "", float(score)))
    return named


def _unique(terms: Iterable[str]) -> dict[str, str]:
    """Words as they stand in a caption -> the term as it was given first."""
    unique: dict[str, str] = {}
    for term in terms:
        words = " ".join(term.lower().split())
        if not words or _SPLITTERS & set(words):
            raise ValueError(f"term {term!r}: expected a noun without {' or '.join(sorted(_SPLITTERS))}")
        unique.setdefault(words, term)
    return unique


def _caption(row: Sequence[str], terms: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Caption:
    text = SEPARATOR.join(row) + SEPARATOR.rstrip()
    starts = np.cumsum([0, *(len(words) + len(SEPARATOR) for words in row[:-1])]).tolist()
    characters = tuple((start, start + len(words)) for start, words in zip(starts, row, strict=True))
    offsets = tokenizer(text, return_offsets_mapping=True).offset_mapping
    return Caption(text, tuple(terms), characters, tuple(_tokens_of(span, offsets) for span in characters))


def _tokens_of(span: Span, offsets: Sequence[Span]) -> Span:
    inside = [n for n, (start, end) in enumerate(offsets) if span[0] <= start < end <= span[1]]
    return inside[0], inside[-1] + 1

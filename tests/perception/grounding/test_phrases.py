"""Terms, captions, spans, and what activations mean."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizer

from artiagent.perception.grounding.phrases import Caption, Named, captions, name_boxes

NOUNS = ("arm", "armchair", "arms", "bear", "cat", "dog", "dog tail", "ear", "hand", "person", "tail", "wheel rest")


def caption_of(tokenizer: BertTokenizer, *terms: str) -> Caption:
    (caption,) = captions(terms, tokenizer)
    return caption


def named(caption: Caption, *activations: float, box: float = 0.3, text: float = 0.25) -> Named | None:
    """What one box is for; activations of the caption's tokens from [CLS] on, then padding."""
    found = name_boxes(caption, np.array([[*activations, *[0.0] * (16 - len(activations))]]), box, text)
    return found[0] if found else None


def test_a_caption_and_its_spans(bert_tokenizer: BertTokenizer) -> None:
    caption = caption_of(bert_tokenizer, "Dog", "dog  tail", "armchair")
    assert caption == Caption(
        text="dog . dog tail . armchair .",
        terms=("Dog", "dog  tail", "armchair"),
        characters=((0, 3), (6, 14), (17, 25)),
        tokens=((1, 2), (3, 5), (6, 8)),  # [CLS] dog . dog tail . arm ##chair . [SEP]
    )


def test_terms_that_differ_in_case_and_blanks_are_one(bert_tokenizer: BertTokenizer) -> None:
    assert caption_of(bert_tokenizer, "dog", "Dog", " dog ").terms == ("dog",)
    assert captions([], bert_tokenizer) == []


def test_arm_is_not_found_in_armchair(bert_tokenizer: BertTokenizer) -> None:
    caption = caption_of(bert_tokenizer, "arm", "armchair")  # [CLS] arm . arm ##chair . [SEP]
    assert named(caption, 0, 0.1, 0, 0.8, 0.7, 0, 0) == Named(0, "armchair", 0.8)
    assert named(caption, 0, 0.8, 0, 0.1, 0.0, 0, 0) == Named(0, "arm", 0.8)
    alone = caption_of(bert_tokenizer, "armchair", "person")
    assert named(alone, 0, 0.9, 0.9, 0, 0.1, 0, 0).term == "armchair"
    assert "arm" not in {named(alone, 0, *levels, 0, 0.1, 0, 0).term for levels in ((0.9, 0), (0, 0.9), (0.9, 0.9))}


def test_ear_is_not_found_in_bear_nor_the_singular_in_the_plural(bert_tokenizer: BertTokenizer) -> None:
    caption = caption_of(bert_tokenizer, "bear", "ear", "arm", "arms")  # [CLS] bear . ear . arm . arm ##s . [SEP]
    assert named(caption, 0, 0.6, 0, 0, 0, 0, 0, 0, 0).term == "bear"
    assert named(caption, 0, 0, 0, 0.6, 0, 0, 0, 0, 0).term == "ear"
    assert named(caption, 0, 0, 0, 0, 0, 0.2, 0, 0.6, 0.5).term == "arms"
    assert named(caption, 0, 0, 0, 0, 0, 0.6, 0, 0.5, 0.1).term == "arm"


def test_a_term_that_begins_another_is_told_from_it(bert_tokenizer: BertTokenizer) -> None:
    caption = caption_of(bert_tokenizer, "dog tail", "dog")  # [CLS] dog tail . dog . [SEP]
    assert named(caption, 0, 0.9, 0.05, 0, 0.88, 0, 0) == Named(0, "dog", 0.88)  # its strongest token is the other's
    assert named(caption, 0, 0.5, 0.9, 0, 0.4, 0, 0) == Named(0, "dog tail", 0.9)


def test_a_box_for_no_term_is_unknown_and_a_weak_one_is_none(bert_tokenizer: BertTokenizer) -> None:
    caption = caption_of(bert_tokenizer, "cat", "dog tail")  # [CLS] cat . dog tail . [SEP]
    assert named(caption, 0.1, 0.1, 0.7, 0, 0, 0, 0) == Named(0, "", 0.7)  # the separator alone
    assert named(caption, 0, 0, 0, 0.4, 0.05, 0, 0) == Named(0, "", 0.4)  # half a term: mean .225
    assert named(caption, 0, 0, 0, 0.4, 0.1, 0, 0) == Named(0, "dog tail", 0.4)  # mean .25
    assert named(caption, 0.5, 0.29, 0, 0, 0, 0, 0) == Named(0, "", 0.5)  # no token of the term reaches .3
    assert named(caption, 0.29, 0.29, 0.29, 0.29, 0.29, 0.29, 0.29) is None


def test_boxes_keep_their_order_and_the_first_of_equal_terms_wins(bert_tokenizer: BertTokenizer) -> None:
    caption = caption_of(bert_tokenizer, "dog", "cat")
    activations = np.array([[0, 0.1, 0, 0.9, 0, 0], [0, 0.2, 0, 0.1, 0, 0], [0, 0.5, 0, 0.5, 0, 0]])
    assert name_boxes(caption, activations, 0.3, 0.25) == [Named(0, "cat", 0.9), Named(2, "dog", 0.5)]


@given(st.lists(st.sampled_from(NOUNS), unique=True), st.integers(5, 30))
@settings(max_examples=50)
def test_a_long_vocabulary_is_split_and_nothing_lost(
    bert_tokenizer: BertTokenizer, terms: list[str], most_tokens: int
) -> None:
    several = captions(terms, bert_tokenizer, most_tokens)
    assert [term for caption in several for term in caption.terms] == terms
    lengths = [len(bert_tokenizer(caption.text).input_ids) for caption in several]
    assert all(length <= most_tokens for length in lengths)
    for caption in several:
        ids = bert_tokenizer(caption.text).input_ids
        for term, (start, end), (first, last) in zip(caption.terms, caption.characters, caption.tokens, strict=True):
            assert caption.text[start:end] == term
            assert ids[first:last] == bert_tokenizer(term, add_special_tokens=False).input_ids
            assert ids[last] == bert_tokenizer.convert_tokens_to_ids(".")
    for before, after in zip(several, several[1:], strict=False):  # the next term would not have fitted
        words = bert_tokenizer(after.terms[0], add_special_tokens=False).input_ids
        assert len(bert_tokenizer(before.text).input_ids) + len(words) + 1 > most_tokens


def test_what_no_caption_can_hold(bert_tokenizer: BertTokenizer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert caption_of(bert_tokenizer, "zebra", "dog").terms == ("dog",)
    assert "'zebra' is left out" in caplog.text
    with pytest.raises(ValueError, match="'dog. cat'.*without"):
        captions(["dog. cat"], bert_tokenizer)
    with pytest.raises(ValueError, match="'dog tail' is 2 tokens long, a caption has room for 1"):
        captions(["dog tail"], bert_tokenizer, 4)

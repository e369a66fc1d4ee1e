from __future__ import annotations

import json

import numpy as np
import pytest

from artiagent.config import VlmSection
from artiagent.perception.agents import (
    Seen,
    ask_captions,
    ask_vocabularies,
    named_terms,
    read_caption,
    read_vocabulary,
)

PIXELS = np.zeros((16, 16, 3), np.uint8)
SECTION = VlmSection(prompts={"caption": 1})
TERMS = {
    "dog": {"peripheral": ("ear", "tail"), "intermediate": ("head",)},
    "person": {"peripheral": ("hand",), "intermediate": ("arm",)},
    "car": {"peripheral": ("wheel",)},
}


def said(**layers: object) -> str:
    return json.dumps({"peripheral": [], "intermediate": [], **layers})


def test_a_vocabulary_is_asked_of_the_image_alone_by_schema(scripted) -> None:
    answer = said(peripheral=[{"entity": "dog", "subentities": ["ear", "tail"]}])
    vlm = scripted(lambda r: answer)
    (found,) = ask_vocabularies(vlm, SECTION, [Seen("scenes-1", PIXELS)])
    assert found.value.entities == ("dog",) and found.value.layer("dog", "tail") == "peripheral"
    (request,) = vlm.asked
    assert (request.task, request.key, len(request.images)) == ("vocabulary", "scenes-1", 1)
    assert set(request.prompt.schema["properties"]) == {"peripheral", "intermediate"}


def test_what_is_only_untidy_is_tidied() -> None:
    vocabulary = read_vocabulary(said(peripheral=[
        {"entity": " Dog ", "subentities": ["Ear", "ear ", "tail"]}, {"entity": "rock", "subentities": []},
    ]))  # fmt: skip
    assert [(e.entity, e.subentities) for e in vocabulary.peripheral] == [("dog", ("ear", "tail"))]
    assert read_vocabulary("```json\n" + said() + "\n```").entities == ()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("a dog with ears", "not valid JSON"),
        ('["dog"]', "object"),
        (said(peripheral=[{"entity": "dog", "subentities": ["torso"]}]), "'torso' is never a part"),
        (said(peripheral=[{"entity": "tree", "subentities": ["leaf"]}]), "no fixed number"),
        (said(peripheral=[{"entity": "dog", "subentities": list("abcdefg")}]), "1 to 6"),
        (said(peripheral=[{"entity": "dog", "subentities": ["3 ears"]}]), "concise"),
        (said(peripheral=[{"entity": "dog"}]), "subentities"),
        (said(peripheral="dog"), "peripheral"),
        (said(parts=[]), "parts"),
    ],
)
def test_what_breaks_the_rules_is_refused(answer: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_vocabulary(answer)


def test_a_caption_is_one_english_sentence(scripted) -> None:
    vlm = scripted(lambda r: '  "A dog\nstanding on grass."  ')
    (found,) = ask_captions(vlm, SECTION, [Seen("scenes-1", PIXELS)])
    assert found.value == "A dog standing on grass." and vlm.asked[0].prompt.text == "Describe the image."
    for bad in ("", "[[1,2,3,4]]", "una imagen muy bonita de perros grandes", "word " * 100):
        with pytest.raises(ValueError, match="expected|sentence"):
            read_caption(bad)


@pytest.mark.parametrize(
    ("texts", "entities"),
    [
        (("a black dog left of a car",), ("dog", "car")),
        (("two dogs and three people",), ("dog", "person")),
        (("", "car"), ("car",)),
        (("a dogfish beside a cardboard box",), ()),
    ],
)
def test_fixed_terms_are_narrowed_to_what_is_named(texts: tuple[str, ...], entities: tuple[str, ...]) -> None:
    vocabulary = named_terms(TERMS, *texts)
    assert set(vocabulary.entities) == set(entities)
    if "dog" in entities:
        assert vocabulary.layer("dog", "head") == "intermediate" and vocabulary.layer("car", "ear") is None

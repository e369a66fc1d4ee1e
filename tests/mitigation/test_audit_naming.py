"""What an explanation says: every sentence that fine-tuning teaches, wrong numbers, and words that name nothing."""

from __future__ import annotations

import json

import pytest

from artiagent.mitigation.audit.naming import Named, named
from artiagent.mitigation.audit.records import UNNAMED
from artiagent.vlm.prompt import render
from artiagent.vlm.protocol import Request
from artiagent.vlm.template import TemplateVlm

FAULTS = {"add": "duplication", "remove": "omission", "distort": "distortion", "fuse": "fusion"}
SUBJECTS = [("dog", "tail"), ("person", "foot"), ("teapot", "spout"), ("elephant", "trunk"), ("bicycle", "handlebar")]


def told(tool: str, entity: str, part: str, seed: int) -> str:
    """The explanation of an image as fine-tuning teaches it."""
    fault = {"tool": tool, "entity": entity, "part": part, "other": "car"}
    request = Request("global", render("caption"), (), str(seed), {"faults": [fault]}, str(seed))
    return json.loads(next(TemplateVlm().ask([request])).text)["explanation"]


@pytest.mark.parametrize("tool", FAULTS)
@pytest.mark.parametrize(("entity", "part"), SUBJECTS)
def test_what_fine_tuning_teaches_is_read(tool: str, entity: str, part: str) -> None:
    texts = {told(tool, entity, part, seed) for seed in range(30)}
    assert len(texts) >= 4
    wanted = Named(FAULTS[tool], entity, "" if tool == "fuse" else part)
    assert {text: named(text) for text in texts} == dict.fromkeys(texts, wanted)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The horse has only three legs instead of four.", Named("omission", "horse", "leg")),
        ("The teapot has two handles although there should be only one.", Named("duplication", "teapot", "handle")),
        ("The dog's left ears are deformed.", Named("distortion", "dog", "ear")),
        ("The two people merge into one body.", Named("fusion", "person")),
        ("The cat has no recognisable head.", Named("omission", "cat", "head")),
        ("A man at the left. The hand of the man is melted.", Named("distortion", "man", "hand")),
        ("Something is wrong here.", Named(UNNAMED)),
        ("", Named(UNNAMED)),
    ],
)
def test_other_ways_to_say_it(text: str, wanted: Named) -> None:
    assert named(text) == wanted

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from artiagent.perception.grounding import Instance
from artiagent.perception.part_names import NEVER_PARTS, PART_LAYERS, VARIABLE_COUNT
from artiagent.perception.vocabulary import MAX_PARTS, Entry, Vocabulary, check_noun, owner_of, template

Make = Callable[..., Instance]


def names(layer: tuple[Entry, ...]) -> dict[str, tuple[str, ...]]:
    return {entry.entity: entry.subentities for entry in layer}


def test_template_writes_both_layers(instance: Make) -> None:
    found = template([
        instance("1", "person", "entity", 0, 0, 60, 120), instance("2", "hand", "peripheral", 2, 40, 20, 60),
        instance("3", "leg", "both", 10, 70, 40, 120), instance("4", "face", "intermediate", 10, 0, 40, 30),
        instance("5", "chair", "entity", 70, 60, 128, 128), instance("6", "torso", "intermediate", 10, 30, 40, 70),
        instance("7", "hair", "peripheral", 10, 0, 40, 8), instance("8", "lamp", "entity", 70, 0, 90, 30),
        instance("9", "leg", "both", 72, 90, 90, 128),
    ], threshold=0.9)  # fmt: skip
    assert names(found.peripheral) == {"chair": ("leg",), "person": ("leg", "hand")}
    assert names(found.intermediate) == {"chair": ("leg",), "person": ("leg", "face")}
    assert found.layer("person", "leg") == "both"
    assert found.layer("person", "hand") == "peripheral"
    assert found.layer("chair", "hand") is None
    assert found.entities == ("chair", "person")


def test_template_keeps_the_most_visible_parts(instance: Make) -> None:
    parts = [instance(str(k), name, "peripheral", 8 * k, 0, 8 * k + 8, 8 + 2 * k) for k, name in enumerate("abcdefgh")]
    found = template([instance("x", "robot", "entity", 0, 0, 128, 128), *parts], threshold=0.9)
    assert found.peripheral[0].subentities == ("h", "g", "f", "e", "d", "c")


def test_entities_without_parts_and_loose_parts_leave_both_layers_empty(instance: Make) -> None:
    found = template(
        [instance("1", "dog", "entity", 0, 0, 50, 50), instance("2", "tail", "peripheral", 60, 60, 90, 90)], 0.9
    )
    assert found == Vocabulary()
    assert found.entities == ()


def test_owner_is_the_largest_containment_then_the_smaller_entity(instance: Make) -> None:
    big, small = instance("1", "horse", "entity", 0, 0, 128, 128), instance("2", "rider", "entity", 0, 0, 50, 50)
    part = instance("3", "hand", "peripheral", 10, 10, 20, 20)
    assert owner_of(part, [big, small], 0.9) is small
    assert owner_of(instance("4", "hand", "peripheral", 40, 10, 60, 20), [big, small], 0.9) is big
    assert owner_of(part, [], 0.9) is None


def test_schema_reads_the_agreed_json() -> None:
    text = json.dumps({"peripheral": [{"entity": "dog", "subentities": ["tail", "ear"]}], "intermediate": []})
    assert Vocabulary.model_validate_json(text).layer("dog", "ear") == "peripheral"


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"peripheral": [{"entity": "Dog", "subentities": ["tail"]}]}, "lower-case noun"),
        ({"peripheral": [{"entity": "dog", "subentities": []}]}, "1 to 6"),
        ({"peripheral": [{"entity": "dog", "subentities": list("abcdefg")}]}, "1 to 6"),
        ({"peripheral": [{"entity": "dog", "subentities": ["ear", "ear"]}]}, "different parts"),
        ({"intermediate": [{"entity": "dog", "subentities": ["torso"]}]}, "never a part"),
        ({"peripheral": [{"entity": "tree", "subentities": ["leaf"]}]}, "no fixed number"),
        ({"peripheral": [{"entity": "dog", "subentities": ["dog"]}]}, "part of itself"),
        ({"peripheral": [{"entity": "dog", "subentities": ["ear"]}] * 2}, "appears twice"),
        ({"outer": []}, "Extra inputs"),
    ],
)
def test_rules_bind_every_source(layers: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Vocabulary.model_validate(layers)


def test_leaves_may_be_intermediate() -> None:
    assert (
        Vocabulary(intermediate=(Entry(entity="tree", subentities=("leaf",)),)).layer("tree", "leaf") == "intermediate"
    )


@pytest.mark.parametrize("name", ["", " dog", "dog2", "a very long name of things", "dog,cat", "x" * 41])
def test_nouns_are_concise(name: str) -> None:
    with pytest.raises(ValueError, match="lower-case noun"):
        check_noun(name)


def test_table_of_part_names_obeys_the_rules() -> None:
    assert PART_LAYERS["leg"] == "both"
    assert not PART_LAYERS.keys() & (NEVER_PARTS | VARIABLE_COUNT)
    assert all(check_noun(name) for name in PART_LAYERS)
    assert MAX_PARTS == 6

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from artiagent.config import PerceptionSection
from artiagent.grid import containment
from artiagent.perception.grounding import Instance
from artiagent.perception.linking import link
from artiagent.perception.vocabulary import Entry, Vocabulary, template

SECTION = PerceptionSection()
PERSON = Vocabulary(peripheral=(Entry(entity="person", subentities=("hand", "foot")),))
Make = Callable[..., Instance]


def test_each_hand_goes_to_its_own_person(instance: Make) -> None:
    entities, dropped = link([
        instance("left", "person", "entity", 0, 0, 60, 128), instance("right", "person", "entity", 56, 0, 120, 128),
        instance("a", "hand", "peripheral", 2, 40, 20, 60), instance("b", "hand", "peripheral", 100, 40, 118, 60),
        instance("c", "hand", "peripheral", 58, 40, 76, 60),
    ], PERSON, SECTION)  # fmt: skip
    assert {e.id: [p.id for p in e.parts] for e in entities} == {"left": ["a"], "right": ["b", "c"]}
    assert not dropped


def test_containment_measures_the_part_not_its_box() -> None:
    part = np.zeros((128, 128), dtype=bool)
    part[50, 46:54] = part[30, 40] = part[79, 59] = True  # 10 pixels: 1 % of their 20x50 box
    whole = np.zeros((128, 128), dtype=bool)
    whole[:, :50] = True
    assert containment(part, whole) == 0.5
    person, hand = Instance("p", "person", "entity", whole), Instance("h", "hand", "peripheral", part)
    assert link([person, hand], PERSON, SECTION)[1] == {"no_parent": 1}
    assert len(link([person, hand], PERSON, PerceptionSection(containment=0.5))[0][0].parts) == 1


def test_part_half_outside_its_entity_has_no_parent(instance: Make) -> None:
    person = instance("p", "person", "entity", 0, 0, 64, 128)
    entities, dropped = link([person, instance("h", "hand", "peripheral", 54, 40, 74, 60)], PERSON, SECTION)
    assert dropped == {"no_parent": 1}
    assert entities[0].parts == ()
    entities, dropped = link([person, instance("h", "hand", "peripheral", 46, 40, 66, 60)], PERSON, SECTION)
    assert len(entities[0].parts) == 1
    assert entities[0].box == (0, 0, 66, 128)  # the entity covers its parts


def test_filters_count_what_they_leave_out(instance: Make) -> None:
    entities, dropped = link([
        instance("p", "person", "entity", 0, 0, 100, 128), instance("dot", "person", "entity", 110, 0, 118, 8),
        instance("cat", "cat", "entity", 100, 100, 128, 128),
        instance("narrow", "hand", "peripheral", 8, 0, 16, 40), instance("huge", "hand", "peripheral", 0, 0, 60, 120),
        instance("wheel", "wheel", "peripheral", 20, 20, 40, 40),
        instance("good", "foot", "peripheral", 10, 80, 20, 90),
    ], PERSON, SECTION)  # fmt: skip
    assert [p.id for p in entities[0].parts] == ["good"]
    assert dropped == {"entity_too_small": 1, "no_part": 1, "too_small": 1, "too_large": 1, "not_in_vocabulary": 1}


def test_a_part_goes_only_to_allowed_classes(instance: Make) -> None:
    dog = instance("d", "dog", "entity", 0, 0, 64, 64)
    person = instance("p", "person", "entity", 0, 0, 128, 128)
    entities, _ = link([dog, person, instance("h", "hand", "peripheral", 10, 10, 40, 40)], PERSON, SECTION)
    assert [(e.id, [p.id for p in e.parts]) for e in entities] == [("p", ["h"])]


boxes = st.tuples(st.integers(0, 120), st.integers(0, 120), st.integers(1, 128), st.integers(1, 128))


@settings(max_examples=60, deadline=None)
@given(entities=st.lists(boxes, min_size=1, max_size=4), parts=st.lists(boxes, max_size=6))
def test_linked_parts_obey_every_rule(entities: list[tuple], parts: list[tuple]) -> None:
    def draw(key: str, name: str, layer: str, box: tuple[int, int, int, int]) -> Instance:
        mask = np.zeros((128, 128), dtype=bool)
        mask[box[1] : box[1] + box[3], box[0] : box[0] + box[2]] = True
        return Instance(key, name, layer, mask)

    instances = [draw(f"e{k}", "person", "entity", box) for k, box in enumerate(entities)]
    instances += [draw(f"p{k}", "hand", "peripheral", box) for k, box in enumerate(parts)]
    linked, dropped = link(instances, template(instances, SECTION.containment), SECTION)
    kept = [part.id for entity in linked for part in entity.parts]
    assert len(set(kept)) == len(kept)
    assert len(linked) + len(kept) + sum(dropped.values()) == len(instances)
    for entity in linked:
        whole = entity.mask.decode()
        assert whole.mean() >= SECTION.entity_min_share
        for part in entity.parts:
            assert containment(part.mask, whole) == 1.0
            assert part.mask.decode().sum() <= SECTION.part_max_share * whole.sum()

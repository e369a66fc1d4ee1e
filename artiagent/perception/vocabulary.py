"""Two-layer vocabulary: which entities an image shows and which of their parts can be segmented on their own.

The schema and its rules bind every source of vocabularies, a model's answer as much as annotations. ``template`` is
the source without a model: it writes down what known instances show.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from pydantic import field_validator, model_validator

from artiagent.grid import containment
from artiagent.perception.grounding import Instance
from artiagent.perception.part_names import NEVER_PARTS, VARIABLE_COUNT
from artiagent.records import Layer, Record

MAX_PARTS = 6
_NOUN = re.compile(r"[^\W\d_]+(?:[ '-][^\W\d_]+){0,3}")


def check_noun(name: str) -> str:
    """Return ``name`` if it is a concise lower-case noun (at most four words of letters), else raise ValueError."""
    if name != name.lower() or len(name) > 40 or not _NOUN.fullmatch(name):
        raise ValueError(f"{name!r} is not a concise lower-case noun (letters, at most four words)")
    return name


class Entry(Record):
    """One entity class and the classes of its parts in one layer."""

    entity: str
    subentities: tuple[str, ...]

    @field_validator("entity")
    @classmethod
    def _entity(cls, name: str) -> str:
        return check_noun(name)

    @field_validator("subentities")
    @classmethod
    def _parts(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not 1 <= len(names) <= MAX_PARTS or len(set(names)) != len(names):
            raise ValueError(f"expected 1 to {MAX_PARTS} different parts per entity, got {list(names)}")
        if torso := NEVER_PARTS & {check_noun(name) for name in names}:
            raise ValueError(f"{min(torso)!r} is never a part; leave it out")
        return names

    @model_validator(mode="after")
    def _distinct(self) -> Entry:
        if self.entity in self.subentities:
            raise ValueError(f"{self.entity!r} is listed as a part of itself")
        return self


class Vocabulary(Record):
    """The two layers of one image (spec: perception, step 2). Either may be empty; a leg may be in both."""

    peripheral: tuple[Entry, ...] = ()
    intermediate: tuple[Entry, ...] = ()

    @model_validator(mode="after")
    def _rules(self) -> Vocabulary:
        for layer in (self.peripheral, self.intermediate):
            repeated = [name for name, n in Counter(entry.entity for entry in layer).items() if n > 1]
            if repeated:
                raise ValueError(f"entity {repeated[0]!r} appears twice in one layer; merge its parts")
        loose = {part for entry in self.peripheral for part in entry.subentities} & VARIABLE_COUNT
        if loose:
            raise ValueError(f"{min(loose)!r} has no fixed number and cannot be peripheral; leave it out")
        return self

    @property
    def entities(self) -> tuple[str, ...]:
        """Entity classes, each once, peripheral layer first."""
        return tuple(dict.fromkeys(entry.entity for entry in (*self.peripheral, *self.intermediate)))

    def layer(self, entity: str, part: str) -> Layer | None:
        """The layer in which ``part`` belongs to ``entity``, or None when the vocabulary does not allow it."""
        peripheral, intermediate = (
            any(entry.entity == entity and part in entry.subentities for entry in layer)
            for layer in (self.peripheral, self.intermediate)
        )
        if peripheral and intermediate:
            return "both"
        return "peripheral" if peripheral else "intermediate" if intermediate else None


def owner_of(part: Instance, entities: Sequence[Instance], threshold: float) -> Instance | None:
    """The entity instance with the largest containment ``|part & entity| / |part|``, at least ``threshold``, else None.

    A part wholly inside several entities goes to the smallest of them: the more specific claim.
    """
    ranked = [(containment(part.mask, entity.mask), -int(entity.mask.sum()), entity) for entity in entities]
    share, _, owner = max(ranked, key=lambda claim: claim[:2], default=(0.0, 0, None))
    return owner if share >= threshold else None


def template(instances: Sequence[Instance], threshold: float) -> Vocabulary:
    """Derive the vocabulary from known instances.

    A part class belongs to the entity classes that own one of its instances. Entities without a visible
    part are left out, as are torsos and, among peripheral parts, things of variable number; of more than six part
    classes per entity and layer the most visible stay.

    Args:
        instances: entities and parts of one image.
        threshold: containment from which an entity owns a part, see ``owner_of``.
    """
    entities = [instance for instance in instances if instance.layer == "entity"]
    area: dict[str, dict[str, Counter[str]]] = {"peripheral": {}, "intermediate": {}}  # layer, entity, part -> pixels
    for part in (instance for instance in instances if instance.layer != "entity"):
        owner = owner_of(part, [entity for entity in entities if entity.name != part.name], threshold)
        for layer in _layers(part) if owner else ():
            area[layer].setdefault(owner.name, Counter())[part.name] += int(part.mask.sum())
    return Vocabulary(**{layer: _entries(area[layer]) for layer in area})


def _layers(part: Instance) -> tuple[str, ...]:
    if part.name in NEVER_PARTS:
        return ()
    layers = ("peripheral", "intermediate") if part.layer == "both" else (part.layer,)
    return tuple(layer for layer in layers if layer != "peripheral" or part.name not in VARIABLE_COUNT)


def _entries(area: dict[str, Counter[str]]) -> tuple[Entry, ...]:
    ranked = {entity: sorted(parts, key=lambda part: (-parts[part], part)) for entity, parts in sorted(area.items())}
    return tuple(Entry(entity=entity, subentities=tuple(parts[:MAX_PARTS])) for entity, parts in ranked.items())

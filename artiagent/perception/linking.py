"""Linking: parts to the entity instance that contains them, and the size filters (spec: perception, step 4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from artiagent.config import PerceptionSection
from artiagent.grid import mask_box, patch_grid
from artiagent.perception.grounding import Instance
from artiagent.perception.vocabulary import Vocabulary, owner_of
from artiagent.records import Box, Entity, Layer, Mask, Part


def link(
    instances: Sequence[Instance], vocabulary: Vocabulary, section: PerceptionSection
) -> tuple[tuple[Entity, ...], Counter[str]]:
    """Assign every part to one entity instance; two persons stay two.

    A part goes to the entity of a class that the vocabulary allows with the largest containment, at least
    ``section.containment``. Entity instances without parts stay (fusion needs none) if the vocabulary has their class.

    Returns:
        Entities in the order of ``instances``, and how many instances were left out by reason: ``entity_too_small``,
        ``no_part`` (a class without any part in this image), ``too_small``, ``too_large`` (parts), ``no_parent``,
        ``not_in_vocabulary`` (inside an entity, but no part of its class).
    """
    dropped: Counter[str] = Counter()
    instances = [instance for instance in instances if instance.mask.any()]
    entities = _entities(instances, vocabulary, section, dropped)
    parts: dict[str, list[Part]] = {entity.id: [] for entity in entities}
    for instance in (i for i in instances if i.layer != "entity"):
        allowed = [entity for entity in entities if vocabulary.layer(entity.name, instance.name)]
        owner = owner_of(instance, allowed, section.containment)
        reason = _refusal(instance, owner, entities, section)
        if reason:
            dropped[reason] += 1
        elif owner and (layer := vocabulary.layer(owner.name, instance.name)):
            parts[owner.id].append(_part(instance, layer))
    return tuple(_entity(entity, parts[entity.id]) for entity in entities), dropped


def _entities(
    instances: Sequence[Instance], vocabulary: Vocabulary, section: PerceptionSection, dropped: Counter[str]
) -> list[Instance]:
    kept = []
    for instance in (i for i in instances if i.layer == "entity"):
        if instance.mask.mean() < section.entity_min_share:
            dropped["entity_too_small"] += 1
        elif instance.name not in vocabulary.entities:
            dropped["no_part"] += 1
        else:
            kept.append(instance)
    return kept


def _refusal(part: Instance, owner: Instance | None, entities: list[Instance], section: PerceptionSection) -> str:
    if owner is None:
        return "not_in_vocabulary" if owner_of(part, entities, section.containment) else "no_parent"
    box = _box(patch_grid(part.mask, section.patch))
    if min(box.x1 - box.x0, box.y1 - box.y0) < section.part_min_patches:
        return "too_small"
    return "too_large" if part.mask.sum() > section.part_max_share * owner.mask.sum() else ""


def _part(instance: Instance, layer: Layer) -> Part:
    mask = instance.mask
    return Part(id=instance.id, name=instance.name, layer=layer, mask=Mask.encode(mask), box=_box(mask))


def _entity(instance: Instance, parts: list[Part]) -> Entity:
    whole = np.logical_or.reduce([instance.mask, *(part.mask.decode() for part in parts)])
    return Entity(id=instance.id, name=instance.name, mask=Mask.encode(whole), box=_box(whole), parts=tuple(parts))


def _box(mask: np.ndarray) -> Box:
    box = mask_box(mask)
    if box is None:
        raise ValueError("an empty mask has no box")
    return box

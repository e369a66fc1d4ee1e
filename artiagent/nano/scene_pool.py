"""Training scenes: rendered once, kept small, half of the time seen mirrored. Does not know what is learned of them."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from artiagent.nano.scenes import RenderedEntity, RenderedPart, RenderedScene, render_scene


@dataclass(frozen=True)
class StoredScene:
    """A rendered scene in 80 KB: the masks of parts and entities are disjoint, so two label maps hold them."""

    image: np.ndarray
    owners: np.ndarray  # uint8 [H, W], entity index + 1
    parts: np.ndarray  # uint8 [H, W], part index + 1
    scene: RenderedScene  # without masks

    @classmethod
    def pack(cls, scene: RenderedScene) -> StoredScene:
        owners, parts = (np.zeros(scene.image.shape[:2], np.uint8) for _ in range(2))
        entities, index = [], 0
        nothing = np.zeros((0, 0), bool)
        for number, entity in enumerate(scene.entities, start=1):
            owners[entity.mask] = number
            for part in entity.parts:
                index += 1
                parts[part.mask] = index
            light = tuple(RenderedPart(part.name, part.layer, nothing) for part in entity.parts)
            entities.append(RenderedEntity(entity.id, entity.name, nothing, light, entity.colour, entity.texture))
        bare = RenderedScene(scene.image[:0], tuple(entities), scene.caption, scene.background, scene.seed)
        return cls(scene.image, owners, parts, bare)

    def unpack(self, flip: bool = False) -> RenderedScene:
        """The scene with its masks; mirrored, it loses a caption that speaks of left and right."""
        step = -1 if flip else 1
        image, owners, parts = self.image[:, ::step], self.owners[:, ::step], self.parts[:, ::step]
        entities, index = [], 0
        for number, entity in enumerate(self.scene.entities, start=1):
            named = []
            for part in entity.parts:
                index += 1
                named.append(RenderedPart(part.name, part.layer, parts == index))
            entities.append(
                RenderedEntity(entity.id, entity.name, owners == number, tuple(named), entity.colour, entity.texture)
            )
        caption = "" if flip and " left " in self.scene.caption else self.scene.caption
        return RenderedScene(image, tuple(entities), caption, self.scene.background, self.scene.seed)


class ScenePool:
    """`count` scenes from `first_seed` on, rendered when first drawn and kept."""

    def __init__(self, first_seed: int, count: int):
        self.first_seed, self.count = first_seed, count
        self._kept: dict[int, StoredScene] = {}

    def draw(self, rng: random.Random) -> RenderedScene:
        """Any scene, half of them mirrored."""
        seed = self.first_seed + rng.randrange(self.count)
        if seed not in self._kept:
            self._kept[seed] = StoredScene.pack(render_scene(seed))
        return self._kept[seed].unpack(flip=rng.random() < 0.5)

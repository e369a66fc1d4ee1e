"""Training scenes: rendered once, kept small, and seen a little differently each time.

Knows rendering, storage and augmentation. Does not know what is learned from a view.
"""

from __future__ import annotations

import io
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from artiagent.nano.scenes import RenderedEntity, RenderedPart, RenderedScene, render_scene
from artiagent.nano.views import SeenPart, View, box_of, view_of

ERASE_CHANCE = 0.45
PASTE_CHANCE = 0.45


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


def augmented_view(
    scene: RenderedScene, rng: random.Random, erase: float = ERASE_CHANCE, paste: float = PASTE_CHANCE
) -> View:
    """Light, blur, noise and compression, and two augmentations that make a part be looked for in the pixels and not
    where it usually is: with chance `erase` an opaque patch hides something (random erasing), with chance `paste` a
    part is copied to another place (copy-paste)."""
    image, hidden = scene.image, np.zeros(scene.image.shape[:2], bool)
    pasted: list[SeenPart] = []
    if rng.random() < erase:
        image, hidden = _erase(scene, rng)
    if rng.random() < paste:
        image, hidden, pasted = _paste(view_of(scene, hidden, image), hidden, rng)
    return view_of(scene, hidden, _degrade(image, rng), pasted)


def _paste(view: View, hidden: np.ndarray, rng: random.Random) -> tuple[np.ndarray, np.ndarray, list[SeenPart]]:
    """Copy one visible part, mirrored or not, to a place that it does not cover already."""
    visible = [part for part in view.parts if part.visible]
    image, hidden = view.image.copy(), hidden.copy()
    if not visible:
        return image, hidden, []
    part = rng.choice(visible)
    x0, y0, x1, y1 = part.box
    step = rng.choice((-1, 1))
    sprite, stencil = view.image[y0:y1, x0:x1][:, ::step], part.mask[y0:y1, x0:x1][:, ::step]
    left, top = rng.randint(0, image.shape[1] - (x1 - x0)), rng.randint(0, image.shape[0] - (y1 - y0))
    place = slice(top, top + y1 - y0), slice(left, left + x1 - x0)
    drawn = np.zeros(image.shape[:2], bool)
    drawn[place] = stencil
    if (drawn & part.mask).any():
        return image, hidden, []
    image[place][stencil] = sprite[stencil]
    return image, hidden | drawn, [SeenPart.of(part.name, part.owner, drawn, np.ones_like(drawn), pasted=True)]


def _erase(scene: RenderedScene, rng: random.Random) -> tuple[np.ndarray, np.ndarray]:
    """Cover one or two places, mostly parts, with a flat colour or with background from elsewhere in the picture."""
    height, width = scene.image.shape[:2]
    image, hidden = scene.image.copy(), np.zeros((height, width), bool)
    drawn = np.logical_or.reduce([entity.mask for entity in scene.entities])
    parts = [part for entity in scene.entities for part in entity.parts]
    rows, columns = np.mgrid[:height, :width]
    for _ in range(rng.randint(1, 2)):
        cy, cx = rng.randrange(height), rng.randrange(width)
        ry, rx = rng.uniform(5, 16), rng.uniform(5, 16)
        if parts and rng.random() < 0.75:
            x0, y0, x1, y1 = box_of(rng.choice(parts).mask)
            cy, cx = (y0 + y1) / 2, (x0 + x1) / 2
            ry, rx = (min(24.0, side / 2 + rng.uniform(0, 4)) for side in (y1 - y0, x1 - x0))
        dy, dx = np.abs(rows - cy) / ry, np.abs(columns - cx) / rx
        area = (dy**2 + dx**2 < 1.2) if rng.random() < 0.5 else (np.maximum(dy, dx) < 1)
        image[area] = _background(scene.image, drawn, area, rng)
        hidden |= area
    return image, hidden


def _background(image: np.ndarray, drawn: np.ndarray, area: np.ndarray, rng: random.Random) -> np.ndarray | list[int]:
    """Pixels [N, 3] for `area` from a place free of entities, or one colour where none is found or wanted."""
    if rng.random() < 0.85:
        for _ in range(6):
            shift = rng.randrange(-24, 25), rng.randrange(image.shape[1])
            if not np.roll(drawn, shift, (0, 1))[area].any():
                return np.roll(image, shift, (0, 1))[area]
    return [rng.randrange(256) for _ in range(3)]


def _degrade(image: np.ndarray, rng: random.Random) -> np.ndarray:
    if rng.random() < 0.3:
        blurred = Image.fromarray(np.ascontiguousarray(image)).filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.9)))
        image = np.asarray(blurred)
    if rng.random() < 0.5:
        noise = np.random.default_rng(rng.getrandbits(32))
        changed = image.astype(np.float32) * rng.uniform(0.85, 1.15) + rng.uniform(-12, 12)
        changed = changed + noise.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(0, 6))
        image = changed.clip(0, 255).astype(np.uint8)
    if rng.random() < 0.15:
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(image)).save(buffer, "JPEG", quality=rng.randint(55, 95))
        image = np.asarray(Image.open(buffer))
    return image

"""Ordinary augmentations of clean scenes, with masks that stay true.

Light, blur, noise and compression make a model robust. Random erasing, copy-paste, elastic warping and mixing with a
shifted copy make it look for a part in the pixels and not where it usually is. No view is ever called faulty or sound;
faults of the benchmark and operations of the toolbox are not used here.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageFilter
from scipy.ndimage import binary_dilation

from artiagent.nano.scenes import RenderedEntity, RenderedPart, RenderedScene
from artiagent.nano.views import SeenPart, View, box_of, view_of


@dataclass(frozen=True)
class Chances:
    """Probability of each augmentation that hides, copies or moves something; each is drawn by itself."""

    warp: float = 0.0
    erase: float = 0.0
    mix: float = 0.0
    paste: float = 0.0


VISIBLE = 24  # grey levels from which other content counts as altered
LIGHT_ONLY = Chances()
USUAL = Chances(warp=0.3, erase=0.35, mix=0.2, paste=0.35)  # a quarter of the views stay whole


def augmented_view(scene: RenderedScene, rng: random.Random, chances: Chances = USUAL) -> View:
    """`scene` under augmentations drawn from `rng`; what they hide, copy or bend is hidden, copied or bent in the
    masks."""
    pasted: list[SeenPart] = []
    original = scene.image
    if rng.random() < chances.warp:
        scene = _warp(scene, rng)
    image, hidden = scene.image, np.zeros(scene.image.shape[:2], bool)
    if rng.random() < chances.erase:
        image, hidden = _erase(scene, rng)
    if rng.random() < chances.mix:
        image, hidden = _mix(scene, image, hidden, rng)
    if rng.random() < chances.paste:
        image, hidden, pasted = _paste(view_of(scene, hidden, image), hidden, rng)
    altered = np.abs(image.astype(np.int16) - original).max(2) > VISIBLE
    return view_of(scene, hidden, _degrade(image, rng), pasted, altered)


def _warp(scene: RenderedScene, rng: random.Random) -> RenderedScene:
    """Bend the surroundings of one place: turned, blown up, squeezed, dragged or waved, fading towards the rim."""
    rows, columns = (axis.astype(np.float32) for axis in np.mgrid[: scene.image.shape[0], : scene.image.shape[1]])
    cy, cx = _place(scene, rng)
    dy, dx = rows - cy, columns - cx
    weight = (1 - ((dy / rng.uniform(9, 26)) ** 2 + (dx / rng.uniform(9, 26)) ** 2)).clip(0) ** rng.uniform(0.5, 1.5)
    kind = rng.randrange(4)
    if kind == 0:
        angle = weight * rng.choice((-1, 1)) * rng.uniform(0.5, 1.6)
        dy, dx = np.cos(angle) * dy - np.sin(angle) * dx, np.sin(angle) * dy + np.cos(angle) * dx
    elif kind == 1:
        scale = 1 + weight * (rng.uniform(0.5, 1.2) if rng.random() < 0.5 else rng.uniform(-0.6, -0.35))
        dy, dx = dy * scale, dx * scale
    elif kind == 2:
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(5, 12)
        dy, dx = dy + weight * reach * np.sin(angle), dx + weight * reach * np.cos(angle)
    else:
        length, reach = rng.uniform(6, 14), rng.uniform(2, 5)
        phase = rng.uniform(0, 2 * np.pi)
        wave = weight * reach * np.sin(2 * np.pi * (dy + dx) / length + phase)
        dy, dx = dy + wave, dx - wave
    take = (
        (cy + dy).round().clip(0, len(rows) - 1).astype(np.intp),
        (cx + dx).round().clip(0, rows.shape[1] - 1).astype(np.intp),
    )
    return _resampled(scene, lambda plane: plane[take])


def _resampled(scene: RenderedScene, sample: Callable[[np.ndarray], np.ndarray]) -> RenderedScene:
    """Image and every mask under one resampling."""
    entities = []
    for entity in scene.entities:
        parts = tuple(RenderedPart(part.name, part.layer, sample(part.mask)) for part in entity.parts)
        entities.append(
            RenderedEntity(entity.id, entity.name, sample(entity.mask), parts, entity.colour, entity.texture)
        )
    return replace(scene, image=sample(scene.image), entities=tuple(entities))


def _erase(scene: RenderedScene, rng: random.Random) -> tuple[np.ndarray, np.ndarray]:
    """Cover one or two places, mostly parts, with a flat colour or with background from elsewhere in the picture."""
    image, hidden = scene.image.copy(), np.zeros(scene.image.shape[:2], bool)
    drawn = np.logical_or.reduce([entity.mask for entity in scene.entities])
    for _ in range(rng.randint(1, 2)):
        area = _patch(scene, rng)
        image[area] = _background(scene.image, drawn, area, rng)
        hidden |= area
    return image, hidden


def _patch(scene: RenderedScene, rng: random.Random) -> np.ndarray:
    """bool [H, W]: a part's own shape, or an ellipse or a rectangle, mostly about a part."""
    height, width = scene.image.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    cy, cx = rng.randrange(height), rng.randrange(width)
    ry, rx = rng.uniform(5, 16), rng.uniform(5, 16)
    parts = [part for entity in scene.entities for part in entity.parts]
    if parts and rng.random() < 0.4:
        return binary_dilation(rng.choice(parts).mask, iterations=rng.randint(1, 3))
    if parts and rng.random() < 0.75:
        x0, y0, x1, y1 = box_of(rng.choice(parts).mask)
        cy, cx = (y0 + y1) / 2, (x0 + x1) / 2
        ry, rx = (min(24.0, side / 2 + rng.uniform(0, 4)) for side in (y1 - y0, x1 - x0))
    dy, dx = np.abs(rows - cy) / ry, np.abs(columns - cx) / rx
    return (dy**2 + dx**2 < 1.2) if rng.random() < 0.5 else (np.maximum(dy, dx) < 1)


def _place(scene: RenderedScene, rng: random.Random) -> tuple[float, float]:
    """Row and column of some part's middle, or of any pixel."""
    parts = [part for entity in scene.entities for part in entity.parts]
    if parts and rng.random() < 0.85:
        x0, y0, x1, y1 = box_of(rng.choice(parts).mask)
        return (y0 + y1) / 2, (x0 + x1) / 2
    return rng.uniform(0, scene.image.shape[0]), rng.uniform(0, scene.image.shape[1])


def _background(image: np.ndarray, drawn: np.ndarray, area: np.ndarray, rng: random.Random) -> np.ndarray | list[int]:
    """Pixels [N, 3] for `area` from a place free of entities, or one colour where none is found or wanted."""
    if rng.random() < 0.85:
        for _ in range(6):
            shift = rng.randrange(-24, 25), rng.randrange(image.shape[1])
            if not np.roll(drawn, shift, (0, 1))[area].any():
                return np.roll(image, shift, (0, 1))[area]
    return [rng.randrange(256) for _ in range(3)]


def _mix(
    scene: RenderedScene, image: np.ndarray, hidden: np.ndarray, rng: random.Random
) -> tuple[np.ndarray, np.ndarray]:
    """Blend a shifted copy of the picture in around one place; what the copy outweighs counts as hidden."""
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    cy, cx = _place(scene, rng)
    distance = ((rows - cy) / rng.uniform(8, 24)) ** 2 + ((columns - cx) / rng.uniform(8, 24)) ** 2
    weight = (rng.uniform(1.0, 2.0) * (1 - distance)).clip(0, rng.uniform(0.5, 1.0)).astype(np.float32)
    shift = rng.choice((-1, 1)) * rng.randint(6, 30), rng.choice((-1, 1)) * rng.randint(6, 40)
    mixed = image + weight[..., None] * (np.roll(image, shift, (0, 1)).astype(np.float32) - image)
    return mixed.round().astype(np.uint8), hidden | (weight >= 0.5)


def _paste(view: View, hidden: np.ndarray, rng: random.Random) -> tuple[np.ndarray, np.ndarray, list[SeenPart]]:
    """Copy one visible part, mirrored or not, beside itself or anywhere, never onto itself."""
    visible = [part for part in view.parts if part.visible]
    image, hidden = view.image.copy(), hidden.copy()
    if not visible:
        return image, hidden, []
    part = rng.choice(visible)
    x0, y0, x1, y1 = part.box
    step = rng.choice((-1, 1))
    sprite, stencil = view.image[y0:y1, x0:x1][:, ::step], part.mask[y0:y1, x0:x1][:, ::step]
    most_left, most_top = image.shape[1] - (x1 - x0), image.shape[0] - (y1 - y0)
    left, top = rng.randint(0, most_left), rng.randint(0, most_top)
    if rng.random() < 0.6:
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.7, 1.8)
        left = min(max(0, round(x0 + reach * (x1 - x0) * np.cos(angle))), most_left)
        top = min(max(0, round(y0 + reach * (y1 - y0) * np.sin(angle) * 0.7)), most_top)
    place = slice(top, top + y1 - y0), slice(left, left + x1 - x0)
    drawn = np.zeros(image.shape[:2], bool)
    drawn[place] = stencil
    if (drawn & part.mask).sum() > 0.15 * part.area:
        return image, hidden, []
    image[place][stencil] = sprite[stencil]
    return image, hidden | drawn, [SeenPart.of(part.name, part.owner, drawn, np.ones_like(drawn), pasted=True)]


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

"""A scene as a model sees it: parts as far as they are visible, and the labels of its patches.

Knows masks. Does not know questions, tokens or models. A part counts as visible with at least 24 px and half of what
the renderer drew; between that and nothing it is ambiguous.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation, label

from artiagent.nano.scenes import KINDS, TRAIN_SEEDS, RenderedScene, compose
from artiagent.records import Box

VISIBLE_PIXELS = 24
VISIBLE_SHARE = 0.5
GONE_SHARE = 0.05


@dataclass(frozen=True)
class SeenPart:
    """A part as far as it is visible. `mask` bool [H, W]; `share` of the drawn pixels that is left; `place` is the box
    of what was drawn. A pasted part is a copy in a place of its own, outside the anatomy of its owner."""

    name: str
    owner: int
    mask: np.ndarray
    box: Box
    area: int
    share: float
    place: Box
    pasted: bool = False

    @classmethod
    def of(cls, name: str, owner: int, drawn: np.ndarray, shown: np.ndarray, pasted: bool = False) -> SeenPart:
        """Part with the pixels `drawn` of which those in `shown` are visible; bool [H, W] both."""
        mask = drawn & shown
        area = int(mask.sum())
        return cls(name, owner, mask, box_of(mask), area, area / max(1, int(drawn.sum())), box_of(drawn), pasted)

    @property
    def visible(self) -> bool:
        return self.area >= VISIBLE_PIXELS and self.share >= VISIBLE_SHARE

    @property
    def gone(self) -> bool:
        return self.share < GONE_SHARE


@dataclass(frozen=True)
class View:
    """A scene as the model sees it. `kinds[i]` names entity i; `owners` uint8 [H, W] is i + 1 where entity i can be
    seen; `altered` bool [H, W] marks where an augmentation left other content; `caption` is empty where it would not be
    true."""

    image: np.ndarray
    owners: np.ndarray
    altered: np.ndarray
    kinds: tuple[str, ...]
    boxes: tuple[Box, ...]
    parts: tuple[SeenPart, ...]
    caption: str

    def named(self, name: str, owner: int | None = None) -> list[SeenPart]:
        return [part for part in self.parts if part.name == name and owner in (None, part.owner)]

    def altered_regions(self) -> list[Box]:
        """Boxes of what is `altered`: pixels up to 4 px apart make one region, specks are left out."""
        numbers, _ = label(binary_dilation(self.altered, iterations=2))
        found = (np.where(self.altered, numbers, 0) == number for number in range(1, numbers.max() + 1))
        return [box_of(region) for region in found if region.sum() >= VISIBLE_PIXELS]


@functools.cache
def parts_of_kinds() -> dict[str, tuple[str, ...]]:
    """Names of the parts that each kind can have, hidden or not."""
    names: dict[str, tuple[str, ...]] = {}
    for kind in KINDS:
        scenes = (compose(TRAIN_SEEDS[i], kinds=[kind], entities=1) for i in range(6))
        names[kind] = tuple(sorted({piece.name for s in scenes for f in s.figures for piece in f.pieces if piece.name}))
    return names


def view_of(
    scene: RenderedScene,
    hidden: np.ndarray | None = None,
    image: np.ndarray | None = None,
    pasted: Sequence[SeenPart] = (),
    altered: np.ndarray | None = None,
) -> View:
    """The scene, less the pixels of `hidden` (bool [H, W]), with `image` in place of its own, `pasted` parts and what
    is `altered` if given."""
    shown = np.ones(scene.image.shape[:2], bool) if hidden is None else ~hidden
    parts = []
    for owner, entity in enumerate(scene.entities):
        for part in entity.parts:
            parts.append(SeenPart.of(part.name, owner, part.mask, shown))
    owners = np.zeros(shown.shape, np.uint8)
    for owner, entity in enumerate(scene.entities):
        owners[entity.mask & shown] = owner + 1
    for part in pasted:
        owners[part.mask] = part.owner + 1
    left = [float((e.mask & shown).sum() / max(1, e.mask.sum())) for e in scene.entities]
    return View(
        scene.image if image is None else image,
        owners,
        np.zeros(shown.shape, bool) if altered is None else altered,
        tuple(entity.name for entity in scene.entities),
        tuple(box_of(entity.mask & shown) for entity in scene.entities),
        (*parts, *pasted),
        scene.caption if min(left) > 0.6 else "",
    )


def box_of(mask: np.ndarray) -> Box:
    """Tight box of a bool mask [H, W]; all zeros when it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return Box(0, 0, 0, 0)
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


@functools.cache
def patch_classes() -> dict[str, int]:
    """Index of every kind and every part name."""
    parts = sorted({part for parts in parts_of_kinds().values() for part in parts})
    return {name: index for index, name in enumerate((*KINDS, *parts))}


def patch_labels(view: View, patch: int) -> np.ndarray:
    """bool [rows, columns, classes]: which kinds and parts cover at least a quarter of a patch of `patch` px."""
    classes, side = patch_classes(), view.image.shape[0] // patch
    along = np.arange(side).repeat(patch)
    cell = (along[:, None] * side + along) * len(classes)
    covered = np.zeros(side * side * len(classes), np.int64)
    for part in view.parts:
        for name in (part.name, view.kinds[part.owner]):
            covered += np.bincount(cell[part.mask] + classes[name], minlength=covered.size)
    return (covered * 4 >= patch**2).reshape(side, side, len(classes))


def patch_colours(image: np.ndarray, patch: int) -> np.ndarray:
    """float32 [rows, columns, 3]: mean colour of every patch of `patch` px, -1 to 1."""
    side = image.shape[0] // patch
    return image.reshape(side, patch, side, patch, 3).mean((1, 3), dtype=np.float32) / 127.5 - 1


def patch_shares(mask: np.ndarray, patch: int) -> np.ndarray:
    """float32 [rows, columns, 1]: share of every patch of `patch` px that bool [H, W] `mask` covers."""
    side = mask.shape[0] // patch
    return mask.reshape(side, patch, side, patch, 1).mean((1, 3), dtype=np.float32)

"""Draws anatomically wrong scenes the way a bad illustrator would, with what is wrong marked, named and explained.

The four types of the paper (duplication, omission, distortion, fusion), made by editing vector anatomy before it is
painted; independent of the synthesis toolbox on purpose, so that a benchmark of such scenes asks whether training
transfers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageFilter

from artiagent.grid import mask_box
from artiagent.nano.fault_edits import EDITS, Edit, outside, pixels_of
from artiagent.nano.scenes import KINDS, Composition, RenderedScene, compose_cast, paint
from artiagent.records import Box

FAULTS: tuple[str, ...] = tuple(EDITS)

_ATTEMPTS = 12  # scenes tried for one seed before giving up
_VISIBLE = 24  # grey levels that an eye notices
_LEAST_SHARE = {"duplication": 0.005, "omission": 0.004, "distortion": 0.005, "fusion": 0.03}  # of the image, differing
_MOST_OUTSIDE = 0.12  # share of the outline that may leave the frame


@dataclass(frozen=True)
class FaultyScene:
    """`image` and `clean_image` uint8 [H, W, 3] differ only at the fault; `scene` is the clean one.

    `box` is (x0, y0, x1, y1) in px, x1 and y1 exclusive; `mask` bool [H, W] marks what is wrong (for an omission, where
    the part should be). `boxes` holds `box` and, for a misplaced part, the place that it left. `part` is None for a
    fusion. `label` is a phrase, `explanation` a sentence for a layperson.
    """

    image: np.ndarray
    clean_image: np.ndarray
    scene: RenderedScene
    fault: str
    entity: str
    part: str | None
    box: Box
    mask: np.ndarray
    label: str
    explanation: str
    boxes: tuple[Box, ...]


def render_fault(seed: int, *, size: int = 128, kind: str | None = None, fault: str | None = None) -> FaultyScene:
    """Render the faulty scene of `seed` and its clean twin.

    Left open, `fault` and `kind` walk through all combinations with the seed, so that consecutive seeds are balanced.
    Raises ValueError for an unknown kind or fault.
    """
    fault = FAULTS[seed % len(FAULTS)] if fault is None else fault
    kind = KINDS[seed // len(FAULTS) % len(KINDS)] if kind is None else kind
    if fault not in FAULTS or kind not in KINDS:
        raise ValueError(f"fault={fault!r}, kind={kind!r}: expected one of {FAULTS} and one of {KINDS}")
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng((seed, attempt, 1))
        composition, subject = _stage(rng, seed, attempt, kind, fault)
        for edit in EDITS[fault](rng, composition, subject):
            if (faulty := _judged(composition, edit, size, fault, kind)) is not None:
                return faulty
    raise ValueError(f"no visible {fault} of a {kind} found for seed {seed} in {_ATTEMPTS} scenes; use another seed")


def _stage(rng: np.random.Generator, seed: int, attempt: int, kind: str, fault: str) -> tuple[Composition, int]:
    """A clean composition that holds `kind`, and the index of the figure to spoil: always an unhidden one."""
    other = str(rng.choice([k for k in KINDS if k != kind]))
    arrangement = rng.random()
    if fault == "fusion":
        cast = (kind, other) if arrangement < 0.5 else (other, kind)
        return compose_cast(seed, attempt, cast, True), cast.index(kind)
    if arrangement < 0.65:
        return compose_cast(seed, attempt, (kind,), False), 0
    return compose_cast(seed, attempt, (other, kind), arrangement < 0.85), 1


def _judged(composition: Composition, edit: Edit, size: int, fault: str, kind: str) -> FaultyScene | None:
    """Paint both sides; None where the fault can hardly be seen."""
    spoilt = replace(composition, figures=edit.figures)
    clean, faulty = paint(composition, size), paint(spoilt, size)
    differs = np.abs(clean.image.astype(np.int16) - faulty.image).max(axis=2) > _VISIBLE
    if differs.mean() < _LEAST_SHARE[fault] or outside(edit) > _MOST_OUTSIDE:
        return None
    marked = [pixels_of(spoilt, edit.after, size), pixels_of(composition, edit.before, size)]
    if fault == "fusion":
        marked = [_closed(differs)]
    mask = np.logical_or.reduce(marked)
    boxes = tuple(mask_box(region) for region in (marked if edit.apart else [mask]))
    if None in boxes:
        return None
    return FaultyScene(
        image=faulty.image,
        clean_image=clean.image,
        scene=clean,
        fault=fault,
        entity=kind,
        part=edit.part,
        box=boxes[0],
        mask=mask,
        label=edit.label,
        explanation=edit.explanation,
        boxes=boxes,
    )


def _closed(mask: np.ndarray) -> np.ndarray:
    """Without the gaps of a few px where two colours happen to agree."""
    grown = Image.fromarray(mask.astype(np.uint8)).filter(ImageFilter.MaxFilter(5))
    return np.asarray(grown.filter(ImageFilter.MinFilter(5)), dtype=bool)

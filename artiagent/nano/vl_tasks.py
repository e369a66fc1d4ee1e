"""Questions about clean scenes whose answers follow from the masks.

Knows which question is well posed and what is true. Does not know tokens, batches or models. Parts whose visibility is
ambiguous are never asked about.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from artiagent.instruction import prompts
from artiagent.nano.scenes import KINDS
from artiagent.nano.views import SeenPart, View, parts_of_kinds
from artiagent.records import Box

INSIDE = 0.7  # share of a part inside a box from which the box shows the part
OUTSIDE = 0.1  # share up to which it does not
GRID = 8
ABSENT_SHARE = 0.25  # of the questions where everything of a name is
MOST_REGIONS = 3  # that a list of boxes names; pictures altered in more places are not asked about


@dataclass(frozen=True)
class Exchange:
    """One question with its true answer. `task` and `fields` are what `artiagent.instruction.prompts.render` takes."""

    task: str
    answer: str
    fields: dict[str, str | Box] = field(default_factory=dict)

    def question(self, rng: random.Random | None = None) -> str:
        """The canonical wording, or one drawn from `rng`."""
        if rng is None:
            return prompts.render(self.task, **self.fields)
        return prompts.paraphrase(self.task, rng, **self.fields)


def shows(view: View, name: str, box: Box) -> bool | None:
    """Whether `box` shows a part of this name; None where one cannot say."""
    inside = [(part, int(part.mask[box.slices].sum())) for part in view.named(name)]
    if any(part.visible and pixels >= INSIDE * part.area for part, pixels in inside):
        return True
    clear = all(pixels <= OUTSIDE * part.area for part, pixels in inside if part.area)
    return False if clear and sum(pixels for _, pixels in inside) <= 0.03 * box.area else None


def visible_parts(view: View, owner: int, name: str) -> list[SeenPart] | None:
    """Visible parts of one entity from left to right; None where one of them is ambiguous or a pasted copy."""
    named = view.named(name, owner)
    if any(part.pasted or (part.area and not part.visible) for part in named):
        return None
    return sorted((part for part in named if part.visible), key=lambda part: part.box)


def ask_caption(view: View, _: random.Random) -> Exchange | None:
    if not view.caption:
        return None
    return Exchange(prompts.DESCRIBE_IMAGE, view.caption)


def ask_part_in_box(view: View, rng: random.Random) -> Exchange | None:
    """Balanced: half of the boxes show the part. The first choice are boxes whose place says the opposite: a pasted
    copy, a part that an opaque patch hides."""
    present = [part for part in view.parts if part.visible]
    if not present:
        return None
    truth = rng.random() < 0.5
    odd = [part for part in view.parts if (part.pasted and part.visible if truth else part.gone)]
    for attempt in range(8):
        if odd and attempt < 3 and rng.random() < 0.85:
            part = rng.choice(odd)
            name, box = part.name, _around(part.place, view, rng)
        elif truth:
            part = rng.choice(present)
            name, box = part.name, _around(part.box, view, rng)
        else:
            name = rng.choice(present).name
            if rng.random() < 0.15:
                name = rng.choice(parts_of_kinds()[rng.choice(KINDS)])
            box = _elsewhere(name, present, view, rng)
        if box.area and shows(view, name, box) is truth:
            return Exchange(prompts.PART_IN_BOX, prompts.yes_no(truth), {"part": name, "box": box})
    return None


def ask_location(view: View, rng: random.Random) -> Exchange | None:
    if (owner := _single(view, rng)) is None:
        return None
    names = sorted({part.name for part in view.parts if part.owner == owner})
    if not names:
        return None
    name = rng.choice(names)
    parts = visible_parts(view, owner, name)
    if not parts:
        return None
    answer = prompts.format_boxes(part.box for part in parts)
    return Exchange(prompts.LOCATE_PART, answer, {"entity": view.kinds[owner], "part": name})


def ask_everywhere(view: View, rng: random.Random) -> Exchange | None:
    """All that goes by one name, an entity's or a part's. A quarter asks for what is not there: a part that one of
    these kinds can have (first choice), or any other name."""
    names = sorted({*view.kinds, *(part.name for part in view.parts if part.visible)})
    if rng.random() < ABSENT_SHARE:
        known = {name for kind in view.kinds for name in parts_of_kinds()[kind]}
        missing = sorted(known - {*names, *(part.name for part in view.parts)})
        others = sorted({*KINDS, *(name for parts in parts_of_kinds().values() for name in parts)} - known - {*names})
        names = missing if missing and rng.random() < 0.4 else others
    if not names:
        return None
    name = rng.choice(names)
    boxes = everywhere(view, name)
    if boxes is None:
        return None
    return Exchange(prompts.LOCATE_ALL, prompts.format_boxes(boxes), {"part": name})


def everywhere(view: View, name: str) -> list[Box] | None:
    """Boxes of the entities or visible parts of one name from left to right; None where one of them is ambiguous."""
    if name in view.kinds:
        return sorted(box for kind, box in zip(view.kinds, view.boxes, strict=True) if kind == name)
    found = [visible_parts(view, owner, name) for owner in range(len(view.kinds))]
    if any(parts is None for parts in found):
        return None
    return sorted(part.box for parts in found for part in parts)


def ask_mismatch(view: View, _: random.Random) -> Exchange | None:
    """Where the augmentation left other content; an empty list where it did not."""
    regions = view.altered_regions()
    if len(regions) > MOST_REGIONS:
        return None
    return Exchange(prompts.LOCATE_MISMATCH, prompts.format_boxes(sorted(regions)))


def ask_presence(view: View, rng: random.Random) -> Exchange | None:
    """Yes: visible. No: hidden in this scene (first choice), or a part that this kind never has."""
    if (owner := _single(view, rng)) is None:
        return None
    own = parts_of_kinds()[view.kinds[owner]]
    seen = {name: visible_parts(view, owner, name) for name in own}
    truth = rng.random() < 0.5
    if truth:
        names = [name for name, parts in seen.items() if parts]
    else:
        hidden = [name for name, parts in seen.items() if parts is not None and not parts]
        foreign = sorted({name for names in parts_of_kinds().values() for name in names} - set(own))
        names = hidden if hidden and rng.random() < 0.7 else foreign
    if not names:
        return None
    return Exchange(prompts.PRESENCE, prompts.yes_no(truth), {"entity": view.kinds[owner], "part": rng.choice(names)})


def ask_count(view: View, rng: random.Random) -> Exchange | None:
    if (owner := _single(view, rng)) is None:
        return None
    name = rng.choice(parts_of_kinds()[view.kinds[owner]])
    parts = visible_parts(view, owner, name)
    if parts is None:
        return None
    return Exchange(prompts.COUNT, str(len(parts)), {"entity": view.kinds[owner], "part": name})


ASK = {
    prompts.DESCRIBE_IMAGE: ask_caption,
    prompts.PART_IN_BOX: ask_part_in_box,
    prompts.LOCATE_PART: ask_location,
    prompts.LOCATE_ALL: ask_everywhere,
    prompts.LOCATE_MISMATCH: ask_mismatch,
    prompts.PRESENCE: ask_presence,
    prompts.COUNT: ask_count,
}


def _single(view: View, rng: random.Random) -> int | None:
    """An entity that "the dog" can only mean."""
    single = [i for i, kind in enumerate(view.kinds) if view.kinds.count(kind) == 1]
    return rng.choice(single) if single else None


def _around(box: Box, view: View, rng: random.Random) -> Box:
    """A box that a person or a patch grid would put around the part: tight, shaken, padded or aligned to the grid."""
    height, width = view.image.shape[:2]
    mode = rng.randrange(4)
    if mode == 0:
        return box
    if mode == 1:
        return aligned(box).clip(width, height)
    most = 3 if mode == 2 else 12
    x0, y0, x1, y1 = box
    least = -2 if mode == 2 else 0
    shift = [rng.randint(least, most) for _ in range(4)]
    return Box(x0 - shift[0], y0 - shift[1], x1 + shift[2], y1 + shift[3]).clip(width, height)


def _elsewhere(name: str, present: list[SeenPart], view: View, rng: random.Random) -> Box:
    """Hard negatives: another part, beside a part of this name, on an entity, or anywhere; of like size."""
    height, width = view.image.shape[:2]
    others = [part for part in present if part.name != name]
    named = [part for part in present if part.name == name]
    mode = rng.random()
    if mode < 0.35 and others:
        return _around(rng.choice(others).box, view, rng)
    model = rng.choice(named or present).box
    w, h = model.x1 - model.x0, model.y1 - model.y0
    w, h = (max(6, round(side * rng.uniform(0.8, 1.3))) for side in (w, h))
    if mode < 0.6:
        x0 = model.x0 + rng.choice((-1, 0, 1)) * round(w * rng.uniform(0.9, 1.6))
        y0 = model.y0 + rng.choice((-1, 0, 1)) * round(h * rng.uniform(0.9, 1.6))
    else:
        body = rng.choice(view.boxes) if mode < 0.85 else Box(0, 0, width, height)
        x0 = rng.randint(body.x0 - w // 2, max(body.x0, body.x1 - w // 2))
        y0 = rng.randint(body.y0 - h // 2, max(body.y0, body.y1 - h // 2))
    box = Box(x0, y0, x0 + w, y0 + h)
    return (aligned(box) if rng.random() < 0.3 else box).clip(width, height)


def aligned(box: Box) -> Box:
    """Rounded outwards to multiples of 8 px, like the boxes of patch mappings."""
    return Box(box.x0 // GRID * GRID, box.y0 // GRID * GRID, -(-box.x1 // GRID) * GRID, -(-box.y1 // GRID) * GRID)

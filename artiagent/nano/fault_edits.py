"""The four ways to spoil anatomy, as candidate edits of a composition: what changes, where, and how one would say it.

Proposes only; whether an edit can be seen is judged by `faults`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from artiagent.nano.canvas import FRAME
from artiagent.nano.fault_shapes import PointMap, area, bend, children, densified, melt, overturn, rescale, shift, weld
from artiagent.nano.kinds.figure import Figure, Piece, rotated
from artiagent.nano.scenes import Composition, draw

_PLACEMENTS = 14  # positions tried for one extra or misplaced part
_LEAST_SCORE = 0.7  # of a placement, see _most_visible
_TURNABLE = ("head", "door", "back", "lid", "beak", "wing")
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six")

Spots = frozenset[tuple[int, int]]  # (figure, piece) indices
Words = tuple[str, str, str]  # part, label, explanation

# how far from its joint an extra part may sit and how far it may turn: (x, y) in units of a 105 px entity, degrees
_LOOSENESS: dict[str, tuple[float, float, float]] = {
    "leg": (30, 2, 26),
    "ear": (20, 9, 50),
    "tail": (7, 12, 65),
    "wing": (22, 10, 70),
    "head": (34, 10, 40),
    "arm": (3, 22, 65),
    "hand": (9, 9, 80),
    "foot": (16, 4, 25),
    "beak": (4, 14, 75),
    "trunk": (8, 8, 60),
    "wheel": (40, 34, 0),
    "door": (34, 6, 20),
    "spout": (12, 16, 55),
    "handle": (16, 14, 70),
    "knob": (26, 16, 40),
    "lid": (26, 14, 40),
    "back": (34, 14, 35),
}
_REPEATABLE = tuple(name for name in _LOOSENESS if name not in ("door", "back", "lid"))
_REMOVABLE = (
    "leg",
    "ear",
    "tail",
    "wing",
    "arm",
    "hand",
    "foot",
    "beak",
    "trunk",
    "wheel",
    "spout",
    "handle",
    "knob",
    "head",
)


@dataclass(frozen=True)
class Edit:
    """A candidate: the figures after it, the pieces it takes away (`before`) and brings in (`after`), the words.

    `apart` says that both are marked with a box of their own.
    """

    figures: tuple[Figure, ...]
    part: str | None
    before: Spots
    after: Spots
    label: str
    explanation: str
    apart: bool = False


def pixels_of(composition: Composition, pieces: Spots, size: int) -> np.ndarray:
    """bool [size, size]: visible pixels of the given (figure, piece) indices."""
    canvas, owners = draw(composition, size)
    wanted = np.array([False, *(owner in pieces for owner in owners)])
    return wanted[canvas.groups()]


def outside(edit: Edit) -> float:
    """Share of the wrong pieces' outline points that lie outside the frame."""
    shapes = [shape for figure, piece in edit.after for shape in edit.figures[figure].pieces[piece].outline()]
    if not shapes:
        return 0.0
    points = np.concatenate([shape.points for shape in shapes])
    return float(((points < 1) | (points > FRAME - 1)).any(axis=1).mean())


def _duplications(rng: np.random.Generator, composition: Composition, subject: int) -> Iterator[Edit]:
    figure = composition.figures[subject]
    for index in _pieces_named(rng, figure, _REPEATABLE):
        piece = figure.pieces[index]
        family = children(figure, index)
        count = sum(p.name == piece.name for p in figure.pieces) + 1
        owner, name = figure.kind, piece.name
        edits = []
        for _ in range(_PLACEMENTS):
            move = _misplacement(rng, figure, piece, mirrored=bool(rng.random() < 0.3))
            copies = [figure.pieces[i].mapped(move) for i in family]
            in_front = name == "wheel" or bool(rng.random() < 0.5)
            at = family[-1] + 1 if in_front else family[0]
            pieces = (*figure.pieces[:at], *copies, *figure.pieces[at:])
            after = frozenset((subject, at + k) for k in range(len(copies)))
            words = (name, f"extra {name}", _too_many(owner, name, count))
            edits.append(_edit(composition, subject, pieces, (frozenset(), after), words))
        yield from _most_visible(composition, edits, subject, index)


def _misplacement(rng: np.random.Generator, figure: Figure, piece: Piece, mirrored: bool) -> PointMap:
    """A turn and a shift inside what `_LOOSENESS` allows, at least a third of it away from the original."""
    unit = float(max(np.ptp(figure.extent().reshape(2, 2), axis=0))) / 105.0
    loose = np.array(_LOOSENESS[piece.name])
    drawn = rng.uniform(0.35, 1.0, 3) * rng.choice((-1.0, 1.0), 3) * loose
    factor = rng.uniform(0.85, 1.1)
    anchor = np.asarray(piece.anchor)
    sign = np.array([-1.0 if mirrored else 1.0, 1.0])
    step = drawn[:2] * unit
    return lambda points: rotated((points - anchor) * sign * factor, drawn[2], (0.0, 0.0)) + anchor + step


def _most_visible(composition: Composition, edits: list[Edit], subject: int, index: int) -> list[Edit]:
    """The candidate that hangs on its owner and shows most of itself outside what was there before, if any does."""
    size = 64
    canvas, owners = draw(composition, size)
    groups = canvas.groups()
    owner_of = np.array([-1, *(figure for figure, _ in owners)])[groups]
    names = ["", *(composition.figures[f].pieces[p].name if f == subject else "" for f, p in owners)]
    twins = np.array([name == composition.figures[subject].pieces[index].name for name in names])[groups]
    whole = area(composition.figures[subject].pieces[index]) * (size / FRAME) ** 2

    def score(edit: Edit) -> float:
        spoilt = replace(composition, figures=edit.figures)
        shown = pixels_of(spoilt, edit.after, size)
        anchor = _first_anchor(edit)
        rooted = owner_of[tuple(np.clip((anchor / 2).astype(int), 0, size - 1)[::-1])] == subject
        fresh = float((shown & (owner_of != subject)).sum()) / whole
        new = float((shown & ~twins).sum()) / whole
        overlaid = float((shown & twins).sum()) / whole
        return 0.5 * min(fresh, 0.6) + min(new, 0.9) - overlaid - 3.0 * outside(edit) - (0.0 if rooted else 1.5)

    scores = [score(edit) for edit in edits]
    best = int(np.argmax(scores))
    return [edits[best]] if scores[best] >= _LEAST_SCORE else []


def _first_anchor(edit: Edit) -> np.ndarray:
    figure, piece = min(edit.after)
    return np.asarray(edit.figures[figure].pieces[piece].anchor)


def _omissions(rng: np.random.Generator, composition: Composition, subject: int) -> Iterator[Edit]:
    figure = composition.figures[subject]
    for index in _pieces_named(rng, figure, _REMOVABLE):
        family = children(figure, index)
        name = figure.pieces[index].name
        pieces = tuple(p for i, p in enumerate(figure.pieces) if i not in family)
        count = sum(p.name == name for p in figure.pieces)
        before = frozenset((subject, i) for i in family)
        words = (name, f"missing {name}", _too_few(figure.kind, name, count))
        yield _edit(composition, subject, pieces, (before, frozenset()), words)


def _distortions(rng: np.random.Generator, composition: Composition, subject: int) -> Iterator[Edit]:
    figure = composition.figures[subject]
    for index in _pieces_named(rng, figure, tuple(_LOOSENESS)):
        name = figure.pieces[index].name
        manners = [m for m in _MANNERS if _suits(m, name)]
        manner = str(rng.choice(manners))
        edits = [_distorted(rng, composition, subject, index, manner)]
        if manner == "misplaced":
            edits += [_distorted(rng, composition, subject, index, manner) for _ in range(_PLACEMENTS)]
            yield from _most_visible(composition, edits, subject, index)
        else:
            yield edits[0]


def _suits(manner: str, name: str) -> bool:
    """Whether an eye would notice: a round part cannot be seen to bend, a limb not to stand on its head."""
    if manner == "overturned":
        return name in _TURNABLE
    return manner != "bent" or name not in ("wheel", "knob", "hand", "beak")


def _distorted(rng: np.random.Generator, composition: Composition, subject: int, index: int, manner: str) -> Edit:
    figure = composition.figures[subject]
    family = children(figure, index)
    piece = figure.pieces[index]
    move = _MANNERS[manner](rng, figure, piece)
    moved = {i: densified(figure.pieces[i]).mapped(move) for i in family}
    after = frozenset((subject, i) for i in family)
    pieces = tuple(moved.get(i, p) for i, p in enumerate(figure.pieces))
    if manner == "misplaced":
        rest = tuple(p for i, p in enumerate(figure.pieces) if i not in family)
        pieces = (*rest, *moved.values())
        after = frozenset((subject, len(rest) + k) for k in range(len(moved)))
    word, sentence = _MANNER_WORDS[manner]
    before = frozenset((subject, i) for i in family)
    words = (piece.name, f"{word} {piece.name}", sentence.format(owner=figure.kind, part=piece.name))
    edit = _edit(composition, subject, pieces, (before, after), words)
    return replace(edit, apart=manner == "misplaced")


def _bent(rng: np.random.Generator, figure: Figure, piece: Piece) -> PointMap:
    return bend(piece, float(rng.choice((-1, 1)) * rng.uniform(95, 150)))


def _melted(rng: np.random.Generator, figure: Figure, piece: Piece) -> PointMap:
    points = np.concatenate([s.points for s in piece.outline()])
    return melt(points, float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(1.1, 1.5)))


def _oversized(rng: np.random.Generator, figure: Figure, piece: Piece) -> PointMap:
    return rescale(piece, float(rng.uniform(1.5, 1.75)))


def _shrunken(rng: np.random.Generator, figure: Figure, piece: Piece) -> PointMap:
    return rescale(piece, float(rng.uniform(0.35, 0.48)))


def _overturned(rng: np.random.Generator, figure: Figure, piece: Piece) -> PointMap:
    points = np.concatenate([s.points for s in piece.outline()])
    return overturn(points, float(rng.uniform(140, 220)))


def _misplaced(rng: np.random.Generator, figure: Figure, piece: Piece) -> PointMap:
    box = figure.extent()
    low, high = box[:2] + 0.2 * (box[2:] - box[:2]), box[2:] - 0.25 * (box[2:] - box[:2])
    target = rng.uniform(low, high)
    step = target - np.asarray(piece.anchor)
    turn = shift(*step)
    angle = float(rng.uniform(-35, 35))
    return lambda points: rotated(turn(points), angle, tuple(target))


_MANNERS: dict[str, Callable[[np.random.Generator, Figure, Piece], PointMap]] = {
    "bent": _bent,
    "melted": _melted,
    "oversized": _oversized,
    "shrunken": _shrunken,
    "overturned": _overturned,
    "misplaced": _misplaced,
}
_MANNER_WORDS: dict[str, tuple[str, str]] = {
    "bent": ("bent", "The {part} of the {owner} curls round in a way no {part} can bend."),
    "melted": ("melted", "The {part} of the {owner} sags and runs out of shape as if it had melted."),
    "oversized": ("oversized", "The {part} of the {owner} is far too big for the rest of it."),
    "shrunken": ("shrunken", "The {part} of the {owner} is far too small for the rest of it."),
    "overturned": ("upside-down", "The {part} of the {owner} is turned upside down."),
    "misplaced": ("misplaced", "The {part} of the {owner} sits in a place where no {part} belongs."),
}


def _fusions(rng: np.random.Generator, composition: Composition, subject: int) -> Iterator[Edit]:
    rear, front = composition.figures
    welded, _ = weld(rear, front)
    names = (composition.figures[subject].kind, composition.figures[1 - subject].kind)
    yield Edit(
        (welded,),
        None,
        frozenset(),
        frozenset(),
        f"{names[0]} fused with {names[1]}",
        f"The {names[0]} and the {names[1]} run into each other and share one body without any edge between them.",
    )


EDITS: dict[str, Callable[[np.random.Generator, Composition, int], Iterator[Edit]]] = {
    "duplication": _duplications,
    "omission": _omissions,
    "distortion": _distortions,
    "fusion": _fusions,
}


def _pieces_named(rng: np.random.Generator, figure: Figure, names: tuple[str, ...]) -> list[int]:
    """Indices of pieces so named in random order, every name equally often in front."""
    present = sorted({p.name for p in figure.pieces if p.name in names})
    order = [str(name) for name in rng.permutation(present)]
    return [int(rng.choice([i for i, p in enumerate(figure.pieces) if p.name == name])) for name in order]


def _edit(
    composition: Composition, subject: int, pieces: tuple[Piece, ...], wrong: tuple[Spots, Spots], words: Words
) -> Edit:
    figures = list(composition.figures)
    figures[subject] = replace(figures[subject], pieces=pieces)
    return Edit(tuple(figures), *words[:1], *wrong, *words[1:])


def _plural(name: str) -> str:
    return {"foot": "feet"}.get(name, f"{name}s")


def _too_many(owner: str, name: str, count: int) -> str:
    usual = f"only {_NUMBERS[count - 1]}"
    return f"The {owner} has {_NUMBERS[count]} {_plural(name)} although there should be {usual}."


def _too_few(owner: str, name: str, count: int) -> str:
    if count == 1:
        return f"The {owner} has no {name} although nothing hides the place where it should be."
    left = _plural(name) if count > 2 else name
    return f"The {owner} has only {_NUMBERS[count - 1]} {left} instead of {_NUMBERS[count]}."

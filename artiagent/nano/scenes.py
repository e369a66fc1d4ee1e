"""Renders clean scenes of the nano world: one to three entities on a background, exact masks, a true caption.

`compose` draws every random decision and returns vectors; `paint` turns vectors into pixels and masks. Faults edit what
lies between the two. Deterministic in the seed.

Seeds never overlap between uses: source images, benchmark and model pre-training each have a range of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from artiagent.nano.backgrounds import FLOORS, GROUNDS, Background, build_background, shadow
from artiagent.nano.canvas import FRAME, Canvas
from artiagent.nano.kinds import BUILDERS, build_figure
from artiagent.nano.kinds.figure import Coat, Figure, Shape
from artiagent.nano.palette import COLOURS, HAIRS, SKINS, TEXTURES, distance, lighten, tint

KINDS: tuple[str, ...] = tuple(BUILDERS)
SOURCE_SEEDS = range(0, 500_000)
BENCH_SEEDS = range(500_000, 1_000_000)
TRAIN_SEEDS = range(1_000_000, 2_000_000_000)

_MARGIN = 2.5
_MIN_CONTRAST = 80.0
_MIN_PART_AREA = 12  # visible px at 128 px below which a part is not listed
_OVERLAP = (0.12, 0.38)
_THINGS = ("car", "teapot", "chair")

_GLUE = "a an background by front in left of on plain shirt sky standing the to under wall"
CAPTION_WORDS: tuple[str, ...] = tuple(
    sorted({*KINDS, *COLOURS, *TEXTURES, *" ".join((_GLUE, *GROUNDS, *FLOORS)).split(" ")})
)


@dataclass(frozen=True)
class RenderedPart:
    """One visible part. `layer`: "peripheral", "intermediate" or "both"; `mask` bool [H, W]: its visible pixels."""

    name: str
    layer: str
    mask: np.ndarray


@dataclass(frozen=True)
class RenderedEntity:
    """One entity. `mask` bool [H, W] holds its visible pixels, parts included; parts are pairwise disjoint."""

    id: int
    name: str
    mask: np.ndarray
    parts: tuple[RenderedPart, ...]
    colour: str
    texture: str


@dataclass(frozen=True)
class RenderedScene:
    """uint8 [H, W, 3] image; entities from the rear to the front; `background` is the tail of the caption."""

    image: np.ndarray
    entities: tuple[RenderedEntity, ...]
    caption: str
    background: str
    seed: int


@dataclass(frozen=True)
class Composition:
    """A scene as vectors in a 128 px frame: figures are placed, rearmost first."""

    background: Background
    shadows: tuple[Shape, ...]
    figures: tuple[Figure, ...]
    caption: str
    seed: int


def render_scene(
    seed: int,
    *,
    size: int = 128,
    kinds: Sequence[str] | None = None,
    entities: int | None = None,
    overlap: bool | None = None,
) -> RenderedScene:
    """Render the clean scene of `seed`.

    `size` in px, at least 32. `kinds` restricts the entities, `entities` (1 to 3) fixes how many, `overlap` whether a
    pair overlaps; left open, about 37 % of scenes hold one entity, 40 % an overlapping pair, 15 % a separate pair, 8 %
    three of which one stands before the others. Raises ValueError for an unknown kind, a size below 32 or contradictory
    wishes.
    """
    return paint(compose(seed, kinds=kinds, entities=entities, overlap=overlap), size)


def compose(
    seed: int, *, kinds: Sequence[str] | None = None, entities: int | None = None, overlap: bool | None = None
) -> Composition:
    """Draw all random decisions of a scene; arguments as in `render_scene`."""
    allowed = _allowed_kinds(kinds)
    rng = np.random.default_rng(seed)
    count, overlapping = _arrangement(rng.random(), entities, overlap)
    place = build_background(rng, rng.uniform(66, 92))
    chosen = [str(rng.choice(allowed)) for _ in range(count)]
    return _composed(rng, chosen, overlapping, place, seed)


def compose_cast(seed: int, attempt: int, cast: Sequence[str], overlapping: bool) -> Composition:
    """A scene of exactly the kinds in `cast`, rearmost first; another `attempt` is another scene of the same seed."""
    rng = np.random.default_rng((seed, attempt))
    place = build_background(rng, rng.uniform(66, 92))
    return _composed(rng, _allowed_kinds(cast), overlapping, place, seed)


def _composed(
    rng: np.random.Generator, cast: list[str], overlapping: bool, place: Background, seed: int
) -> Composition:
    figures = _dressed(rng, cast, place)
    if len(cast) == 1:
        placed = [_place_single(rng, figures[0])]
    elif len(cast) == 3:
        placed = _place_three(rng, figures)
    elif overlapping:
        placed = _place_overlapping(rng, figures)
    else:
        placed = _place_apart(rng, figures)
    shadows = tuple(_shadow_of(figure, place) for figure in placed)
    return Composition(place, shadows, tuple(placed), _caption(placed, overlapping, place.words), seed)


def paint(composition: Composition, size: int = 128) -> RenderedScene:
    """Vectors to pixels. `size` in px."""
    if size < 32:
        raise ValueError(f"a scene of {size} px has parts of under 3 px; ask for at least 32")
    canvas, owners = draw(composition, size)
    groups = canvas.groups()
    owner_of_group = np.array([0, *(figure + 1 for figure, _ in owners)], dtype=np.uint8)
    entity_map = owner_of_group[groups]
    least = _MIN_PART_AREA * (size / FRAME) ** 2
    areas = np.bincount(groups.ravel(), minlength=len(owners) + 1)
    entities = []
    for i, figure in enumerate(composition.figures):
        parts = tuple(
            RenderedPart(figure.pieces[piece].name, figure.pieces[piece].layer, groups == group)
            for group, (owner, piece) in enumerate(owners, start=1)
            if owner == i and figure.pieces[piece].name and areas[group] >= least
        )
        entities.append(RenderedEntity(i, figure.kind, entity_map == i + 1, parts, figure.colour, figure.texture))
    return RenderedScene(
        canvas.image(), tuple(entities), composition.caption, composition.background.words, composition.seed
    )


def draw(composition: Composition, size: int) -> tuple[Canvas, list[tuple[int, int]]]:
    """The drawn canvas, and (figure index, piece index) of its groups 1, 2, ..."""
    canvas = Canvas(size)
    for shape in (*composition.background.shapes, *composition.shadows):
        canvas.add_background(shape)
    owners = []
    for i, figure in enumerate(composition.figures):
        for j, piece in enumerate(figure.pieces):
            canvas.add_piece(piece)
            owners.append((i, j))
    return canvas, owners


def _allowed_kinds(kinds: Sequence[str] | None) -> list[str]:
    allowed = list(KINDS if kinds is None else kinds)
    unknown = sorted(set(allowed) - set(KINDS))
    if unknown or not allowed:
        raise ValueError(f"kinds={kinds!r}: expected a non-empty choice of {', '.join(KINDS)}")
    return allowed


def _arrangement(draw: float, entities: int | None, overlap: bool | None) -> tuple[int, bool]:
    """(number of entities, overlapping) from one uniform draw and the caller's wishes."""
    if entities not in (None, 1, 2, 3):
        raise ValueError(f"entities={entities}: a scene holds 1 to 3")
    if (entities == 1 and overlap) or (entities == 3 and overlap is False):
        raise ValueError(f"entities={entities}, overlap={overlap}: one entity cannot overlap, three always do")
    if entities is not None:
        apart = entities == 1 or (entities == 2 and (overlap is False or (overlap is None and draw >= 0.73)))
        return entities, not apart
    if overlap is not None:
        return (2, True) if overlap else (1 + (draw < 0.25), False)
    return (3, True) if draw >= 0.92 else (1 + (draw < 0.55), draw < 0.40)


def _dressed(rng: np.random.Generator, kinds: list[str], background: Background) -> list[Figure]:
    taken: list[tuple[float, float, float]] = list(background.field)
    figures = []
    for kind in kinds:
        word = _contrasting_colour(rng, taken)
        main = tint(COLOURS[word], rng)
        taken.append(main)
        dark = sum(main) < 330
        accent_word = str(rng.choice([w for w in COLOURS if distance(COLOURS[w], main) > 85]))
        accent = lighten(main, rng.uniform(0.25, 0.45) if dark else -rng.uniform(0.25, 0.4))
        if kind in _THINGS or kind == "person" or rng.random() < 0.35:
            accent = tint(COLOURS[accent_word], rng)
        texture = str(rng.choice(TEXTURES, p=(0.5, 0.25, 0.25)))
        coat = Coat(
            main,
            lighten(main, 0.42 if dark else -0.4),
            texture,
            accent,
            tint(SKINS[rng.integers(len(SKINS))], rng, 5),
            tint(HAIRS[rng.integers(len(HAIRS))], rng, 6),
        )
        figures.append(build_figure(kind, rng, coat, word))
    return figures


def _contrasting_colour(rng: np.random.Generator, taken: list[tuple[float, float, float]]) -> str:
    words = [str(word) for word in rng.permutation(list(COLOURS))]
    clearance = {word: min(distance(COLOURS[word], other) for other in taken) for word in words}
    return next((word for word in words if clearance[word] > _MIN_CONTRAST), max(words, key=clearance.__getitem__))


def _placed(figure: Figure, scale: float, flip: bool, x: float, ground: float) -> Figure:
    """The figure with the middle of its extent at x and its feet at `ground`, px."""
    box = figure.extent()
    middle = (box[0] + box[2]) / 2
    sign = -1.0 if flip else 1.0
    return figure.mapped(lambda p: (p - (middle, 0.0)) * (sign * scale, scale) + (x, ground))


def _scaled_extent(figure: Figure, longest: float) -> tuple[float, float, float]:
    """Scale that makes the long side `longest` px, and the width and height that follow."""
    box = figure.extent()
    width, height = box[2] - box[0], -box[1]
    scale = longest / max(width, height)
    return scale, width * scale, height * scale


def _place_single(rng: np.random.Generator, figure: Figure) -> Figure:
    scale, width, height = _scaled_extent(figure, rng.uniform(88, 112))
    x = rng.uniform(width / 2 + _MARGIN, FRAME - width / 2 - _MARGIN)
    low = max(height + _MARGIN, 104.0)
    return _placed(figure, scale, bool(rng.random() < 0.5), x, rng.uniform(low, max(low, 123.0)))


def _place_apart(rng: np.random.Generator, figures: list[Figure]) -> list[Figure]:
    sizes = [_scaled_extent(figure, rng.uniform(80, 92)) for figure in figures]
    room = FRAME - 2 * _MARGIN - 4
    shrink = min(1.0, room / (sizes[0][1] + sizes[1][1]))
    widths = [width * shrink for _, width, _ in sizes]
    slack = (room - sum(widths)) / 3
    ground = rng.uniform(106, 121)
    centres = (_MARGIN + slack + widths[0] / 2, FRAME - _MARGIN - slack - widths[1] / 2)
    return [
        _placed(figure, size[0] * shrink, bool(rng.random() < 0.5), x, ground + rng.uniform(-3, 3))
        for figure, size, x in zip(figures, sizes, centres, strict=True)
    ]


def _place_overlapping(rng: np.random.Generator, figures: list[Figure]) -> list[Figure]:
    """Rear figure to one side, front figure where it hides a share of the rear one inside _OVERLAP."""
    wanted = rng.uniform(0.16, 0.32)
    flips = rng.random(2) < 0.5
    rear_ground, front_ground = rng.uniform(104, 112), rng.uniform(117, 124)
    to_right = bool(rng.random() < 0.5)
    for longest in np.linspace(rng.uniform(78, 88), 60, 6):
        (s0, w0, h0), (s1, w1, h1) = (_scaled_extent(figure, longest) for figure in figures)
        left, right = _MARGIN + w0 / 2, FRAME - _MARGIN - w0 / 2
        rear = _placed(figures[0], s0, bool(flips[0]), right if to_right else left, rear_ground)
        reach = (_MARGIN + w1 / 2, FRAME - _MARGIN - w1 / 2)
        front = _placed(figures[1], s1, bool(flips[1]), 0.0, front_ground)
        shares = {x: _hidden_share(rear, front, x) for x in np.linspace(*reach, 13)}
        best = min(shares, key=lambda x: abs(shares[x] - wanted))
        if _OVERLAP[0] <= shares[best] <= _OVERLAP[1]:
            return [rear, front.mapped(lambda p, dx=best: p + (dx, 0.0))]
    return [rear, front.mapped(lambda p: p + (best, 0.0))]


def _place_three(rng: np.random.Generator, figures: list[Figure]) -> list[Figure]:
    """Two at the sides, the third before them in the middle, where it hides a little of both."""
    sizes = [_scaled_extent(figure, longest) for figure, longest in zip(figures, (60, 60, 64), strict=True)]
    grounds = (*rng.uniform(98, 106, 2), rng.uniform(119, 124))
    centres = (
        _MARGIN + sizes[0][1] / 2 + rng.uniform(0, 4),
        FRAME - _MARGIN - sizes[1][1] / 2 - rng.uniform(0, 4),
        FRAME / 2 + rng.uniform(-7, 7),
    )
    return [
        _placed(figure, size[0], bool(rng.random() < 0.5), x, ground)
        for figure, size, x, ground in zip(figures, sizes, centres, grounds, strict=True)
    ]


def _hidden_share(rear: Figure, front: Figure, dx: float) -> float:
    behind, before = _silhouette(rear, 0.0), _silhouette(front, dx)
    return float((behind & before).sum() / behind.sum())


def _silhouette(figure: Figure, dx: float) -> np.ndarray:
    """bool [64, 64] at half resolution: placement needs no more."""
    stencil = Image.new("L", (FRAME // 2,) * 2)
    pen = ImageDraw.Draw(stencil)
    for piece in figure.pieces:
        for shape in piece.outline():
            pen.polygon(((shape.points + (dx, 0.0)) / 2).ravel().tolist(), fill=1)
    return np.asarray(stencil, dtype=bool)


def _shadow_of(figure: Figure, background: Background) -> Shape:
    box = figure.extent()
    return shadow(background.ground, (box[0] + box[2]) / 2, box[3] - 1.0, (box[2] - box[0]) * 0.46)


def _caption(figures: list[Figure], overlapping: bool, place: str) -> str:
    if len(figures) == 1:
        return f"{_describe(figures[0])} {'' if figures[0].kind in _THINGS else 'standing '}{place}"
    if len(figures) == 3:
        left, right, front = (_brief(figure) for figure in figures)
        return f"{front} in front of {left} to the left of {right} {place}"
    if overlapping:
        return f"{_describe(figures[1])} in front of {_describe(figures[0])} {place}"
    return f"{_describe(figures[0])} to the left of {_describe(figures[1])} {place}"


def _brief(figure: Figure) -> str:
    """Three of them must fit into a caption."""
    return "a person" if figure.kind == "person" else _describe(replace(figure, texture="plain"))


def _describe(figure: Figure) -> str:
    words = figure.colour if figure.texture == "plain" else f"{figure.colour} {figure.texture}"
    article = "an" if words[0] in "aeiou" else "a"
    return f"a person in {article} {words} shirt" if figure.kind == "person" else f"{article} {words} {figure.kind}"

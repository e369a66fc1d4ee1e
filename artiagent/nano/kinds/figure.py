"""Vector anatomy: an entity is a list of pieces, a piece a list of filled polygons.

Everything is a polygon, so that a fault can move, bend, melt or repeat any piece by mapping its points. Coordinates are
local: pixels of a 128 px image at scale 1, x to the right (the way the entity faces), y down, origin on the ground
below the middle of the entity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from artiagent.nano.palette import RGB, lighten

Points = np.ndarray  # float [N, 2], (x, y)


@dataclass(frozen=True)
class Blend:
    """A two-colour run along the segment start -> end, used where one body fades into another."""

    start: tuple[float, float]
    end: tuple[float, float]
    rgb: RGB
    rgb_end: RGB


@dataclass(frozen=True)
class Shape:
    """One filled polygon; `shade` scales the soft light.

    `clip` keeps it inside the unclipped shapes of its piece, `over` inside all that the piece has drawn before.
    """

    points: Points
    rgb: RGB
    clip: bool = False
    over: bool = False
    shade: float = 1.0
    blend: Blend | None = None


@dataclass(frozen=True)
class Piece:
    """One drawn part, or the body when `name` is empty.

    `anchor` is the joint to the parent, `tip` the far end; both local. `layer` as in `RenderedPart`.
    """

    name: str
    layer: str
    shapes: tuple[Shape, ...]
    anchor: tuple[float, float] = (0.0, 0.0)
    tip: tuple[float, float] = (0.0, 0.0)
    parent: str = ""

    def outline(self) -> list[Shape]:
        """The shapes that make up its silhouette."""
        return [shape for shape in self.shapes if not (shape.clip or shape.over)]

    def mapped(self, move: Callable[[Points], Points]) -> Piece:
        """The piece with every point moved by `move` ([N, 2] -> [N, 2])."""
        shapes = tuple(
            replace(shape, points=move(shape.points), blend=_moved(shape.blend, move)) for shape in self.shapes
        )
        ends = move(np.array([self.anchor, self.tip], dtype=float))
        return replace(self, shapes=shapes, anchor=tuple(ends[0]), tip=tuple(ends[1]))


@dataclass(frozen=True)
class Figure:
    """One entity: pieces from the rearmost to the foremost, with the words that describe it."""

    kind: str
    colour: str
    texture: str
    pieces: tuple[Piece, ...]

    def mapped(self, move: Callable[[Points], Points]) -> Figure:
        return replace(self, pieces=tuple(piece.mapped(move) for piece in self.pieces))

    def extent(self) -> np.ndarray:
        """Bounding box (x0, y0, x1, y1) of all points."""
        points = np.concatenate([shape.points for piece in self.pieces for shape in piece.outline()])
        return np.concatenate([points.min(0), points.max(0)])


@dataclass(frozen=True)
class Coat:
    """What an entity is dressed in: its main colour, the colour of its marks, its texture word and accents."""

    main: RGB
    marks: RGB
    texture: str
    accent: RGB
    skin: RGB
    hair: RGB
    far: RGB = field(init=False)  # limbs on the far side

    def __post_init__(self) -> None:
        object.__setattr__(self, "far", lighten(self.main, -0.22))


def _moved(blend: Blend | None, move: Callable[[Points], Points]) -> Blend | None:
    if blend is None:
        return None
    ends = move(np.array([blend.start, blend.end], dtype=float))
    return replace(blend, start=tuple(ends[0]), end=tuple(ends[1]))


def ellipse(cx: float, cy: float, rx: float, ry: float, turn: float = 0.0, *, n: int = 28) -> Points:
    """Ellipse, `turn` in degrees clockwise on screen."""
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    flat = np.stack([rx * np.cos(angle), ry * np.sin(angle)], 1)
    return flat @ rotation(turn).T + (cx, cy)


def rotation(degrees: float) -> np.ndarray:
    """[2, 2] matrix, clockwise on screen (y points down)."""
    a = np.deg2rad(degrees)
    return np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])


def rotated(points: Points, degrees: float, pivot: tuple[float, float]) -> Points:
    return (points - pivot) @ rotation(degrees).T + pivot


def blob(*corners: tuple[float, float], n: int = 6) -> Points:
    """Closed Catmull-Rom curve through the corners, n points a side."""
    p1 = np.asarray(corners, dtype=float)
    p0, p2, p3 = np.roll(p1, 1, 0), np.roll(p1, -1, 0), np.roll(p1, -2, 0)
    return _catmull_rom(p0, p1, p2, p3, n)


def _catmull_rom(p0: Points, p1: Points, p2: Points, p3: Points, n: int) -> Points:
    t = np.linspace(0, 1, n, endpoint=False)[None, :, None]
    p0, p1, p2, p3 = (p[:, None] for p in (p0, p1, p2, p3))
    curve = 2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    return curve.reshape(-1, 2) / 2


def tube(spine: list[tuple[float, float]], radii: tuple[float, float], n: int = 6) -> Points:
    """Round-ended limb along a smooth spine; the radius runs linearly from the first to the second."""
    knots = np.asarray(spine, dtype=float)
    padded = np.concatenate([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])
    line = np.concatenate([_catmull_rom(padded[:-3], padded[1:-2], padded[2:-1], padded[3:], n), knots[-1:]])
    along = np.gradient(line, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-9
    radius = np.linspace(radii[0], radii[1], len(line))[:, None]
    side = np.stack([-along[:, 1], along[:, 0]], 1) * radius
    end = _cap(line[-1], along[-1], radii[1])
    start = _cap(line[0], -along[0], radii[0])
    return np.concatenate([line + side, end, (line - side)[::-1], start])


def _cap(centre: np.ndarray, outward: np.ndarray, radius: float) -> Points:
    """Half circle from the left side of `outward` round to its right side."""
    angle = np.linspace(np.pi / 2, -np.pi / 2, 7)[1:-1]
    left = np.array([-outward[1], outward[0]])
    return centre + radius * (np.cos(angle)[:, None] * outward + np.sin(angle)[:, None] * left)


def box(x0: float, y0: float, x1: float, y1: float, r: float = 0.0) -> Points:
    """Rectangle with corners rounded by radius r."""
    quarter = np.linspace(0, np.pi / 2, 5)
    arc = np.stack([np.cos(quarter), np.sin(quarter)], 1) * r
    corners = [((x1 - r, y1 - r), 0), ((x0 + r, y1 - r), 90), ((x0 + r, y0 + r), 180), ((x1 - r, y0 + r), 270)]
    return np.concatenate([arc @ rotation(turn).T + centre for centre, turn in corners])


def marks(area: tuple[float, float, float, float], coat: Coat, rng: np.random.Generator) -> tuple[Shape, ...]:
    """Stripes or spots over the box `area` (x0, y0, x1, y1), to be clipped to the piece; nothing for a plain coat."""
    x0, y0, x1, y1 = area
    if coat.texture == "striped":
        step = rng.uniform(10.5, 13.5)
        lean = rng.uniform(-5, 5)
        starts = np.arange(x0 + rng.uniform(2, 6), x1, step)
        bars = [np.array([(x, y0), (x + 5, y0), (x + 5 + lean, y1), (x + lean, y1)]) for x in starts]
        return tuple(Shape(bar, coat.marks, clip=True, shade=0.5) for bar in bars)
    if coat.texture == "spotted":
        spots = []
        for x in np.arange(x0 + 5, x1, 14.0):
            for k, y in enumerate(np.arange(y0 + 4, y1, 13.0)):
                r = rng.uniform(3.2, 5.0)
                spots.append(ellipse(x + 7 * (k % 2) + rng.uniform(-2, 2), y + rng.uniform(-2, 2), r, r * 0.9, n=12))
        return tuple(Shape(spot, coat.marks, clip=True, shade=0.5) for spot in spots)
    return ()


def eye(x: float, y: float, r: float = 3.4) -> tuple[Shape, ...]:
    """White, pupil and highlight."""
    return (
        Shape(ellipse(x, y, r, r * 1.1, n=14), (250, 250, 248), shade=0.0),
        Shape(ellipse(x + 0.5, y + 0.3, r * 0.66, r * 0.74, n=12), (34, 28, 40), shade=0.0),
        Shape(ellipse(x - 0.3, y - 0.9, r * 0.26, r * 0.26, n=8), (255, 255, 255), shade=0.0),
    )

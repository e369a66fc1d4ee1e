"""Places: meadow, beach, snow, street, room, plain; each a list of background shapes and the words for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from artiagent.nano.kinds.figure import Blend, Shape, box, ellipse
from artiagent.nano.palette import RGB, lighten, mix, tint

SKIES: dict[str, tuple[RGB, RGB]] = {
    "blue": ((96, 168, 228), (206, 232, 244)),
    "orange": ((238, 144, 92), (252, 218, 160)),
    "pink": ((216, 142, 190), (250, 214, 210)),
    "grey": ((158, 170, 184), (214, 220, 224)),
}
GROUNDS: dict[str, RGB] = {
    "grass": (126, 186, 92),
    "sand": (230, 204, 148),
    "snow": (236, 242, 248),
    "a road": (150, 150, 158),
}
WALLS: dict[str, RGB] = {
    "yellow": (246, 226, 160),
    "pink": (242, 196, 200),
    "blue": (176, 206, 232),
    "green": (184, 214, 184),
    "white": (240, 238, 230),
}
FLOORS: dict[str, RGB] = {
    "a wooden floor": (196, 148, 104),
    "a grey carpet": (164, 164, 176),
    "a red carpet": (192, 104, 98),
}
PLAINS: dict[str, RGB] = {
    "yellow": (246, 222, 150),
    "blue": (166, 204, 234),
    "green": (174, 212, 170),
    "pink": (244, 196, 206),
    "grey": (204, 206, 212),
    "white": (242, 240, 234),
}


@dataclass(frozen=True)
class Background:
    """Shapes in 128 px coordinates, rearmost first; `words` finish a caption; entities avoid the colours of `field`."""

    shapes: tuple[Shape, ...]
    words: str
    field: tuple[RGB, ...]
    ground: RGB


def build_background(rng: np.random.Generator, horizon: float) -> Background:
    """A random place whose ground begins `horizon` px below the top of a 128 px image."""
    draw = rng.random()
    if draw < 0.55:
        return _outdoors(rng, horizon)
    return _room(rng, horizon) if draw < 0.85 else _plain(rng)


def _run(points: np.ndarray, top: RGB, bottom: RGB) -> Shape:
    low, high = points.min(0), points.max(0)
    return Shape(points, top, blend=Blend((0.0, float(low[1])), (0.0, float(high[1])), top, bottom))


def _outdoors(rng: np.random.Generator, horizon: float) -> Background:
    sky = str(rng.choice(list(SKIES)))
    place = str(rng.choice(list(GROUNDS)))
    top, low = (tint(rgb, rng, 6) for rgb in SKIES[sky])
    ground = tint(GROUNDS[place], rng, 6)
    shapes = [_run(box(0, 0, 128, horizon + 4), top, low)]
    shapes += _sun(rng, sky, horizon) + _clouds(rng, low, horizon)
    if place in ("grass", "snow") and rng.random() < 0.6:
        shapes += _hills(rng, mix(ground, low, 0.35), horizon)
    if place == "sand":
        shapes.append(_run(box(0, horizon - 9, 128, horizon + 2), (92, 160, 194), (150, 204, 214)))
    shapes.append(_run(box(0, horizon, 128, 128), lighten(ground, 0.12), lighten(ground, -0.12)))
    shapes += _ground_marks(rng, place, ground, horizon)
    return Background(tuple(shapes), f"on {place} under {_an(sky)} {sky} sky", (mix(top, low, 0.5), ground), ground)


def _sun(rng: np.random.Generator, sky: str, horizon: float) -> list[Shape]:
    if sky == "grey" or rng.random() < 0.5:
        return []
    x, y, r = rng.uniform(12, 116), rng.uniform(12, max(14.0, horizon * 0.4)), rng.uniform(7, 10)
    return [Shape(ellipse(x, y, r, r), (254, 232, 150), shade=0.3)]


def _clouds(rng: np.random.Generator, low: RGB, horizon: float) -> list[Shape]:
    clouds = []
    for _ in range(rng.integers(0, 3)):
        x, y, w = rng.uniform(10, 118), rng.uniform(8, max(10.0, horizon * 0.5)), rng.uniform(9, 14)
        rgb = lighten(low, 0.55)
        puffs = ((-w * 0.7, 0, w * 0.6), (w * 0.7, 0.5, w * 0.55), (0, -w * 0.25, w * 0.8))
        clouds += [Shape(ellipse(x + dx, y + dy, r, r * 0.62, n=18), rgb, shade=0.0) for dx, dy, r in puffs]
    return clouds


def _hills(rng: np.random.Generator, rgb: RGB, horizon: float) -> list[Shape]:
    hills = []
    for k in range(2):
        x, w, h = rng.uniform(-10, 138), rng.uniform(40, 70), rng.uniform(10, 22)
        hills.append(Shape(ellipse(x, horizon + 3, w, h), lighten(rgb, -0.06 * k), shade=0.4))
    return hills


def _ground_marks(rng: np.random.Generator, place: str, ground: RGB, horizon: float) -> list[Shape]:
    if place == "a road":
        y = horizon + (128 - horizon) * 0.42
        dashes = np.arange(rng.uniform(-20, 0), 128, 34)
        return [
            Shape(np.array([(x + 3, y), (x + 19, y), (x + 16, y + 4), (x, y + 4)]), (232, 228, 214), shade=0.0)
            for x in dashes
        ]
    shapes = []
    for _ in range(9):
        x, y = rng.uniform(2, 126), rng.uniform(horizon + 5, 126)
        if place == "grass":
            blades = np.array(
                [
                    (x - 4, y),
                    (x - 3, y - 5),
                    (x - 1, y - 1),
                    (x + 0.5, y - 6),
                    (x + 2, y - 1),
                    (x + 4, y - 4),
                    (x + 4, y),
                ]
            )
            shapes.append(Shape(blades, lighten(ground, -0.17), shade=0.0))
        else:
            shapes.append(Shape(ellipse(x, y, rng.uniform(4, 8), 1.4, n=12), lighten(ground, -0.1), shade=0.0))
    return shapes


def _room(rng: np.random.Generator, horizon: float) -> Background:
    wall_word, floor_word = str(rng.choice(list(WALLS))), str(rng.choice(list(FLOORS)))
    wall, floor = tint(WALLS[wall_word], rng, 6), tint(FLOORS[floor_word], rng, 6)
    shapes = [_run(box(0, 0, 128, horizon + 4), lighten(wall, 0.12), lighten(wall, -0.07))]
    shapes += _wall_marks(rng, wall, horizon)
    shapes.append(Shape(box(0, horizon - 4, 128, horizon + 1), lighten(wall, 0.45), shade=0.0))
    shapes.append(_run(box(0, horizon, 128, 128), lighten(floor, -0.05), lighten(floor, 0.08)))
    if floor_word == "a wooden floor":
        middle = rng.uniform(50, 78)
        for k in np.arange(-5, 6):
            near, far = middle + k * 30, middle + k * 19
            board = np.array([(far - 0.3, horizon), (far + 0.3, horizon), (near + 0.7, 128), (near - 0.7, 128)])
            shapes.append(Shape(board, lighten(floor, -0.2), shade=0.0))
    return Background(tuple(shapes), f"on {floor_word} by a {wall_word} wall", (wall, floor), floor)


def _wall_marks(rng: np.random.Generator, wall: RGB, horizon: float) -> list[Shape]:
    draw = rng.random()
    if draw < 0.35:
        step = rng.uniform(13, 18)
        bars = np.arange(rng.uniform(0, step), 128, step)
        return [Shape(box(x, 0, x + step * 0.4, horizon), lighten(wall, -0.06), shade=0.0) for x in bars]
    if draw < 0.7:
        x, y = rng.uniform(4, 90), rng.uniform(6, 14)
        frame, pane = lighten(wall, 0.5), (170, 214, 236)
        glass = [box(x + 3 + dx, y + 3 + dy, x + 15 + dx, y + 14 + dy) for dx in (0, 14) for dy in (0, 13)]
        return [Shape(box(x, y, x + 32, y + 30), frame, shade=0.2), *(Shape(g, pane, shade=0.3) for g in glass)]
    return []


def _plain(rng: np.random.Generator) -> Background:
    word = str(rng.choice(list(PLAINS)))
    rgb = tint(PLAINS[word], rng, 6)
    shape = Shape(
        box(0, 0, 128, 128), rgb, blend=Blend((30.0, 0.0), (98.0, 128.0), lighten(rgb, 0.15), lighten(rgb, -0.1))
    )
    return Background((shape,), f"on a plain {word} background", (rgb,), rgb)


def shadow(ground: RGB, x: float, y: float, width: float) -> Shape:
    """The soft shadow an entity throws on the ground."""
    return Shape(ellipse(x, y, width, max(3.0, width * 0.09)), lighten(ground, -0.24), shade=0.0)


def _an(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"

"""Car, teapot and chair."""

from __future__ import annotations

import numpy as np

from artiagent.nano.kinds.figure import Coat, Piece, Shape, blob, box, ellipse, marks, tube
from artiagent.nano.palette import RGB, lighten

_GLASS: RGB = (176, 214, 230)
_RUBBER: RGB = (58, 56, 64)


def car(rng: np.random.Generator, coat: Coat) -> list[Piece]:
    roof = -70 - rng.uniform(-3, 5)
    wheels = [_wheel(x, rng.uniform(0, 60)) for x in (-32, 34)]
    hull = np.array(
        [
            (-53, -20),
            (-54, -42),
            (-46, -46),
            (-36, -48),
            (-27, roof + 3),
            (-21, roof),
            (17, roof),
            (23, roof + 3),
            (38, -47),
            (52, -43),
            (55, -34),
            (55, -20),
            (50, -15),
            (-49, -15),
        ],
        dtype=float,
    )
    panes = [
        np.array([(-31, -48), (-23, roof + 5), (-15, roof + 5), (-15, -48)]),
        np.array([(20, -48), (20, roof + 6), (33, -48)]),
    ]
    body = Piece(
        "",
        "",
        (
            Shape(hull, coat.main),
            *marks((-52, -44, 54, -17), coat, rng),
            *(Shape(pane, _GLASS, clip=True, shade=0.5) for pane in panes),
            Shape(box(-56, -24, 57, -15), lighten(coat.main, -0.35), clip=True, shade=0.4),
            Shape(ellipse(52, -35, 4.4, 5), (252, 236, 170), clip=True, shade=0.3),
            Shape(box(-56, -40, -50, -31, 1), (190, 48, 52), clip=True, shade=0.2),
        ),
    )
    door = Piece(
        "door",
        "intermediate",
        (
            Shape(
                blob(
                    (-12, -20),
                    (-12, -46),
                    (-11, roof + 4),
                    (4, roof + 3),
                    (17, roof + 4),
                    (18, -46),
                    (16, -20),
                    (2, -18),
                    n=3,
                ),
                coat.accent,
            ),
            Shape(box(-8, roof + 8, 14, -49, 2), _GLASS, shade=0.5),
            Shape(box(-8, -43, 0, -39, 1.5), (236, 234, 228), shade=0.3),
        ),
        anchor=(3, -44),
        tip=(3, roof + 4),
    )
    return [body, door, *wheels]


def _wheel(x: float, turn: float) -> Piece:
    r = 15.0
    spokes = [
        Shape(
            tube([(x, -r), tuple(np.array([x, -r]) + 6.5 * np.array([np.cos(a), np.sin(a)]))], (1.3, 1.3), n=2),
            (120, 122, 132),
            shade=0.0,
        )
        for a in np.deg2rad(turn + np.arange(0, 360, 90))
    ]
    shapes = (
        Shape(ellipse(x, -r, r, r), _RUBBER, shade=0.8),
        Shape(ellipse(x, -r, r * 0.58, r * 0.58), (206, 208, 214), shade=0.6),
        *spokes,
        Shape(ellipse(x, -r, 2.4, 2.4, n=10), _RUBBER, shade=0.0),
    )
    return Piece("wheel", "peripheral", shapes, anchor=(x, -r - 4), tip=(x, 0))


def teapot(rng: np.random.Generator, coat: Coat) -> list[Piece]:
    wide, lift = rng.uniform(29, 33), rng.uniform(-5, 5)
    trim = coat.accent
    spout = Piece(
        "spout",
        "peripheral",
        (
            Shape(
                tube([(wide - 8, -28), (wide + 9, -35), (wide + 13, -51), (wide + 22, -60 + lift)], (11, 6.2)),
                coat.main,
            ),
            Shape(ellipse(wide + 24, -62 + lift, 6.6, 4.6, 38), trim, shade=0.4),
        ),
        anchor=(wide - 6, -30),
        tip=(wide + 24, -62 + lift),
    )
    handle = Piece(
        "handle",
        "peripheral",
        (
            Shape(
                tube(
                    [(-wide + 5, -52), (-wide - 12, -58), (-wide - 21, -44), (-wide - 17, -27), (-wide + 4, -22)],
                    (6, 6),
                    n=7,
                ),
                trim,
            ),
        ),
        anchor=(-wide + 4, -38),
        tip=(-wide - 21, -42),
    )
    body = Piece(
        "",
        "",
        (
            Shape(box(-17, -8, 17, 0, 3), lighten(trim, -0.15)),
            Shape(ellipse(0, -35, wide, 30), coat.main),
            *marks((-wide, -56, wide, -14), coat, rng),
        ),
    )
    lid = Piece(
        "lid",
        "intermediate",
        (Shape(blob((-21, -58), (-16, -67), (0, -72), (16, -67), (21, -58), (0, -55)), trim),),
        anchor=(0, -58),
        tip=(0, -71),
    )
    knob = Piece(
        "knob",
        "peripheral",
        (Shape(ellipse(0, -78, 8.2, 8.2), coat.main),),
        anchor=(0, -71),
        tip=(0, -85),
        parent="lid",
    )
    return [spout, handle, body, lid, knob]


def chair(rng: np.random.Generator, coat: Coat) -> list[Piece]:
    wood = coat.accent
    tall, lean = rng.uniform(-6, 4), rng.uniform(-3, 3)
    legs = []
    for x, top, ground, far in ((-11, -46, -10, True), (35, -46, -10, True), (-31, -38, 0, False), (15, -38, 0, False)):
        rgb = lighten(wood, -0.22) if far else wood
        legs.append(
            Piece("leg", "both", (Shape(box(x - 5.5, top, x + 5.5, ground, 3), rgb),), anchor=(x, top), tip=(x, ground))
        )
    top = -96 + tall
    back_outline = blob(
        (-18 + lean, top + 5),
        (-10 + lean, top),
        (32 + lean, top),
        (40 + lean, top + 5),
        (42, top + 30),
        (41, -54),
        (-17, -54),
        (-18, top + 30),
        n=4,
    )
    back = Piece(
        "back",
        "intermediate",
        (
            Shape(back_outline, wood),
            Shape(box(-10, top + 8, 33, -66, 5), coat.main, shade=0.7),
        ),
        anchor=(12, -54),
        tip=(12 + lean, top),
    )
    seat = Piece(
        "",
        "",
        (
            Shape(np.array([(-38, -38), (22, -38), (43, -54), (-18, -54)], dtype=float), coat.main),
            *marks((-36, -56, 44, -38), coat, rng),
            Shape(
                np.array([(-38, -38), (22, -38), (22, -30), (-38, -30)], dtype=float),
                lighten(coat.main, -0.2),
                shade=0.3,
            ),
            Shape(
                np.array([(22, -38), (43, -54), (43, -46), (22, -30)], dtype=float),
                lighten(coat.main, -0.34),
                shade=0.2,
            ),
        ),
    )
    return [*legs[:2], back, seat, *legs[2:]]

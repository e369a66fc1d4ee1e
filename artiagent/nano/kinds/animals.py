"""Dog, cat, horse and elephant, seen from the side with the face turned to the reader."""

from __future__ import annotations

import numpy as np

from artiagent.nano.kinds.figure import Coat, Piece, Shape, blob, ellipse, eye, marks, tube
from artiagent.nano.palette import RGB, lighten

_DARK: RGB = (52, 42, 50)


def _legs(
    rng: np.random.Generator, coat: Coat, xs: tuple[float, ...], top: float, r: float, *, foot: RGB
) -> tuple[list[Piece], list[Piece]]:
    """Far and near legs; `xs` = (rear near, rear far, front far, front near)."""
    stride = rng.uniform(-2.5, 2.5, 4)
    near: list[Piece] = []
    far: list[Piece] = []
    for i, x in enumerate(xs):
        is_far = i in (1, 2)
        ground = -r - (3.5 if is_far else 0.0)
        end = (x + stride[i], ground + r * 0.35)
        paw = blob(
            (end[0] - r, end[1] + r * 0.65),
            (end[0] - r * 0.9, end[1] - r * 0.5),
            (end[0] + r * 0.9, end[1] - r * 0.5),
            (end[0] + r * 1.12, end[1] + r * 0.65),
        )
        rgb = coat.far if is_far else coat.main
        shapes = (
            Shape(tube([(x, top), ((x + end[0]) / 2, (top + end[1]) / 2), end], (r * 1.1, r * 0.92)), rgb),
            Shape(paw, lighten(foot, -0.15) if is_far else foot, shade=0.6),
        )
        (far if is_far else near).append(Piece("leg", "both", shapes, anchor=(x, top), tip=end))
    return far, near


def torso(rng: np.random.Generator, coat: Coat, outline: np.ndarray, belly: np.ndarray | None) -> Piece:
    low, high = outline.min(0), outline.max(0)
    shapes = [Shape(outline, coat.main)]
    if belly is not None and coat.texture == "plain":
        shapes.append(Shape(belly, lighten(coat.main, 0.3), clip=True, shade=0.4))
    shapes += marks((low[0], low[1], high[0], high[1]), coat, rng)
    return Piece("", "", tuple(shapes))


def dog(rng: np.random.Generator, coat: Coat) -> list[Piece]:
    nod, tall = rng.uniform(-4, 3), rng.uniform(-3, 4)
    wag = rng.uniform(-7, 7)
    far, near = _legs(rng, coat, (-33, -12, 9, 31), -30, 7.0, foot=lighten(coat.main, 0.35))
    y = -50 - tall
    body = blob(
        (-39, y - 2),
        (-32, y - 15),
        (0, y - 13),
        (18, y - 28),
        (36, y - 26),
        (41, y - 2),
        (32, y + 16),
        (-4, y + 14),
        (-34, y + 16),
    )
    hx, hy = 33 + rng.uniform(-2, 2), y - 30 + nod
    ear_rgb = coat.accent
    tail = Piece(
        "tail",
        "peripheral",
        (
            Shape(tube([(-35, y - 6), (-46, y - 16), (-51 + wag, y - 40)], (7.5, 6.5)), coat.main),
            Shape(ellipse(-51 + wag, y - 43, 6.4, 6.4), ear_rgb, shade=0.6),
        ),
        anchor=(-35, y - 6),
        tip=(-51 + wag, y - 42),
    )
    head = Piece(
        "head",
        "intermediate",
        (
            Shape(
                blob(
                    (hx - 17, hy - 4),
                    (hx - 12, hy - 17),
                    (hx + 6, hy - 19),
                    (hx + 16, hy - 8),
                    (hx + 19, hy + 8),
                    (hx + 8, hy + 17),
                    (hx - 10, hy + 15),
                ),
                coat.main,
            ),
            *marks((hx - 17, hy - 18, hx + 4, hy - 8), coat, rng),
            Shape(ellipse(hx + 10, hy + 8, 12, 9), lighten(coat.main, 0.4), shade=0.5),
            Shape(ellipse(hx + 16, hy + 3, 4.8, 3.8), _DARK, shade=0.4),
            Shape(
                tube([(hx + 4, hy + 10), (hx + 9, hy + 12.5), (hx + 15, hy + 10)], (0.9, 0.9), n=4), _DARK, shade=0.0
            ),
            *eye(hx - 3, hy - 5),
            *eye(hx + 8, hy - 7),
        ),
        anchor=(hx - 4, hy + 12),
        tip=(hx, hy - 18),
    )
    ears = [
        Piece(
            "ear",
            "peripheral",
            (
                Shape(
                    tube([(hx + sx, hy - 13), (hx + sx * 1.75, hy - 17), (hx + sx * 2.15, hy + drop)], (6.0, 8.5)),
                    ear_rgb,
                ),
            ),
            anchor=(hx + sx, hy - 13),
            tip=(hx + sx * 2.15, hy + drop),
            parent="head",
        )
        for sx, drop in ((-11, -1), (11, -5))
    ]
    belly = ellipse(-2, y + 17, 34, 9)
    return [*far, tail, torso(rng, coat, body, belly), *near, ears[1], head, ears[0]]


def cat(rng: np.random.Generator, coat: Coat) -> list[Piece]:
    nod, sway = rng.uniform(-4, 3), rng.uniform(-6, 5)
    far, near = _legs(rng, coat, (-31, -11, 9, 30), -28, 6.8, foot=lighten(coat.main, 0.45))
    body = blob((-39, -44), (-30, -57), (0, -54), (24, -60), (39, -50), (38, -36), (26, -28), (-6, -28), (-33, -27))
    hx, hy = 33 + rng.uniform(-2, 2), -67 + nod
    inner = (238, 160, 160)
    tail = Piece(
        "tail",
        "peripheral",
        (
            Shape(tube([(-33, -44), (-48, -48), (-51 + sway / 2, -68), (-43 + sway, -86)], (7, 6.2)), coat.main),
            Shape(ellipse(-43 + sway, -89, 6.2, 6.2), coat.accent, shade=0.6),
        ),
        anchor=(-33, -44),
        tip=(-43 + sway, -88),
    )
    head = Piece(
        "head",
        "intermediate",
        (
            Shape(
                blob(
                    (hx - 19, hy + 3),
                    (hx - 15, hy - 12),
                    (hx, hy - 16),
                    (hx + 15, hy - 12),
                    (hx + 19, hy + 3),
                    (hx + 11, hy + 14),
                    (hx - 11, hy + 14),
                ),
                coat.main,
            ),
            *marks((hx - 12, hy - 17, hx + 14, hy - 9), coat, rng),
            Shape(ellipse(hx + 3, hy + 7.5, 9.5, 6.5), lighten(coat.main, 0.5), shade=0.4),
            Shape(np.array([(hx, hy + 3.0), (hx + 6, hy + 3.0), (hx + 3, hy + 6.5)]), (226, 110, 122), shade=0.2),
            *eye(hx - 6, hy - 3, 4.0),
            *eye(hx + 10, hy - 3, 4.0),
        ),
        anchor=(hx - 4, hy + 11),
        tip=(hx, hy - 15),
    )
    ears = []
    for side in (1, -1):
        x = hx + side * 12
        outer = np.array(
            [
                (x - 9, hy - 8),
                (x - 8, hy - 15),
                (x + side * 6 - 1, hy - 33),
                (x + side * 6 + 1, hy - 33),
                (x + 8, hy - 15),
                (x + 9, hy - 8),
            ]
        )
        fold = np.array([(x - 4.5, hy - 12), (x + side * 4.4, hy - 27), (x + 4.5, hy - 12)])
        ears.append(
            Piece(
                "ear",
                "peripheral",
                (Shape(outer, coat.accent), Shape(fold, inner, shade=0.4)),
                anchor=(x, hy - 10),
                tip=(x + side * 6, hy - 33),
                parent="head",
            )
        )
    return [*far, tail, torso(rng, coat, body, ellipse(-2, -26, 32, 8)), *near, *ears, head]


def horse(rng: np.random.Generator, coat: Coat) -> list[Piece]:
    nod, swing = rng.uniform(-4, 4), rng.uniform(-4, 6)
    far, near = _legs(rng, coat, (-32, -12, 8, 28), -42, 6.4, foot=_DARK)
    body = blob(
        (-38, -55), (-30, -70), (-4, -66), (12, -72), (24, -96), (40, -92), (37, -66), (31, -46), (0, -42), (-32, -44)
    )
    hx, hy = 35, -95 + nod
    mane = tube([(22, -100 + nod), (14, -82), (6, -68)], (5.5, 4.5))
    tail = Piece(
        "tail",
        "peripheral",
        (Shape(tube([(-35, -62), (-47, -60), (-52 - swing / 2, -44), (-53 - swing, -26)], (5.5, 8.0)), coat.accent),),
        anchor=(-35, -62),
        tip=(-53 - swing, -22),
    )
    head = Piece(
        "head",
        "intermediate",
        (
            Shape(
                blob(
                    (hx - 13, hy - 3),
                    (hx - 7, hy - 13),
                    (hx + 6, hy - 12),
                    (hx + 20, hy + 1),
                    (hx + 26, hy + 13),
                    (hx + 19, hy + 21),
                    (hx + 4, hy + 14),
                    (hx - 9, hy + 10),
                ),
                coat.main,
            ),
            *marks((hx - 12, hy - 12, hx + 2, hy + 12), coat, rng),
            Shape(
                blob((hx + 15, hy + 6), (hx + 25, hy + 8), (hx + 26, hy + 17), (hx + 17, hy + 21), (hx + 9, hy + 15)),
                lighten(coat.main, 0.42),
                clip=True,
                shade=0.4,
            ),
            Shape(ellipse(hx + 20, hy + 11, 1.9, 1.5, n=10), _DARK, shade=0.0),
            *eye(hx + 4, hy - 3, 3.6),
        ),
        anchor=(hx - 6, hy + 6),
        tip=(hx + 22, hy + 14),
    )
    ears = [
        Piece(
            "ear",
            "peripheral",
            (
                Shape(
                    blob((x - 7, hy - 7), (x - 7.5, hy - 18), (x + lean, hy - 31), (x + 7.5, hy - 18), (x + 7, hy - 7)),
                    coat.main,
                ),
                Shape(
                    blob((x - 3, hy - 12), (x + lean * 0.8, hy - 25), (x + 3.5, hy - 12), n=4), coat.accent, shade=0.3
                ),
            ),
            anchor=(x, hy - 9),
            tip=(x + lean, hy - 31),
            parent="head",
        )
        for x, lean in ((hx + 9, 4), (hx - 8, -3))
    ]
    trunk = torso(rng, coat, body, ellipse(-2, -39, 32, 9))
    trunk = Piece("", "", (*trunk.shapes, Shape(mane, coat.accent, shade=0.6)))
    return [*far, tail, trunk, *near, *ears, head]


def elephant(rng: np.random.Generator, coat: Coat) -> list[Piece]:
    nod, lift = rng.uniform(-3, 3), rng.uniform(-10, 6)
    far, near = _legs(rng, coat, (-36, -13, 9, 31), -34, 7.4, foot=lighten(coat.main, 0.3))
    body = blob((-44, -54), (-34, -76), (-2, -82), (28, -77), (38, -55), (33, -34), (-4, -31), (-38, -34))
    hx, hy = 32, -73 + nod
    nose = Piece(
        "trunk",
        "peripheral",
        (
            Shape(
                tube(
                    [(hx + 10, hy + 4), (hx + 22, hy + 16), (hx + 24, hy + 34 + lift), (hx + 32, hy + 43 + lift)],
                    (9.0, 6.2),
                ),
                coat.main,
            ),
            Shape(ellipse(hx + 33, hy + 44 + lift, 4.4, 4.4, n=14), lighten(coat.main, -0.3), shade=0.3),
        ),
        anchor=(hx + 10, hy + 4),
        tip=(hx + 33, hy + 44 + lift),
        parent="head",
    )
    tail = Piece(
        "tail",
        "peripheral",
        (
            Shape(tube([(-40, -62), (-51, -58), (-56, -40)], (5.2, 4.2)), coat.main),
            Shape(ellipse(-56.5, -35, 5.6, 7.6), coat.accent, shade=0.5),
        ),
        anchor=(-40, -62),
        tip=(-56.5, -30),
    )
    head = Piece(
        "head",
        "intermediate",
        (
            Shape(ellipse(hx, hy, 19, 20), coat.main),
            *marks((hx - 8, hy - 20, hx + 18, hy - 10), coat, rng),
            *eye(hx + 1, hy - 4, 3.3),
            *eye(hx + 12, hy - 5, 3.3),
        ),
        anchor=(hx - 8, hy + 4),
        tip=(hx + 6, hy - 19),
    )
    flap = rng.uniform(-2, 2)
    ears = [
        Piece(
            "ear",
            "peripheral",
            (
                Shape(
                    blob((x - w, y - 4), (x - w * 0.4, y - 17), (x + w, y - 13), (x + w, y + 6), (x, y + 17)), coat.main
                ),
                Shape(
                    blob(
                        (x - w * 0.6, y - 3),
                        (x - w * 0.2, y - 11),
                        (x + w * 0.6, y - 8),
                        (x + w * 0.6, y + 4),
                        (x, y + 11),
                    ),
                    coat.accent,
                    shade=0.4,
                ),
            ),
            anchor=(hx + (6 if x > hx else -8), y + 4),
            tip=(x, y - 16),
            parent="head",
        )
        for x, y, w in ((hx + 19, hy - 15, 11), (hx - 21 + flap, hy - 1, 13))
    ]
    return [*far, tail, torso(rng, coat, body, None), *near, ears[0], head, nose, ears[1]]

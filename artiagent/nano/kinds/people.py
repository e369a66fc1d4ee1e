"""A person seen from the front: head, arms, hands, legs, feet."""

from __future__ import annotations

import numpy as np

from artiagent.nano.kinds.figure import Coat, Piece, Shape, blob, box, ellipse, eye, marks, tube
from artiagent.nano.palette import RGB, lighten


def person(rng: np.random.Generator, coat: Coat) -> list[Piece]:
    trousers = lighten(coat.accent, -0.1)
    legs, feet = [], []
    for side in (-1, 1):
        spread = rng.uniform(12, 17)
        hip, ankle = (side * 9.5, -40.0), (side * spread, -9.0)
        legs.append(Piece("leg", "both", (Shape(tube([hip, ankle], (8.6, 7.2)), trousers),), anchor=hip, tip=ankle))
        x = ankle[0] + side * 3
        shoe = blob(
            (x - 10 * side, -1), (x - 9 * side, -10), (x + 2 * side, -11), (x + 12 * side, -5), (x + 11 * side, 0)
        )
        feet.append(
            Piece(
                "foot",
                "peripheral",
                (
                    Shape(shoe, (92, 62, 58)),
                    Shape(box(x - 11, -2.2, x + 11, 0, 1), (226, 220, 208), clip=True, shade=0.1),
                ),
                anchor=ankle,
                tip=(x + 10 * side, -4),
                parent="leg",
            )
        )
    arms, hands = [], []
    for side in (-1, 1):
        raised = np.deg2rad(rng.uniform(38, 132))
        bent = raised + np.deg2rad(rng.uniform(-18, 18))
        shoulder = np.array([side * 17.0, -73.0])
        elbow = shoulder + 15 * np.array([side * np.sin(raised), np.cos(raised)])
        wrist = elbow + 15 * np.array([side * np.sin(bent), np.cos(bent)])
        palm = wrist + 8 * np.array([side * np.sin(bent), np.cos(bent)])
        arms.append(
            Piece(
                "arm",
                "intermediate",
                (
                    Shape(tube([tuple(shoulder), tuple(elbow), tuple(wrist)], (7.2, 6.2)), coat.main),
                    *_cuff(wrist, elbow, coat),
                ),
                anchor=tuple(shoulder),
                tip=tuple(wrist),
            )
        )
        thumb = palm + 7 * np.array([-np.sin(bent + side * 0.5) * 0.2, -1.0])
        hands.append(
            Piece(
                "hand",
                "peripheral",
                (
                    Shape(ellipse(*palm, 8.2, 8.0), coat.skin),
                    Shape(tube([tuple(palm), tuple(thumb)], (3.2, 2.8), n=3), coat.skin, shade=0.4),
                ),
                anchor=tuple(wrist),
                tip=tuple(palm),
                parent="arm",
            )
        )
    torso = blob((-19, -78), (-8, -82), (8, -82), (19, -78), (19, -56), (19, -37), (0, -34), (-19, -37), (-19, -56))
    body = Piece(
        "",
        "",
        (
            Shape(box(-6, -90, 6, -76, 3), lighten(coat.skin, -0.12)),
            Shape(torso, coat.main),
            *marks((-20, -76, 20, -36), coat, rng),
        ),
    )
    return [*legs, *feet, *arms, *hands, body, _head(rng, coat)]


def _cuff(wrist: np.ndarray, elbow: np.ndarray, coat: Coat) -> tuple[Shape, ...]:
    back = wrist + (elbow - wrist) * 0.2
    rgb: RGB = coat.marks if coat.texture != "plain" else lighten(coat.main, 0.3)
    return (Shape(tube([tuple(back), tuple(wrist)], (7.4, 7.4), n=2), rgb, clip=True, shade=0.4),)


def _head(rng: np.random.Generator, coat: Coat) -> Piece:
    tilt = rng.uniform(-2, 2)
    x, y = tilt, -99.0
    long_hair = rng.random() < 0.5
    shapes = []
    if long_hair:
        shapes.append(
            Shape(
                blob(
                    (x - 17, y - 4),
                    (x - 10, y - 17),
                    (x + 10, y - 17),
                    (x + 17, y - 4),
                    (x + 18, y + 15),
                    (x - 18, y + 15),
                ),
                coat.hair,
            )
        )
    shapes += [
        Shape(ellipse(x, y, 15.5, 16.5), coat.skin, shade=0.6),
        Shape(
            blob(
                (x - 16, y - 2),
                (x - 14, y - 14),
                (x, y - 19),
                (x + 14, y - 14),
                (x + 16, y - 2),
                (x + 9, y - 9),
                (x - 4, y - 8),
            ),
            coat.hair,
            shade=0.7,
        ),
        Shape(ellipse(x - 9.5, y + 6, 3.2, 2.4, n=12), (238, 140, 128), shade=0.0),
        Shape(ellipse(x + 9.5, y + 6, 3.2, 2.4, n=12), (238, 140, 128), shade=0.0),
        Shape(tube([(x - 5, y + 8), (x, y + 10.5), (x + 5, y + 8)], (1.2, 1.2), n=4), (150, 56, 56), shade=0.0),
        *eye(x - 6, y - 0.5, 2.9),
        *eye(x + 6, y - 0.5, 2.9),
    ]
    return Piece("head", "intermediate", tuple(shapes), anchor=(x, y + 14), tip=(x, y - 18))

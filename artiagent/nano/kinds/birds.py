"""A bird seen from the side with both wings raised."""

from __future__ import annotations

import numpy as np

from artiagent.nano.kinds.animals import torso
from artiagent.nano.kinds.figure import Coat, Piece, Shape, blob, ellipse, eye, tube
from artiagent.nano.palette import lighten


def bird(rng: np.random.Generator, coat: Coat) -> list[Piece]:
    nod, beat = rng.uniform(-3, 3), rng.uniform(-10, 10)
    gold = (240, 168, 48)
    legs = []
    for x, foot in ((-13, -3.0), (14, 0.0)):
        shapes = (
            Shape(tube([(x, -26), (x + 1, -6 + foot)], (5.2, 4.6)), gold),
            Shape(
                blob((x - 6, -1 + foot), (x - 2, -8 + foot), (x + 13, -5 + foot), (x + 13, -0.5 + foot)),
                gold,
                shade=0.5,
            ),
        )
        legs.append(Piece("leg", "both", shapes, anchor=(x, -26), tip=(x + 4, -2 + foot)))
    tail = Piece(
        "tail",
        "peripheral",
        (
            Shape(np.array([(-22, -44), (-50, -60), (-56, -50), (-54, -40), (-46, -33), (-20, -34)]), coat.accent),
            Shape(
                np.array([(-32, -43), (-52, -50), (-53, -46), (-32, -41)]),
                lighten(coat.accent, -0.3),
                clip=True,
                shade=0.2,
            ),
        ),
        anchor=(-22, -39),
        tip=(-54, -48),
    )
    hx, hy = 30, -63 + nod
    head = Piece(
        "head",
        "intermediate",
        (
            Shape(ellipse(hx, hy, 16.5, 16), coat.main),
            Shape(ellipse(hx + 5, hy + 5, 8, 6.5), lighten(coat.main, 0.5), shade=0.3),
            *eye(hx + 5, hy - 4, 4.2),
        ),
        anchor=(hx - 5, hy + 9),
        tip=(hx, hy - 16),
    )
    beak = Piece(
        "beak",
        "peripheral",
        (
            Shape(
                blob((hx + 12, hy - 5), (hx + 20, hy - 5), (hx + 30, hy + 3), (hx + 19, hy + 8), (hx + 12, hy + 7)),
                gold,
            ),
            Shape(
                np.array([(hx + 12, hy + 2), (hx + 28, hy + 2.6), (hx + 28, hy + 3.6), (hx + 12, hy + 4)]),
                lighten(gold, -0.4),
                clip=True,
                shade=0.0,
            ),
        ),
        anchor=(hx + 12, hy + 1),
        tip=(hx + 30, hy + 3),
        parent="head",
    )
    wings = []
    for joint, turn, rgb in (
        ((7.0, -50.0), 9 + beat, lighten(coat.accent, -0.18)),
        ((-6.0, -45.0), -42 + beat, coat.accent),
    ):
        a = np.deg2rad(turn)
        out, side = np.array([np.sin(a), -np.cos(a)]), np.array([np.cos(a), np.sin(a)])
        root = np.array(joint)
        corners = [
            root - 5 * side - 4 * out,
            root - 13 * side + 18 * out,
            root - 12 * side + 38 * out,
            root + 2 * side + 47 * out,
            root + 9 * side + 24 * out,
            root + 7 * side - 3 * out,
        ]
        feathers = [
            Shape(
                np.array(
                    [
                        root + k * side + 19 * out,
                        root + (k - 1.5) * side + 41 * out,
                        root + (k + 1) * side + 41 * out,
                        root + (k + 1.6) * side + 19 * out,
                    ]
                ),
                lighten(rgb, -0.28),
                clip=True,
                shade=0.2,
            )
            for k in (-6.5, -0.5)
        ]
        wings.append(
            Piece(
                "wing", "peripheral", (Shape(blob(*corners), rgb), *feathers), anchor=joint, tip=tuple(root + 45 * out)
            )
        )
    body = torso(
        rng,
        coat,
        blob((-30, -42), (-14, -55), (10, -58), (34, -54), (32, -34), (16, -21), (-8, -20), (-24, -28)),
        ellipse(14, -26, 22, 12),
    )
    return [legs[0], tail, wings[0], body, legs[1], head, beak, wings[1]]

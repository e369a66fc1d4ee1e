"""Vector edits a bad illustrator would make: bend, melt, rescale, overturn, misplace, weld two bodies.

All of them move or repaint polygons. Nothing here samples, copies or permutes pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from artiagent.nano.canvas import soft_light
from artiagent.nano.kinds.figure import Blend, Figure, Piece, Points, Shape, rotated, tube
from artiagent.nano.palette import mix

PointMap = Callable[[Points], Points]

_SLICES = 18  # steps of the colour run across a weld


def children(figure: Figure, index: int) -> list[int]:
    """Indices of a piece and of all that hangs on it, in drawing order."""
    piece = figure.pieces[index]
    siblings = [other for other in figure.pieces if other.name == piece.name]
    family = [index]
    for i, other in enumerate(figure.pieces):
        if other.parent == piece.name and piece.name and min(siblings, key=lambda s: _gap(s, other)) is piece:
            family.append(i)
    return sorted(family)


def area(piece: Piece) -> float:
    """Of the largest shape of the outline, in square units, whatever hides it."""
    x, y = np.moveaxis(max((s.points for s in piece.outline()), key=lambda p: np.ptp(p, 0).prod()), -1, 0)
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def _gap(parent: Piece, child: Piece) -> float:
    joint = np.asarray(child.anchor)
    return min(float(np.linalg.norm(joint - end)) for end in (parent.anchor, parent.tip))


def densified(piece: Piece, step: float = 1.5) -> Piece:
    """The piece with a vertex at least every `step` units, so that curved maps bend straight edges."""
    return replace(piece, shapes=tuple(replace(s, points=_densified(s.points, step)) for s in piece.shapes))


def _densified(points: Points, step: float) -> Points:
    ends = np.roll(points, -1, 0)
    counts = np.maximum(1, np.ceil(np.linalg.norm(ends - points, axis=1) / step).astype(int))
    runs = [a + (b - a) * np.arange(n)[:, None] / n for a, b, n in zip(points, ends, counts, strict=True)]
    return np.concatenate(runs)


def bend(piece: Piece, degrees: float) -> PointMap:
    """Curl about the joint: the turn grows to `degrees` at the tip."""
    anchor, tip = np.asarray(piece.anchor), np.asarray(piece.tip)
    length = max(float(np.linalg.norm(tip - anchor)), 6.0)
    along = (tip - anchor) / max(float(np.linalg.norm(tip - anchor)), 1e-6)

    def move(points: Points) -> Points:
        offset = points - anchor
        share = np.clip(offset @ along / length, 0.0, 1.2)
        angle = np.deg2rad(degrees) * share**1.5
        c, s = np.cos(angle), np.sin(angle)
        return anchor + np.stack([c * offset[:, 0] - s * offset[:, 1], s * offset[:, 0] + c * offset[:, 1]], 1)

    return move


def melt(points: Points, phase: float, strength: float = 1.0) -> PointMap:
    """Sag and drip: everything sways and runs downward, without folding over. `points` give the extent."""
    low, high = points.min(0), points.max(0)
    width, height = np.maximum(high - low, 1.0)
    reach = max(width, 0.6 * height)

    def move(p: Points) -> Points:
        down = np.clip((p[:, 1] - low[1]) / height, 0, 1)
        sway = 0.13 * np.sin(2 * np.pi * 0.8 * down + phase) + 0.05 * np.sin(2 * np.pi * 1.7 * down)
        x = p[:, 0] + strength * reach * sway
        drip = 0.06 + 0.09 * np.sin(2 * np.pi * 0.9 * (x - low[0]) / reach + phase)
        return np.stack([x, p[:, 1] + strength * height * (drip * down**1.2 + 0.16 * (1 - down))], 1)

    return move


def rescale(piece: Piece, factor: float) -> PointMap:
    """Grow or shrink about the joint."""
    anchor = np.asarray(piece.anchor)
    return lambda points: anchor + factor * (points - anchor)


def overturn(points: Points, degrees: float) -> PointMap:
    """Turn about the middle of the extent of `points`."""
    middle = tuple((points.min(0) + points.max(0)) / 2)
    return lambda p: rotated(p, degrees, middle)


def shift(dx: float, dy: float) -> PointMap:
    return lambda points: points + (dx, dy)


def weld(rear: Figure, front: Figure) -> tuple[Figure, int]:
    """Grow two bodies together: one piece, no contour between them, colours running into each other.

    Returns one figure with the pieces of both around the common body, and the index of that body.
    """
    one, other = (next(i for i, p in enumerate(figure.pieces) if not p.name) for figure in (rear, front))
    body = _common_body(rear.pieces[one], front.pieces[other])
    behind = (*rear.pieces[:one], *front.pieces[:other])
    before = (*rear.pieces[one + 1 :], *front.pieces[other + 1 :])
    return replace(rear, pieces=(*behind, body, *before)), len(behind)


def _common_body(rear: Piece, front: Piece) -> Piece:
    skins = [max(piece.outline(), key=lambda s: np.ptp(s.points, 0).prod()) for piece in (rear, front)]
    centres = [(s.points.min(0) + s.points.max(0)) / 2 for s in skins]
    axis = centres[1] - centres[0]
    axis = axis / max(float(np.linalg.norm(axis)), 1e-6)
    start, end = _zone(skins, axis)
    across = np.array([-axis[1], axis[0]])
    thickness = 0.42 * min(float(np.ptp(s.points @ across)) for s in skins)
    runs = [s.blend or soft_light(s) for s in skins]
    run = Blend(tuple(start * axis), tuple(end * axis), skins[0].rgb, skins[1].rgb)
    bridge = Shape(tube([tuple(centres[0]), tuple(centres[1])], (thickness, thickness), n=2), run.rgb, blend=run)
    zone = _zone_slices((start, end), axis, across, runs)
    frozen = [tuple(replace(s, blend=s.blend or soft_light(s)) for s in piece.shapes) for piece in (rear, front)]
    return Piece("", "", (bridge, *frozen[0], *frozen[1], *zone))


def _zone(skins: list[Shape], axis: np.ndarray) -> tuple[float, float]:
    """Extent along `axis` that the colour run has to cover: where the bodies overlap, or the gap between them."""
    first, second = (s.points @ axis for s in skins)
    low, high = sorted((float(second.min()), float(first.max())))
    return low - 5.0, high + 5.0


def _zone_slices(span: tuple[float, float], axis: np.ndarray, across: np.ndarray, runs: list[Blend]) -> list[Shape]:
    edges = np.linspace(*span, _SLICES + 1)
    slices = []
    for k, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        share = (k + 0.5) / _SLICES
        share = share * share * (3 - 2 * share)
        corners = [step * axis + reach * across for step, reach in ((low, -200), (high, -200), (high, 200), (low, 200))]
        blend = _between(runs[0], runs[1], share)
        slices.append(Shape(np.array(corners), blend.rgb, over=True, blend=blend))
    return slices


def _between(first: Blend, second: Blend, share: float) -> Blend:
    def point(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
        return (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share)

    return Blend(
        point(first.start, second.start),
        point(first.end, second.end),
        mix(first.rgb, second.rgb, share),
        mix(first.rgb_end, second.rgb_end, share),
    )

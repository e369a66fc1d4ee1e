"""Draws shapes into one label buffer, then colours the buffer at once.

Every drawn polygon gets its own label; tables from label to entity, piece and colour run give the picture and the exact
masks from the same buffer. Knows nothing of kinds, scenes or captions.
"""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from artiagent.nano.kinds.figure import Blend, Piece, Points, Shape
from artiagent.nano.palette import lighten

SUPERSAMPLING = 3
FRAME = 128
_LIGHT = np.array([0.35, 0.94])  # soft light falls from the upper left
_LINE = 0.66  # brightness of the contour between pieces


class Canvas:
    """A square label buffer of `size` px at SUPERSAMPLING; points are given in a frame of FRAME units."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._labels = Image.new("L", (size * SUPERSAMPLING,) * 2)
        self._draw = ImageDraw.Draw(self._labels)
        self._runs: list[tuple[float, ...]] = []
        self._groups: list[int] = []
        self.group_count = 0

    def add_background(self, shape: Shape) -> None:
        """Paint behind everything: belongs to group 0, has no contour."""
        self._fill(shape, group=0, inside=[])

    def add_piece(self, piece: Piece) -> int:
        """Draw one piece in front of what is there; returns its group, greater than every earlier one."""
        self.group_count += 1
        base: list[int] = []
        drawn: list[int] = []
        for shape in piece.shapes:
            label = self._fill(shape, self.group_count, drawn if shape.over else base)
            drawn.append(label)
            if not (shape.clip or shape.over):
                base.append(label)
        return self.group_count

    def _fill(self, shape: Shape, group: int, inside: list[int]) -> int:
        label = len(self._runs)
        if label > 255:
            raise ValueError("a scene holds at most 256 shapes; draw fewer marks or entities")
        self._runs.append(_colour_run(shape))
        self._groups.append(group)
        points = shape.points * (SUPERSAMPLING * self.size / FRAME) - 0.5
        if shape.clip or shape.over:
            self._fill_clipped(points, label, inside)
        else:
            self._draw.polygon(points.ravel().tolist(), fill=label)
        return label

    def _fill_clipped(self, points: Points, label: int, inside: list[int]) -> None:
        low = np.clip(np.floor(points.min(0)), 0, self._labels.width).astype(int)
        high = np.clip(np.ceil(points.max(0)) + 1, 0, self._labels.width).astype(int)
        if (high <= low).any():
            return
        bounds = (*low.tolist(), *high.tolist())
        stencil = Image.new("L", tuple((high - low).tolist()))
        ImageDraw.Draw(stencil).polygon((points - low).ravel().tolist(), fill=255)
        allowed = self._labels.crop(bounds).point([255 if value in inside else 0 for value in range(256)])
        self._labels.paste(label, bounds, ImageChops.darker(stencil, allowed))

    def groups(self) -> np.ndarray:
        """uint8 [size, size]: the group at each pixel's centre, 0 = background."""
        labels = np.asarray(self._labels)[SUPERSAMPLING // 2 :: SUPERSAMPLING, SUPERSAMPLING // 2 :: SUPERSAMPLING]
        return np.asarray(self._groups, dtype=np.uint8)[labels]

    def image(self) -> np.ndarray:
        """uint8 [size, size, 3]: coloured, contoured, averaged over the subpixels."""
        labels = np.asarray(self._labels)
        index = labels.astype(np.intp)
        runs = np.asarray(self._runs, dtype=np.float32)
        x, y = _grid(self.size)
        share = runs[:, 0][index] * x + runs[:, 1][index] * y + runs[:, 2][index]
        np.clip(share, 0, 1, out=share)
        colour = np.take(runs[:, 6:9], index, axis=0)
        colour *= share[..., None]
        colour += np.take(runs[:, 3:6], index, axis=0)
        colour[_contour(np.asarray(self._groups, dtype=np.uint8)[labels], round(self.size / 50))] *= _LINE
        return np.asarray(Image.fromarray(colour.astype(np.uint8)).reduce(SUPERSAMPLING))


@functools.lru_cache(maxsize=4)
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    centres = (np.arange(size * SUPERSAMPLING, dtype=np.float32) + 0.5) * (FRAME / (size * SUPERSAMPLING))
    return centres[None, :], centres[:, None]


def _contour(groups: np.ndarray, width: int) -> np.ndarray:
    """Subpixels of a front piece that lie within `width` of something behind it."""
    edge = np.zeros(groups.shape, dtype=bool)
    edge[:, width:] |= groups[:, width:] > groups[:, :-width]
    edge[:, :-width] |= groups[:, :-width] > groups[:, width:]
    edge[width:] |= groups[width:] > groups[:-width]
    edge[:-width] |= groups[:-width] > groups[width:]
    return edge


def _colour_run(shape: Shape) -> tuple[float, ...]:
    """(gx, gy, g0) of the share clip(gx x + gy y + g0, 0, 1), the start colour, the difference to the end colour."""
    run = shape.blend or soft_light(shape)
    start, end = np.asarray(run.start), np.asarray(run.end)
    along = end - start
    gradient = along / max(float(along @ along), 1e-6)
    first, last = np.clip(run.rgb, 0, 255), np.clip(run.rgb_end, 0, 255)
    return (*gradient, -float(gradient @ start), *first, *(last - first))


def soft_light(shape: Shape) -> Blend:
    """The run from the lit to the shaded side of a shape."""
    low, high = shape.points.min(0), shape.points.max(0)
    middle, reach = (low + high) / 2, float(np.abs(high - low) @ _LIGHT) / 2
    start, end = middle - _LIGHT * reach, middle + _LIGHT * reach
    light, dark = lighten(shape.rgb, 0.16 * shape.shade), lighten(shape.rgb, -0.24 * shape.shade)
    return Blend(tuple(start), tuple(end), light, dark)

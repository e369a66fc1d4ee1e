"""Draws groundings beside the truth: true masks, boxes as they were found, masks cut out of them. Knows no models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from artiagent.perception.grounding import Detection, Instance

SCALE, COLUMNS, GAP, LINE = 2, 2, 8, 14
PALETTE = (
    (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 255), (245, 130, 48), (170, 60, 220), (70, 240, 240),
    (240, 50, 230), (190, 245, 60), (250, 190, 212), (0, 150, 140), (190, 120, 50), (255, 255, 255), (120, 140, 255),
)  # fmt: skip

Row = tuple[str, np.ndarray, Sequence[Instance], Sequence[Detection], Sequence[Instance]]


def draw_sheet(rows: Sequence[Row]) -> np.ndarray:
    """uint8 [H, W, 3]: one strip of three pictures per row (title, image, true instances, detections, instances found),
    two strips side by side; every name has one colour throughout."""
    names = sorted({item.name for _, _, truth, _, found in rows for item in (*truth, *found)})
    colours = {name: PALETTE[number % len(PALETTE)] for number, name in enumerate(names)}
    strips = [_strip(row, colours) for row in rows]
    height, width = (max(strip.shape[axis] for strip in strips) for axis in (0, 1))
    lines = -(-len(strips) // COLUMNS)
    sheet = np.full((lines * (height + GAP), COLUMNS * (width + GAP), 3), 255, np.uint8)
    for number, strip in enumerate(strips):
        top, left = number // COLUMNS * (height + GAP), number % COLUMNS * (width + GAP)
        sheet[top : top + strip.shape[0], left : left + strip.shape[1]] = strip
    return sheet


def _strip(row: Row, colours: dict[str, tuple[int, int, int]]) -> np.ndarray:
    title, image, truth, detections, found = row
    boxes = _boxes(image, detections, colours)
    pictures = np.concatenate([_masks(image, truth, colours), boxes, _masks(image, found, colours)], 1)
    canvas = Image.new("RGB", (pictures.shape[1], pictures.shape[0] + LINE), "white")
    canvas.paste(Image.fromarray(pictures), (0, LINE))
    ImageDraw.Draw(canvas).text((2, 1), title, fill="black")
    return np.asarray(canvas)


def _enlarged(image: np.ndarray) -> np.ndarray:
    return image.repeat(SCALE, 0).repeat(SCALE, 1)


def _masks(image: np.ndarray, instances: Sequence[Instance], colours: dict[str, tuple[int, int, int]]) -> np.ndarray:
    """Entities as outlines, parts as tints."""
    large = _enlarged(image).astype(np.float32)
    for instance in sorted(instances, key=lambda item: item.layer == "entity"):
        mask = _enlarged(instance.mask)
        inner = np.pad(mask, 1)
        edge = mask & ~(inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:])
        if instance.layer != "entity":
            large[mask] = 0.4 * large[mask] + 0.6 * np.array(colours[instance.name])
        large[edge] = colours[instance.name]
    return large.round().astype(np.uint8)


def _boxes(image: np.ndarray, detections: Sequence[Detection], colours: dict[str, tuple[int, int, int]]) -> np.ndarray:
    canvas = Image.fromarray(_enlarged(image))
    pen = ImageDraw.Draw(canvas)
    for detection in detections:
        x0, y0, x1, y1 = (round(value * SCALE) for value in detection.box)
        colour = colours.get(detection.phrase, (255, 255, 255))
        pen.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colour)
        pen.text((x0 + 2, y0), detection.phrase, fill=colour)
    return np.asarray(canvas)

"""One image, one model: verdict, boxes, explanation and a copy with the boxes drawn in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from artiagent.images import encode
from artiagent.inspection.askers import open_asker
from artiagent.inspection.findings import Asking, inspect_pictures
from artiagent.inspection.pictures import to_picture
from artiagent.records import Box, CheckpointRef
from artiagent.store import write_atomic

COLOUR = (255, 0, 64)


def inspect_image(image: Path, model: CheckpointRef, asking: Asking, out: Path | None = None) -> dict:
    """Ask the model about one image file.

    Args:
        image: any file that intake accepts (EXIF rotation is applied: boxes refer to the upright image).
        model: vision-language model folder.
        asking: how; see there.
        out: where the annotated copy goes; by default ``<name>-inspected.png`` in the current folder.

    Returns:
        ``verdict`` ("artifacts" | "clean" | "unanswered"), ``score`` P(Yes), ``boxes`` [[x0, y0, x1, y1]] in pixels of
        the upright image, ``explanation``, ``status`` per task, ``width``, ``height``, ``image``, ``image_sha256``,
        ``model_sha256``, ``prompt_hash``, ``annotated`` path.

    Raises ValueError for a file that is missing or no image.
    """
    if not image.is_file():
        raise ValueError(f"{image}: no such file; expected an image")
    picture = to_picture(image.name, image.read_bytes())
    found = None
    if picture.pixels is not None:
        (found,) = inspect_pictures([picture], open_asker(model, asking.section, asking.served), asking)
    if found is None or found.reason:
        raise ValueError(f"{image}: {picture.reason if found is None else found.reason}")
    annotated = Path(f"{image.stem}-inspected.png") if out is None else out
    write_atomic(annotated, encode(draw_boxes(picture.pixels, found.boxes)))
    return {
        **found.model_dump(mode="json", exclude={"reason"}),
        "image": str(image),
        "model_sha256": model.sha256,
        "prompt_hash": asking.prompt_hash,
        "annotated": str(annotated),
    }


def draw_boxes(pixels: np.ndarray, boxes: tuple[Box, ...]) -> np.ndarray:
    """Copy of uint8 [H, W, 3] with outlines; their width follows the image's size."""
    canvas = Image.fromarray(pixels.copy())
    pen = ImageDraw.Draw(canvas)
    for box in boxes:
        pen.rectangle(
            (box.x0, box.y0, box.x1 - 1, box.y1 - 1), outline=COLOUR, width=max(1, round(min(canvas.size) / 128))
        )
    return np.asarray(canvas)

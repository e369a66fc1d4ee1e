"""One image, one model: verdict, boxes, explanation and a copy with the boxes drawn in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from artiagent.config import EvaluationSection, PerceptionSection
from artiagent.evaluation.parsing import parse_boxes, parse_explanation, parse_verdict
from artiagent.images import encode
from artiagent.instruction import prompts
from artiagent.perception.intake import take_in
from artiagent.records import Box, CheckpointRef
from artiagent.store import write_atomic
from artiagent.vlm.local import LocalVlm

COLOUR = (255, 0, 64)
_ANY_ASPECT = 1e6


def inspect_image(image: Path, model: CheckpointRef, section: EvaluationSection, out: Path | None = None) -> dict:
    """Ask the model about one image file.

    Args:
        image: any file that intake accepts (EXIF rotation is applied: boxes refer to the upright image).
        model: vision-language model folder.
        section: device, threads, token limits.
        out: where the annotated copy goes; by default ``<name>-inspected.png`` in the current folder.

    Returns:
        ``verdict`` ("artifacts" | "clean"), ``score`` P(Yes), ``boxes`` [[x0, y0, x1, y1]] in pixels of the upright
        image, ``explanation``, ``status`` per task, ``annotated`` path, ``width``, ``height``, ``image``,
        ``model_sha256``.

    Raises ValueError for a file that is missing or no image.
    """
    pixels = open_upright(image)
    height, width = pixels.shape[:2]
    vlm = LocalVlm(model.uri, section.device, section.dtype, section.threads)
    score = float(vlm.yes_no([pixels], [prompts.render(prompts.BINARY)])[0])
    verdict, status = parse_verdict(score)
    statuses, boxes, explanation = {"detection": status}, (), ""
    if verdict:
        located = vlm.generate([pixels], [prompts.render(prompts.LOCATE_ARTIFACTS)], section.max_box_tokens)[0]
        boxes, statuses["localization"] = parse_boxes(located, vlm.space(width, height))
        told = vlm.generate([pixels], [prompts.render(prompts.DESCRIBE_ARTIFACTS)], section.max_new_tokens)[0]
        explanation, statuses["explanation"] = parse_explanation(told)
    annotated = Path(f"{image.stem}-inspected.png") if out is None else out
    write_atomic(annotated, encode(draw_boxes(pixels, boxes)))
    return {
        "image": str(image),
        "width": width,
        "height": height,
        "verdict": "artifacts" if verdict else "clean",
        "score": score,
        "boxes": [list(box) for box in boxes],
        "explanation": explanation,
        "status": statuses,
        "annotated": str(annotated),
        "model_sha256": model.sha256,
    }


def open_upright(image: Path) -> np.ndarray:
    """uint8 [H, W, 3] at full size through intake. Raises ValueError (IntakeError) naming file and reason."""
    if not image.is_file():
        raise ValueError(f"{image}: no such file; expected an image")
    data = image.read_bytes()
    section = PerceptionSection()
    short = min(take_in(data, image.name, section).transform.upright)
    untouched = section.model_copy(update={"short_side": short, "patch": 1, "max_aspect": _ANY_ASPECT})
    return take_in(data, image.name, untouched).pixels


def draw_boxes(pixels: np.ndarray, boxes: tuple[Box, ...]) -> np.ndarray:
    """Copy of uint8 [H, W, 3] with outlines; their width follows the image's size."""
    canvas = Image.fromarray(pixels.copy())
    pen = ImageDraw.Draw(canvas)
    for box in boxes:
        pen.rectangle(
            (box.x0, box.y0, box.x1 - 1, box.y1 - 1), outline=COLOUR, width=max(1, round(min(canvas.size) / 128))
        )
    return np.asarray(canvas)

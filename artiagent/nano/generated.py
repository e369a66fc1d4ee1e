"""ArtiBench-nano, generated split: samples of nano-FLUX with its own faults, labelled twice by looking.

``sample`` draws the pictures and numbered sheets with rulers for whoever labels; ``write_generated`` joins two
independent labellings into a benchmark file in ArtiBench's layout and says how far they agree. Pictures on which the
two disagree whether there is a fault are left out and counted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from artiagent import images
from artiagent.grid import union_mask
from artiagent.nano.artibench import SCHEMA
from artiagent.nano.coco import LICENCE, parquet_bytes
from artiagent.nano.flux_samples import generate, load
from artiagent.nano.flux_text import text_token_limit
from artiagent.nano.scenes import BENCH_SEEDS, render_scene
from artiagent.records import Box, Mask
from artiagent.store import write_atomic

SAMPLES, SPLIT, CARD = "samples.parquet", "generated.parquet", "generated.json"
FIRST_SEED = BENCH_SEEDS[400_000]
STEPS, SIZE, BATCH = 28, 128, 12
SCALE, PER_SHEET, COLUMNS = 3, 12, 4
FAULTS = ("duplication", "omission", "distortion", "fusion")
Labels = Mapping[str, Mapping[str, Any]]


def sample(generator: Path, out: Path, count: int = 120, *, seed: int = 0) -> list[Path]:
    """Generate `count` pictures from captions of unseen scenes, two in three of them of one entity; write
    ``samples.parquet`` and sheets, return these."""
    pipeline, limit = load(generator), text_token_limit(generator)
    captions = [sample_caption(k) for k in range(count)]
    pictures: list[np.ndarray] = []
    for start in range(0, count, BATCH):
        batch = captions[start : start + BATCH]
        pictures += list(generate(pipeline, batch, limit, steps=STEPS, size=SIZE, seed=seed * 10_000 + start))
    table = pa.table({"image": [images.encode(picture) for picture in pictures], "caption": captions})
    write_atomic(out / SAMPLES, parquet_bytes(table))
    sheets = []
    for start in range(0, count, PER_SHEET):
        path = out / f"sheet-{start // PER_SHEET + 1:02d}.png"
        sheet = _sheet(pictures[start : start + PER_SHEET], captions[start : start + PER_SHEET], start + 1)
        write_atomic(path, images.encode(sheet))
        sheets.append(path)
    return sheets


def sample_caption(index: int) -> str:
    """Caption that sample number ``index``, from 0, is generated from."""
    return render_scene(FIRST_SEED + index, entities=1 if index % 3 else None).caption


def write_generated(samples: Path, first: Labels, second: Labels, out: Path) -> dict[str, Any]:
    """Join two labellings ``{"1": {"faulty": true, "boxes": [[x0, y0, x1, y1]], "fault": ..., "explanation": ...}}``.

    Truth is the first labelling where the two agree on ``faulty``. Returns the card: counts, Cohen's kappa, mean IoU of
    the union of boxes. Raises ValueError naming a picture whose label is missing or malformed.
    """
    rows = pq.read_table(samples).to_pylist()
    agreed, ious = [], []
    votes = np.zeros((2, 2), dtype=int)
    for number, row in enumerate(rows, start=1):
        a, b = (_checked(labels, str(number)) for labels in (first, second))
        votes[int(a["faulty"]), int(b["faulty"])] += 1
        if a["faulty"] != b["faulty"]:
            continue
        if a["faulty"]:
            ious.append(_iou(a["boxes"], b["boxes"]))
        agreed.append(_row(number, row, a))
    card = {
        "name": "ArtiBench-nano, generated split",
        "samples": len(rows),
        "n": len(agreed),
        "faulty": sum(row["has_artifacts"] for row in agreed),
        "left_out": len(rows) - len(agreed),
        "votes": {
            "both_clean": int(votes[0, 0]),
            "both_faulty": int(votes[1, 1]),
            "split": int(votes[0, 1] + votes[1, 0]),
        },
        "kappa": round(kappa(votes), 3),
        "box_iou": round(float(np.mean(ious)), 3) if ious else None,
        "licence": LICENCE,
    }
    write_atomic(out / SPLIT, parquet_bytes(pa.Table.from_pylist(agreed, schema=SCHEMA)))
    write_atomic(out / CARD, (json.dumps(card, indent=2) + "\n").encode())
    return card


def kappa(votes: np.ndarray) -> float:
    """Cohen's kappa of a square table of votes; 1 where chance alone would agree always."""
    total = votes.sum()
    observed = np.trace(votes) / total
    chance = float((votes.sum(0) * votes.sum(1)).sum()) / total**2
    return 1.0 if chance == 1 else float((observed - chance) / (1 - chance))


def _checked(labels: Labels, number: str) -> dict[str, Any]:
    if number not in labels:
        raise ValueError(f"picture {number} has no label; expected one for every picture of the sheets")
    label = dict(labels[number])
    boxes = [Box(*map(int, box)).clip(SIZE, SIZE) for box in label.get("boxes", ())]
    if not isinstance(label.get("faulty"), bool) or (label["faulty"] and not boxes):
        raise ValueError(f"picture {number}: expected faulty true or false, and a box where it is true; got {label}")
    if label["faulty"] and (label.get("fault") not in FAULTS or any(box.area == 0 for box in boxes)):
        raise ValueError(f"picture {number}: expected one of {', '.join(FAULTS)} and boxes with an area; got {label}")
    return label | {"boxes": boxes}


def _iou(first: Sequence[Box], second: Sequence[Box]) -> float:
    a, b = (union_mask(list(boxes), SIZE, SIZE) for boxes in (first, second))
    return float((a & b).sum() / (a | b).sum())


def _row(number: int, row: Mapping[str, Any], label: Mapping[str, Any]) -> dict[str, Any]:
    faulty, boxes = label["faulty"], label["boxes"] if label["faulty"] else []
    return {
        "id": f"generated-{number:03d}",
        "image": row["image"],
        "has_artifacts": faulty,
        "bboxes": [list(box) for box in boxes],
        "mask": Mask.encode(union_mask(list(boxes), SIZE, SIZE)).counts if faulty else "",
        "fault": label["fault"] if faulty else "",
        "entity": label.get("entity", ""),
        "part": label.get("part", ""),
        "label": label["fault"] if faulty else "",
        "explanation": label.get("explanation", "") if faulty else "",
    }


def _sheet(pictures: Sequence[np.ndarray], captions: Sequence[str], first: int) -> np.ndarray:
    """uint8 [H, W, 3]: numbered pictures, enlarged, with rulers in px of the picture."""
    cell = SIZE * SCALE + 34
    canvas = Image.new("RGB", (COLUMNS * cell, -(-len(pictures) // COLUMNS) * (cell + 14)), "white")
    pen = ImageDraw.Draw(canvas)
    for k, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = k % COLUMNS * cell + 26, k // COLUMNS * (cell + 14) + 30
        pen.text((x - 24, y - 29), f"{first + k}: {caption}"[:70], fill="black")
        large = Image.fromarray(picture).resize((SIZE * SCALE,) * 2, Image.Resampling.BICUBIC)
        canvas.paste(large, (x, y))
        for tick in range(0, SIZE + 1, 16):
            pen.text((x + tick * SCALE - 6, y - 13), str(tick), fill="gray")
            pen.text((x - 24, y + tick * SCALE - 6), str(tick), fill="gray")
    return np.asarray(canvas)

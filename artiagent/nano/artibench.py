"""ArtiBench-nano, drawn split: half clean, half anatomically wrong, both through one encode path.

Positives are drawn by `faults`, never injected. Clean items are the clean twins of faulty scenes of *other* seeds: both
classes have the same kinds, arrangements and codec, and no image has its twin in the set.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from artiagent import images
from artiagent.nano.coco import LICENCE, parquet_bytes
from artiagent.nano.faults import FaultyScene, render_fault
from artiagent.nano.scenes import BENCH_SEEDS
from artiagent.records import Mask
from artiagent.store import write_atomic

Encode = Callable[[np.ndarray], np.ndarray]  # uint8 [B, H, W, 3] -> the same shape and type

MOST_ITEMS = 10_000
_BATCH = 16
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("image", pa.binary()),
        pa.field("has_artifacts", pa.bool_()),
        pa.field("bboxes", pa.list_(pa.list_(pa.int32()))),
        pa.field("mask", pa.string()),
        *(pa.field(name, pa.string()) for name in ("fault", "entity", "part", "label", "explanation")),
    ]
)


def write_artibench(out: Path, n: int = 200, *, seed: int = 0, encode: Encode) -> Path:
    """Write `drawn.parquet` and `card.json` into `out`.

    Args:
        out: folder, made when missing; files of the same name are replaced.
        n: even number of items, half of them faulty, at most MOST_ITEMS.
        seed: which stretch of BENCH_SEEDS; different seeds share no scene.
        encode: uint8 [B, H, W, 3] -> uint8 [B, H, W, 3], applied to both classes alike, in mixed batches.

    Returns:
        `out`.

    Raises:
        ValueError: n odd or out of range, seed outside BENCH_SEEDS, or `encode` returns another shape or type.
    """
    faulty_seeds, clean_seeds = bench_seeds(n, seed)
    rows = [_faulty_row(render_fault(s), s) for s in faulty_seeds] + [
        _clean_row(render_fault(s), s) for s in clean_seeds
    ]
    order = np.random.default_rng(seed).permutation(n)
    rows = _encoded([rows[i] for i in order], encode)
    write_atomic(out / "drawn.parquet", parquet_bytes(pa.Table.from_pylist(rows, schema=SCHEMA)))
    card = _card(rows, seed, faulty_seeds, clean_seeds)
    write_atomic(out / "card.json", (json.dumps(card, indent=2) + "\n").encode("utf-8"))
    return out


def bench_seeds(n: int, seed: int) -> tuple[range, range]:
    """Scene seeds of the faulty and of the clean items, disjoint; arguments and errors as in `write_artibench`."""
    if n < 2 or n % 2 or n > MOST_ITEMS:
        raise ValueError(f"n={n}: expected an even number of items from 2 to {MOST_ITEMS}")
    first = BENCH_SEEDS.start + seed * MOST_ITEMS
    if seed < 0 or first + MOST_ITEMS > BENCH_SEEDS.stop:
        raise ValueError(f"seed={seed}: expected 0 to {len(BENCH_SEEDS) // MOST_ITEMS - 1}")
    middle = first + MOST_ITEMS // 2
    return range(first, first + n // 2), range(middle, middle + n // 2)


def _faulty_row(scene: FaultyScene, seed: int) -> dict[str, Any]:
    return {
        "id": f"drawn-{seed}",
        "image": scene.image,
        "has_artifacts": True,
        "bboxes": [list(box) for box in scene.boxes],
        "mask": Mask.encode(scene.mask).counts,
        "fault": scene.fault,
        "entity": scene.entity,
        "part": scene.part or "",
        "label": scene.label,
        "explanation": scene.explanation,
    }


def _clean_row(scene: FaultyScene, seed: int) -> dict[str, Any]:
    words = dict.fromkeys(("mask", "fault", "part", "label", "explanation"), "")
    front = {"image": scene.clean_image, "has_artifacts": False, "bboxes": [], "entity": scene.entity}
    return {"id": f"drawn-{seed}", **front, **words}


def _encoded(rows: list[dict[str, Any]], encode: Encode) -> list[dict[str, Any]]:
    done = []
    for start in range(0, len(rows), _BATCH):
        batch = np.stack([row["image"] for row in rows[start : start + _BATCH]])
        result = encode(batch)
        if result.shape != batch.shape or result.dtype != np.uint8:
            raise ValueError(f"encode returned {result.dtype} {result.shape}, expected uint8 {batch.shape}")
        done += [images.encode(image) for image in result]
    return [row | {"image": data} for row, data in zip(rows, done, strict=True)]


def _card(rows: list[dict[str, Any]], seed: int, faulty: range, clean: range) -> dict[str, Any]:
    positives = [row for row in rows if row["has_artifacts"]]
    counts = {
        name: dict(sorted(Counter(row[column] for row in positives).items()))
        for name, column in (("faults", "fault"), ("kinds", "entity"), ("labels", "label"))
    }
    return {
        "name": "ArtiBench-nano, drawn split",
        "n": len(rows),
        "faulty": len(positives),
        "clean": len(rows) - len(positives),
        "seed": seed,
        "faulty_seeds": [faulty.start, faulty.stop],
        "clean_seeds": [clean.start, clean.stop],
        **counts,
        "clean_kinds": dict(sorted(Counter(row["entity"] for row in rows if not row["has_artifacts"]).items())),
        "licence": LICENCE,
    }

"""Qualitative strips: a benchmark image with its ground truth, and beside it what each model said about it.

Which images are shown is decided by ground truth and a seed alone (`choose`), before any answer is looked at; hits and
misses then stand there as they are. Knows items, predictions and the template's needs. Does not score a benchmark.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from artiagent.config import BenchmarkSet
from artiagent.evaluation.benchmarks import BenchmarkItem, read_items, read_truth
from artiagent.evaluation.metrics import pixel_overlap
from artiagent.grid import union_mask
from artiagent.images import data_uri, decode, encode, scaled
from artiagent.leaderboard.table import FINE
from artiagent.records import Box, Mask, Prediction, stable_hash

CLEAN, FAULTY = "clean", "faulty"
LONGEST = 448  # px of an embedded picture
FINEST = 160  # cells along the longer side of a mask drawn as a path
# (faulty, verdict) -> what to call it, and whether it is right
OUTCOMES = {
    (True, True): ("hit", True), (True, False): ("miss", False), (False, False): ("rightly passed", True),
    (False, True): ("false alarm", False), (True, None): ("no readable answer", False),
    (False, None): ("no readable answer", False),
}  # fmt: skip


def choose(items: Sequence[BenchmarkItem], count: int, seed: int = 0) -> list[BenchmarkItem]:
    """At most ``count`` items, the same number (give or take one) of every fault type and of clean images.

    Within a type the order is drawn by ``seed``; it depends on the items' ids, not on their order, and on no answer.
    """
    strata: dict[str, list[BenchmarkItem]] = {}
    for item in sorted(items, key=lambda item: item.item_id):
        strata.setdefault(stratum(item), []).append(item)
    for name, members in strata.items():
        random.Random(f"{seed}/{name}").shuffle(members)
    ordered = [strata[name] for name in sorted(strata, key=lambda name: (name == CLEAN, name))]
    return [item for turn in zip_longest(*ordered) for item in turn if item is not None][:count]


def stratum(item: BenchmarkItem) -> str:
    """Fault type of a faulty image where the benchmark names it."""
    return (item.fault or FAULTY) if item.faulty else CLEAN


def gallery(
    benchmark: BenchmarkSet,
    answers: Mapping[str, Sequence[Prediction]],
    count: int,
    seed: int = 0,
    limit: int | None = None,
) -> dict[str, Any]:
    """Strips of a benchmark with the rule by which they were chosen, for the macro ``gallery`` of strips.html.j2.

    Args:
        benchmark: whose images are shown.
        answers: model -> its predictions, in any order; of other benchmarks are passed over.
        count: strips.
        seed: of the choice.
        limit: the first so many items of the benchmark, as they were evaluated.
    """
    items = read_truth(benchmark, limit)
    chosen = {item.item_id: k for k, item in enumerate(choose(items, count, seed))}
    named = {
        model: {row.item_id: row for row in rows if row.benchmark == benchmark.name} for model, rows in answers.items()
    }
    shown = [(item, image) for item, image in read_items(benchmark, limit) if item.item_id in chosen]
    shown.sort(key=lambda pair: chosen[pair[0].item_id])
    made = strips(shown, named)
    return {
        "benchmark": benchmark.name,
        "strips": made,
        "rule": rule(items, len(made), seed),
        "tally": [_tally(model, rows, items, made) for model, rows in named.items()],
    }


def strips(
    items: Iterable[tuple[BenchmarkItem, bytes]], predictions: Mapping[str, Mapping[str, Prediction]]
) -> list[dict[str, Any]]:
    """What the template needs to draw each item.

    Args:
        items: with their encoded images.
        predictions: model -> item id -> prediction; a model without one for an item is left out there.
    """
    return [
        {
            "id": f"s{stable_hash(item.item_id, image, length=12)}",
            "item": item.item_id,
            "kind": stratum(item),
            "title": item.label or (item.fault if item.faulty else "no fault"),
            "width": item.width,
            "height": item.height,
            "image": embedded(image),
            "truth": _drawn(item.boxes, None if item.boxes else item.mask, item.width, item.height),
            "explanation": item.explanation,
            "answers": [_answer(item, model, rows[item.item_id]) for model, rows in predictions.items()
                        if item.item_id in rows],
        }
        for item, image in items
    ]  # fmt: skip


def rule(items: Sequence[BenchmarkItem], count: int, seed: int) -> str:
    """The choice in a sentence for the reader."""
    kinds = sorted({stratum(item) for item in items}, key=lambda name: (name == CLEAN, name))
    return (
        f"{count} of {len(items)} images, drawn with seed {seed}: as many of every kind ({', '.join(kinds)}) as the "
        "number allows. The draw looks at the ground truth's kind and the image's id only; no answer of any model had "
        "a say in it."
    )


def embedded(image: bytes) -> str:
    """The picture as a ``data:`` URI, at most ``LONGEST`` px wide or high."""
    array = decode(image)
    small = scaled(array, LONGEST)
    return data_uri(encode(small, "png" if small.shape[0] * small.shape[1] <= 128 * 128 else "jpeg"))


def cells_path(cells: np.ndarray) -> str:
    """SVG path data that covers the set cells of a bool grid [rows, columns]; a cell is 1 x 1, runs are joined."""
    parts = []
    for y, row in enumerate(cells):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]])))
        parts += [f"M{x0} {y}h{x1 - x0}v1h{x0 - x1}z" for x0, x1 in edges.reshape(-1, 2)]
    return "".join(parts)


def _drawn(boxes: Sequence[Box], mask: Mask | None, width: int, height: int) -> dict[str, Any]:
    """Boxes as (x, y, width, height), and a mask as a path with the scale from its cells to pixels."""
    found: dict[str, Any] = {"boxes": [(b.x0, b.y0, b.x1 - b.x0, b.y1 - b.y0) for b in boxes], "path": ""}
    if mask is not None:
        step = max(1, -(-max(width, height) // FINEST))
        found |= {"path": cells_path(mask.decode()[::step, ::step]), "step": step}
    return found


def _answer(item: BenchmarkItem, model: str, row: Prediction) -> dict[str, Any]:
    outcome, right = _outcome(item, row)
    overlap = None
    if item.localizable:
        overlap = pixel_overlap(item.truth(), _region(item, row))[0]
    return {
        "model": model,
        "verdict": row.verdict,
        "score": row.score,
        "outcome": outcome,
        "right": right,
        "iou": overlap,
        "drawn": _drawn(row.boxes, row.mask, item.width, item.height),
        "explanation": row.explanation,
        "unread": sorted(task for task, status in row.status.items() if status not in FINE),
    }


def _outcome(item: BenchmarkItem, row: Prediction) -> tuple[str, bool | None]:
    """What became of the verdict; None where the model is not asked for one (heat maps from files)."""
    if row.verdict is None and "detection" not in row.status:
        return "gives no verdict", None
    return OUTCOMES[item.faulty, row.verdict]


def _region(item: BenchmarkItem, row: Prediction) -> np.ndarray:
    """Bool [height, width]: what the model pointed at."""
    return row.mask.decode() if row.mask is not None else union_mask(row.boxes, item.height, item.width)


def _tally(
    model: str, rows: Mapping[str, Prediction], items: Sequence[BenchmarkItem], made: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Right verdicts among the strips beside those on the whole benchmark: whether the draw flatters the model."""
    shown = [answer["right"] for strip in made for answer in strip["answers"] if answer["model"] == model]
    every = [_outcome(item, rows[item.item_id])[1] for item in items if item.item_id in rows]
    shown, every = ([right for right in rights if right is not None] for rights in (shown, every))
    return {"model": model, "right": sum(shown), "shown": len(shown), "all_right": sum(every), "all": len(every)}

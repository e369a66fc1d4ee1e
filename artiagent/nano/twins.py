"""The clean scene behind an item of ArtiBench-nano: its id holds the seed, so that the renderer draws it once more."""

from __future__ import annotations

import re

import numpy as np

from artiagent.evaluation.benchmarks import BenchmarkItem
from artiagent.nano.faults import render_fault
from artiagent.nano.scenes import BENCH_SEEDS

_ID = re.compile(r"drawn-(\d+)")


def clean_scene(item: BenchmarkItem) -> np.ndarray | None:
    """uint8 [H, W, 3], not passed through any autoencoder; None for an item that the renderer did not draw.

    Raises ValueError where today's renderer draws another scene than the item shows.
    """
    named = _ID.fullmatch(item.item_id)
    if named is None or int(named[1]) not in BENCH_SEEDS or item.width != item.height:
        return None
    drawn = render_fault(int(named[1]), size=item.width)
    if item.entity != drawn.entity or (item.faulty and (item.fault, item.boxes) != (drawn.fault, drawn.boxes)):
        raise ValueError(
            f"item {item.item_id}: the renderer draws another scene now ({drawn.fault} of a {drawn.entity}, expected "
            f"{item.fault or 'none'} of a {item.entity}); remake the benchmark with 'artiagent nano bench'"
        )
    return drawn.clean_image

"""Benchmarks in their published layouts -> one item type.

Knows which module reads which layout. Does not know models, prompts or metrics. Images are streamed: a few are in
memory at a time, whatever the size of the benchmark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from artiagent.checkpoints import locate
from artiagent.config import BenchmarkLayout, BenchmarkSet
from artiagent.evaluation.benchmarks import artibench, loki, richhf, synthscars
from artiagent.evaluation.benchmarks.item import BenchmarkItem, tally
from artiagent.records import stable_hash
from artiagent.store import content_sha256

__all__ = ["LAYOUTS", "BenchmarkItem", "benchmark_sha256", "read_items", "read_truth", "tally"]

LAYOUTS: dict[BenchmarkLayout, Callable[[BenchmarkSet], Iterator[tuple[BenchmarkItem, bytes]]]] = {
    "artibench": artibench.read,
    "synthscars": synthscars.read,
    "loki": loki.read,
    "richhf": richhf.read,
}


def read_items(benchmark: BenchmarkSet, limit: int | None = None) -> Iterator[tuple[BenchmarkItem, bytes]]:
    """Stream items and their encoded images; ``limit`` keeps the first ones.

    Raises ValueError naming file and item for missing, truncated or foreign files, wrong names of columns and keys,
    unreadable images, boxes without area or outside the image, and two items with one id.
    """
    seen: set[str] = set()
    for item, image in islice(LAYOUTS[benchmark.layout](benchmark), limit):
        if item.item_id in seen:
            raise ValueError(f"{benchmark.path}: two items with the id {item.item_id!r}; expected unique ids")
        seen.add(item.item_id)
        yield item, image


def read_truth(benchmark: BenchmarkSet, limit: int | None = None) -> list[BenchmarkItem]:
    """All items without their images. Raises ValueError for an empty benchmark."""
    items = [item for item, _ in read_items(benchmark, limit)]
    if not items:
        raise ValueError(f"{benchmark.path}: the benchmark holds no items")
    return items


def benchmark_sha256(benchmark: BenchmarkSet) -> str:
    """Revision of a benchmark: content of its files, images that lie apart included, and how they are read."""
    places = [locate(place, kind="dataset") for place in (benchmark.path, benchmark.images) if place]
    told = benchmark.model_dump_json(exclude={"name", "path", "images"})
    return stable_hash(told, *map(content_sha256, places), length=64)

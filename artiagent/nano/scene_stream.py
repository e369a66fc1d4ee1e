"""Renders training scenes beside the training, in other processes, and keeps what a repair needs to know of them.

Knows: pictures, captions and boxes of scenes, and how far rendering has come. Does not know what is learned of them.
Imports no learning library: a forked worker needs none.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from artiagent.nano.scenes import RenderedScene, render_scene

MOST_PARTS, MOST_ENTITIES = 28, 3
CHUNK = 250  # scenes that a worker hands over at once: 12 MB


@dataclass(frozen=True)
class SceneChunk:
    """Rendered scenes: uint8 images [N, H, W, 3], captions, and boxes int16 as (left, top, right, bottom) in px.

    `parts` [N, MOST_PARTS, 4] and `entities` [N, MOST_ENTITIES, 4] repeat a scene's own boxes until the rows are full,
    so that any column is a box of the scene.
    """

    images: np.ndarray
    captions: list[str]
    parts: np.ndarray
    entities: np.ndarray


def render_chunk(seeds: range, size: int) -> SceneChunk:
    """The scenes of `seeds` at `size` px."""
    scenes = [render_scene(seed, size=size) for seed in seeds]
    return SceneChunk(
        np.stack([scene.image for scene in scenes]),
        [scene.caption for scene in scenes],
        np.stack([_full_rows(_part_boxes(scene), MOST_PARTS) for scene in scenes]),
        np.stack([_full_rows([box_of(e.mask) for e in scene.entities], MOST_ENTITIES) for scene in scenes]),
    )


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the true pixels of bool [H, W], right and bottom exclusive."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _part_boxes(scene: RenderedScene) -> list[tuple[int, int, int, int]]:
    parts = [part.mask for entity in scene.entities for part in entity.parts]
    return [box_of(mask) for mask in parts] or [box_of(entity.mask) for entity in scene.entities]


def _full_rows(boxes: list[tuple[int, int, int, int]], length: int) -> np.ndarray:
    return np.resize(np.array(boxes, np.int16), (length, 4))


class SceneStream:
    """Chunks of the scenes of `seeds` as they get ready, in any order."""

    def __init__(self, seeds: range, size: int, executor: ProcessPoolExecutor | None, chunk: int = CHUNK):
        self._ranges = [seeds[start : start + chunk] for start in range(0, len(seeds), chunk)]
        self._size = size
        self._pending: set[Future[SceneChunk]] = set()
        if executor is not None:
            self._pending = {executor.submit(render_chunk, part, size) for part in self._ranges}
            self._ranges = []

    def ready(self) -> Iterator[SceneChunk]:
        """What is ready by now; without workers one chunk, rendered on the spot."""
        if self._ranges:
            yield render_chunk(self._ranges.pop(0), self._size)
        for future in [future for future in self._pending if future.done()]:
            self._pending.discard(future)
            yield future.result()

    @property
    def exhausted(self) -> bool:
        """Whether every scene has been handed over."""
        return not self._ranges and not self._pending


@contextmanager
def streaming(seeds: range, size: int, workers: int, chunk: int = CHUNK) -> Iterator[SceneStream]:
    """A stream fed by `workers` processes, or rendering on demand with 0; what is not rendered at the end is dropped.

    The workers are forked, so open it before the process touches a GPU.
    """
    if not workers:
        yield SceneStream(seeds, size, None, chunk)
        return
    executor = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork"))
    try:
        yield SceneStream(seeds, size, executor, chunk)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)

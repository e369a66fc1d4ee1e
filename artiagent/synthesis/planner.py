"""The seeded global plan: every job is fixed before anything is rendered (spec: synthesis, rules 7 and 10).

The tools balance, so that every source depends on those before it (`artiagent.synthesis.sources`). A small set is one
such sequence. A large one is dealt, batch by batch, to ``LANES`` sequences that know nothing of each other: each is
balanced, so that the whole is to within ``LANES`` artifacts, and any number of processes gives the same plan. A batch
on disk carries the counts of its lane; a killed plan goes on from there.
"""

from __future__ import annotations

import gc
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from artiagent.config import PlanningSection
from artiagent.parallel import ordered_map
from artiagent.records import ARTIFACT_TOOLS, DatasetRef, Job, Scene, Tool, stable_hash
from artiagent.store import DatasetWriter, Row, open_dataset, read_json
from artiagent.synthesis.coverage import scene_coverage
from artiagent.synthesis.sources import Rules, SourcePlanner

SOURCES_PER_BATCH = 256
LANES = 16  # of a set that gives every lane a batch


def plan(section: PlanningSection, scenes: DatasetRef, patch: int, out: Path) -> DatasetRef:
    """Plan all jobs of a scene set. The reference's digest is the plan digest.

    Args:
        section: toolbox parameters and seed.
        scenes: data set of Scene records.
        patch: pixels per token of the backbone.
        out: folder of the job data set (kind "jobs").
    """
    lanes = LANES if scenes.rows >= LANES * SOURCES_PER_BATCH else 1
    stamp = stable_hash(section.digest(), scenes.digest, patch, SOURCES_PER_BATCH, lanes, length=12)
    if (ready := open_dataset(out, stamp)) is not None:
        return ready
    planner = BatchPlanner(section, patch, out, stamp, lanes)
    writer = planner.writer()
    missing = [index for index in range(-(-scenes.rows // SOURCES_PER_BATCH)) if _batch(index) not in writer]
    left = sum(len(_rows(index, scenes)) for index in missing)
    work, workers = _texts(scenes, missing), _workers(missing, lanes)
    with tqdm(desc="plan", initial=scenes.rows - left, total=scenes.rows, unit="source") as bar:
        for planned in ordered_map(BatchPlanner, (section, patch, out, stamp, lanes), work, workers):
            bar.update(planned)
    return _finish(planner.writer(), lanes)


def _rows(index: int, scenes: DatasetRef) -> range:
    """The rows of the scene set that a batch plans."""
    return range(index * SOURCES_PER_BATCH, min((index + 1) * SOURCES_PER_BATCH, scenes.rows))


def _texts(scenes: DatasetRef, missing: list[int]) -> Iterator[tuple[int, list[str]]]:
    """The scenes of every missing batch as JSON; adjacent batches are read as one stream."""
    end, texts = -1, iter(())
    for index in missing:
        rows = _rows(index, scenes)
        if rows.start != end:
            texts = read_json(scenes, (), rows=range(rows.start, scenes.rows))
        yield index, [text for _, text, _ in islice(texts, len(rows))]
        end = rows.stop


def _workers(missing: list[int], lanes: int) -> int:
    """How many processes may work: a batch must not be handed out before the one it follows in its lane is on disk."""
    place = {index: n for n, index in enumerate(missing)}
    apart = (place[index] - place[index - lanes] for index in missing if index - lanes in place)
    return max(1, min(os.cpu_count() or 1, min(apart, default=lanes) // 2))  # ordered_map has two a worker under way


def _finish(writer: DatasetWriter[Job], lanes: int) -> DatasetRef:
    last = list(writer)[-lanes:]
    counts = [Counts.of(writer.note(batch)) for batch in last]
    rejected = sum((c.rejected for c in counts), Counter())
    balance = sum((c.balance for c in counts), Counter())
    writer.attach("rejections.json", json.dumps(dict(sorted(rejected.items())), indent=1).encode())
    planned = {f"planned_{tool}": balance[tool] for tool in ARTIFACT_TOOLS}
    return writer.finish({"jobs": sum(c.jobs for c in counts)} | planned)


@contextmanager
def _collecting_later() -> Iterator[None]:
    """No search for cycles: a batch makes many objects and none, and looking for them takes a tenth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _batch(index: int) -> str:
    return f"{index:07d}"


@dataclass
class Counts:
    """Over the sources of a lane so far: what the plan of the next one depends on, and what is told of the whole."""

    balance: Counter[Tool] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    jobs: int = 0

    @classmethod
    def of(cls, note: dict[str, Any]) -> Counts:
        return cls(Counter(note["balance"]), Counter(note["rejected"]), note["jobs"])

    def note(self) -> dict[str, Any]:
        return {"balance": self.balance, "rejected": self.rejected, "jobs": self.jobs}


class BatchPlanner:
    """Work for ``ordered_map``: plans a batch of scenes (JSON) and writes its jobs. Returns the number of scenes."""

    def __init__(self, section: PlanningSection, patch: int, out: Path, stamp: str, lanes: int) -> None:
        self.section, self.patch, self.out, self.stamp, self.lanes = section, patch, out, stamp, lanes
        self.rules = Rules.of(section)

    def writer(self) -> DatasetWriter[Job]:
        """As the folder is now: other processes write to it."""
        return DatasetWriter(self.out, "jobs", stamp=self.stamp)

    def __call__(self, batch: tuple[int, list[str]]) -> int:
        with _collecting_later():
            return self._write(*batch)

    def _write(self, index: int, texts: list[str]) -> int:
        writer = self.writer()
        counts = Counts.of(writer.note(_batch(index - self.lanes))) if index >= self.lanes else Counts()
        scenes = [Scene.model_validate_json(text) for text in texts]
        planned = zip(scenes, scene_coverage(scenes, self.patch), strict=True)
        rows = [row for scene, coverage in planned for row in self._plan(scene, counts, coverage)]
        counts.jobs += len(rows)
        writer.write(_batch(index), rows, counts.note())
        return len(texts)

    def _plan(self, scene: Scene, counts: Counts, coverage: np.ndarray) -> list[Row[Job]]:
        """Jobs of one source; a source that is not scored leaves the balance alone."""
        balance = counts.balance if scene.scored else Counter(counts.balance)
        planner = SourcePlanner(scene, self.section, self.patch, balance, self.rules, coverage)
        rows = [Row(key, text) for key, text in planner.rows()]
        counts.rejected.update(f"{r.tool}:{r.reason}" for r in planner.rejections)
        return rows

"""The seeded global plan: every job is fixed before anything is rendered (spec: synthesis, rules 7 and 10).

Types are assigned to sources so that the four tools balance: each slot goes to the tool that is furthest behind its
share among those the source can serve, with the others as ranked fall-backs. So every source depends on those before
it. A small set is one such sequence. A large one is dealt, batch by batch, to ``LANES`` sequences that know nothing of
each other: each is balanced, so that the whole is to within ``LANES`` artifacts, and any number of processes gives the
same plan. A batch on disk carries the counts of its lane; a killed plan goes on from there.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from artiagent.config import PlanningSection
from artiagent.grid import core_grid, grid_of, patch_grid
from artiagent.parallel import ordered_map
from artiagent.records import (
    ARTIFACT_TOOLS,
    DatasetRef,
    Entity,
    Injection,
    Job,
    Part,
    PatchMapping,
    Rejection,
    Scene,
    Tool,
    stable_hash,
)
from artiagent.store import DatasetWriter, Row, open_dataset, read_json
from artiagent.synthesis.toolbox import Mapped, NoMapping, benign, distort
from artiagent.synthesis.toolbox.add import add
from artiagent.synthesis.toolbox.fuse import fuse
from artiagent.synthesis.toolbox.remove import remove

KERNELS = ("shuffle", "jitter", "strip")
PERIPHERAL, INTERMEDIATE = ("peripheral", "both"), ("intermediate", "both")  # layers of parts, by what tools take
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
    missing = _missing(scenes, planner.writer())
    left = sum(map(len, missing.values()))
    texts = read_json(scenes, (), {key for keys in missing.values() for key in keys}.__contains__)
    work = ((index, [text for _, text, _ in islice(texts, len(keys))]) for index, keys in missing.items())
    workers = _workers(list(missing), lanes)
    with tqdm(desc="plan", initial=scenes.rows - left, total=scenes.rows, unit="source") as bar:
        for planned in ordered_map(BatchPlanner, (section, patch, out, stamp, lanes), work, workers):
            bar.update(planned)
    return _finish(planner.writer(), lanes)


def _missing(scenes: DatasetRef, writer: DatasetWriter[Job]) -> dict[int, list[str]]:
    """Keys of the sources by batch, for the batches that are not on disk."""
    keys = (key for key, *_ in read_json(scenes, ()))
    batches = iter(lambda: list(islice(keys, SOURCES_PER_BATCH)), [])
    return {index: batch for index, batch in enumerate(batches) if _batch(index) not in writer}


def _workers(missing: list[int], lanes: int) -> int:
    """How many processes may work: a batch must not be handed out before the one it follows in its lane is on disk."""
    place = {index: n for n, index in enumerate(missing)}
    apart = (place[index] - place[index - lanes] for index in missing if index - lanes in place)
    return max(1, min(os.cpu_count() or 1, min(apart, default=lanes) // 2))  # ordered_map has two a worker under way


def _finish(writer: DatasetWriter[Job], lanes: int) -> DatasetRef:
    last = sorted(writer.done)[-lanes:]
    counts = [Counts.of(writer.note(batch)) for batch in last]
    rejected = sum((c.rejected for c in counts), Counter())
    balance = sum((c.balance for c in counts), Counter())
    writer.attach("rejections.json", json.dumps(dict(sorted(rejected.items())), indent=1).encode())
    planned = {f"planned_{tool}": balance[tool] for tool in ARTIFACT_TOOLS}
    return writer.finish({"jobs": sum(c.jobs for c in counts)} | planned)


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

    def writer(self) -> DatasetWriter[Job]:
        """As the folder is now: other processes write to it."""
        return DatasetWriter(self.out, "jobs", stamp=self.stamp)

    def __call__(self, batch: tuple[int, list[str]]) -> int:
        index, texts = batch
        writer = self.writer()
        counts = Counts.of(writer.note(_batch(index - self.lanes))) if index >= self.lanes else Counts()
        jobs = [job for text in texts for job in self._plan(Scene.model_validate_json(text), counts)]
        counts.jobs += len(jobs)
        writer.write(_batch(index), [Row(job.job_id, job) for job in jobs], counts.note())
        return len(texts)

    def _plan(self, scene: Scene, counts: Counts) -> list[Job]:
        """Jobs of one source; a source that is not scored leaves the balance alone."""
        balance = counts.balance if scene.scored else Counter(counts.balance)
        planner = SourcePlanner(scene, self.section, self.patch, balance)
        jobs = list(planner.jobs())
        counts.rejected.update(f"{r.tool}:{r.reason}" for r in planner.rejections)
        return jobs


class Grids(NamedTuple):
    """A scene on the token grid: bool [h, w] by id of entity or part."""

    entities: dict[str, np.ndarray]
    parts: dict[str, np.ndarray]
    solid: dict[str, np.ndarray]  # what an addition copies: patches well covered, or all if few are
    core: np.ndarray  # patches that are mostly object

    @classmethod
    def of(cls, scene: Scene, section: PlanningSection, patch: int) -> Grids:
        masks = {e.id: e.mask.decode() for e in scene.entities}
        parts, solid = {}, {}
        for part in (p for e in scene.entities for p in e.parts):
            mask = part.mask.decode()
            touched = parts[part.id] = patch_grid(mask, patch)
            if part.layer in PERIPHERAL:
                covered = touched & core_grid(mask, patch, section.add_coverage)
                solid[part.id] = covered if 2 * covered.sum() >= touched.sum() else touched
        entities = {key: patch_grid(mask, patch) for key, mask in masks.items()}
        return cls(entities, parts, solid, core_grid(np.logical_or.reduce(list(masks.values())), patch))


def _patches(mapping: PatchMapping) -> np.ndarray:
    """Bool grid of targets and references."""
    return grid_of((*mapping.targets, *mapping.references), mapping.grid)


@dataclass(frozen=True)
class Candidate:
    """A part of an entity, or an overlapping pair of entities, that a tool may take."""

    entity: Entity
    part: Part | None = None
    other: Entity | None = None
    kernel: str = ""

    @cached_property
    def key(self) -> tuple[str, str, str]:
        return (self.part.id if self.part else self.entity.id, self.other.id if self.other else "", self.kernel)


class SourcePlanner:
    """Plans the variants of one source; ``balance`` is shared by the sources of a lane and counts planned artifacts."""

    def __init__(self, scene: Scene, section: PlanningSection, patch: int, balance: Counter[Tool]) -> None:
        self.scene, self.section, self.balance = scene, section, balance
        self.grids = Grids.of(scene, section, patch)
        self.settings = section.digest()
        self.rejections: list[Rejection] = []
        self.options: dict[Tool, list[Candidate]] = {}
        self.used: set[tuple[Tool, tuple[str, str, str]]] = set()

    def jobs(self) -> Iterator[Job]:
        for variant in range(self.section.variants):
            rng = self._rng(variant)
            share = np.asarray(self.section.artifacts) / sum(self.section.artifacts)
            wanted = 1 + int(rng.choice(len(share), p=share))
            if injections := self._injections(rng, wanted):
                yield self._job(variant, injections)
        rng = self._rng(self.section.variants)
        if rng.random() < self.section.benign_share and (injection := self._benign(rng)):
            yield self._job(self.section.variants, (injection,))

    def _rng(self, variant: int) -> np.random.Generator:
        return np.random.default_rng(self._seed(variant))

    def _seed(self, variant: int) -> int:
        return int(stable_hash(self.section.seed, self.scene.image_sha256, variant, length=15), 16)

    def _job(self, variant: int, injections: tuple[Injection, ...]) -> Job:
        content = stable_hash(*(i.model_dump_json() for i in injections))
        identity = stable_hash(self.scene.image_sha256, self.settings, variant, content, length=24)
        return Job(
            job_id=identity,
            source_id=self.scene.source_id,
            group=self.scene.group,
            scored=self.scene.scored,
            variant=variant,
            seed=self._seed(variant),
            prompt=self.scene.caption,
            injections=injections,
        )

    def _injections(self, rng: np.random.Generator, wanted: int) -> tuple[Injection, ...]:
        """Up to ``wanted`` injections whose patches, targets and references together, are disjoint."""
        chosen: list[Injection] = []
        taken = np.zeros_like(self.grids.core)
        for _ in range(wanted):
            found = self._one(rng, taken)
            if found is None:
                break
            chosen.append(found)
            taken |= _patches(found.mapping)
        return tuple(chosen)

    def _one(self, rng: np.random.Generator, taken: np.ndarray) -> Injection | None:
        for tool in self._ranked_tools(rng):
            for candidate in self._ranked_candidates(tool, rng):
                seed = int(rng.integers(2**31))
                if (self._own(tool, candidate) & taken).any():
                    continue
                result = self._map(tool, candidate, np.random.default_rng(seed))
                if isinstance(result, NoMapping):
                    self.rejections.append(Rejection(tool=tool, reason=result.reason, detail=result.detail))
                    continue
                if (_patches(result.mapping) & taken).any():
                    continue
                self.used.add((tool, candidate.key))
                self.balance[tool] += 1
                return self._injection(tool, candidate, seed, result)
        return None

    def _ranked_tools(self, rng: np.random.Generator) -> list[Tool]:
        """Tools by how far they are behind their share; ties broken by the seed."""
        wanted = {t: w for t, w in self.section.tools.items() if w > 0}
        order = rng.permutation(sorted(wanted))
        return sorted(order.tolist(), key=lambda tool: self.balance[tool] / wanted[tool])

    def _ranked_candidates(self, tool: Tool, rng: np.random.Generator) -> list[Candidate]:
        """Unused candidates first, otherwise in seeded order."""
        if tool not in self.options:
            self.options[tool] = self._candidates(tool)
        options = self.options[tool]
        shuffled = [options[i] for i in rng.permutation(len(options))]
        return sorted(shuffled, key=lambda c: (tool, c.key) in self.used)

    def _candidates(self, tool: Tool) -> list[Candidate]:
        entities = self.scene.entities
        if tool == "fuse":
            return [Candidate(a, other=b) for i, a in enumerate(entities) for b in entities[i + 1 :]]
        if tool == "distort":
            inner = [(e, p) for e in entities for p in e.parts if p.layer in INTERMEDIATE]
            return [Candidate(e, p, kernel=k) for e, p in inner for k in KERNELS]
        return [Candidate(e, p) for e in entities for p in e.parts if p.layer in PERIPHERAL]

    def _own(self, tool: Tool, c: Candidate) -> np.ndarray:
        """Patches that the candidate will use in any case: with one of them taken there is no need to map it."""
        if c.other is not None:
            return self.grids.entities[c.entity.id] & self.grids.entities[c.other.id]
        return self.grids.solid[c.part.id] if tool == "add" else self.grids.parts[c.part.id]

    def _map(self, tool: Tool, c: Candidate, rng: np.random.Generator) -> Mapped | NoMapping:
        section, grids, owner = self.section, self.grids, self.grids.entities[c.entity.id]
        if c.other is not None:
            return fuse(owner, grids.entities[c.other.id], grids.core, rng, section)
        part = grids.parts[c.part.id]
        if tool == "add":
            return add(part, owner, self._same_class(c.part), rng, section, grids.solid[c.part.id])
        if tool == "remove":
            return remove(part, owner, self._same_class(c.part) | part, section.remove_radius)
        if c.kernel == "shuffle":
            return distort.shuffle(part, rng)
        if c.kernel == "jitter":
            return distort.jitter(part, owner, rng, section.jitter_sigma, section.jitter_attempts)
        return distort.strip(part, section.strips)

    def _same_class(self, part: Part) -> np.ndarray:
        """Patches of the other instances of this part class."""
        grid = np.zeros_like(self.grids.core)
        for entity in self.scene.entities:
            for other in entity.parts:
                if other.name == part.name and other.id != part.id:
                    grid |= self.grids.parts[other.id]
        return grid

    def _benign(self, rng: np.random.Generator) -> Injection | None:
        forms = [(e, p) for e in self.scene.entities for p in e.parts]
        foreground = np.logical_or.reduce(list(self.grids.entities.values()))
        for i in rng.permutation(len(forms)):
            entity, part = forms[i]
            seed = int(rng.integers(2**31))
            result = benign.background(self.grids.parts[part.id], foreground, np.random.default_rng(seed))
            if isinstance(result, Mapped):
                return self._injection("benign", Candidate(entity, part, kernel="background"), seed, result)
        return None

    def _injection(self, tool: Tool, c: Candidate, seed: int, result: Mapped) -> Injection:
        return Injection(
            tool=tool,
            kernel=c.kernel,
            entity=c.entity.name,
            entity_id=c.entity.id,
            part=c.part.name if c.part else "",
            part_id=c.part.id if c.part else "",
            other_entity=c.other.name if c.other else "",
            seed=seed,
            score=round(result.score, 6),
            mapping=result.mapping,
            params=result.params,
        )

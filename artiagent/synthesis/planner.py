"""The seeded global plan: every job is fixed before anything is rendered (spec: synthesis, rules 7 and 10).

Types are assigned to sources so that the four tools balance: each slot goes to the tool that is furthest behind its
share among those the source can serve, with the others as ranked fall-backs. So every source depends on those before
it: sources are planned in order, in one process; a killed plan goes on from the counts noted with its last batch.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from artiagent.config import PlanningSection
from artiagent.grid import core_grid, patch_grid
from artiagent.records import (
    ARTIFACT_TOOLS,
    DatasetRef,
    Entity,
    Injection,
    Job,
    Part,
    Rejection,
    Scene,
    Tool,
    stable_hash,
)
from artiagent.store import DatasetWriter, Row, open_dataset, read_rows
from artiagent.synthesis.toolbox import Mapped, NoMapping, benign, distort
from artiagent.synthesis.toolbox.add import add
from artiagent.synthesis.toolbox.fuse import fuse
from artiagent.synthesis.toolbox.remove import remove

KERNELS = ("shuffle", "jitter", "strip")
SOURCES_PER_BATCH = 512


def plan(section: PlanningSection, scenes: DatasetRef, patch: int, out: Path) -> DatasetRef:
    """Plan all jobs of a scene set. The reference's digest is the plan digest.

    Args:
        section: toolbox parameters and seed.
        scenes: data set of Scene records.
        patch: pixels per token of the backbone.
        out: folder of the job data set (kind "jobs").
    """
    stamp = stable_hash(section.digest(), scenes.digest, patch, SOURCES_PER_BATCH, length=12)
    if (ready := open_dataset(out, stamp)) is not None:
        return ready
    writer: DatasetWriter[Job] = DatasetWriter(out, "jobs", stamp=stamp)
    rows = read_rows(scenes, Scene, images=())
    balance: Counter[Tool] = Counter()
    rejected: Counter[str] = Counter()
    total = 0
    with tqdm(desc="plan", total=scenes.rows, unit="source") as bar:
        for index in count():
            if not (batch := [row.record for row in islice(rows, SOURCES_PER_BATCH)]):
                break
            if (name := f"{index:07d}") in writer:
                note = writer.note(name)
                balance, rejected, total = Counter(note["balance"]), Counter(note["rejected"]), note["jobs"]
            else:
                jobs = [job for scene in batch for job in _plan_source(scene, section, patch, balance, rejected)]
                total += len(jobs)
                note = {"balance": balance, "rejected": rejected, "jobs": total}
                writer.write(name, [Row(job.job_id, job) for job in jobs], note)
            bar.update(len(batch))
    writer.attach("rejections.json", json.dumps(dict(sorted(rejected.items())), indent=1).encode())
    return writer.finish({"jobs": total} | {f"planned_{tool}": balance[tool] for tool in ARTIFACT_TOOLS})


def _plan_source(
    scene: Scene, section: PlanningSection, patch: int, balance: Counter[Tool], rejected: Counter[str]
) -> list[Job]:
    """Jobs of one source; counts into ``balance``, unless the source is not scored, and ``rejected``."""
    planner = SourcePlanner(scene, section, patch, balance if scene.scored else Counter(balance))
    jobs = list(planner.jobs())
    rejected.update(f"{r.tool}:{r.reason}" for r in planner.rejections)
    return jobs


@dataclass(frozen=True)
class Candidate:
    """A part of an entity, or an overlapping pair of entities, that a tool may take."""

    entity: Entity
    part: Part | None = None
    other: Entity | None = None
    kernel: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.part.id if self.part else self.entity.id, self.other.id if self.other else "", self.kernel)


class SourcePlanner:
    """Plans the variants of one source; ``balance`` is shared by all sources and counts planned artifacts."""

    def __init__(self, scene: Scene, section: PlanningSection, patch: int, balance: Counter[Tool]) -> None:
        self.scene, self.section, self.patch, self.balance = scene, section, patch, balance
        self.rejections: list[Rejection] = []
        masks = {e.id: e.mask.decode() for e in scene.entities}
        self.grids = {key: patch_grid(mask, patch) for key, mask in masks.items()}
        self.core = core_grid(np.logical_or.reduce(list(masks.values())), patch)
        self.part_masks = {p.id: p.mask.decode() for e in scene.entities for p in e.parts}
        self.part_grids = {key: patch_grid(mask, patch) for key, mask in self.part_masks.items()}
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
        identity = stable_hash(self.scene.image_sha256, self.section.digest(), variant, content, length=24)
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
        for _ in range(wanted):
            taken = frozenset(p for i in chosen for p in (*i.mapping.targets, *i.mapping.references))
            found = self._one(rng, taken)
            if found is None:
                break
            chosen.append(found)
        return tuple(chosen)

    def _one(self, rng: np.random.Generator, taken: frozenset[int]) -> Injection | None:
        for tool in self._ranked_tools(rng):
            for candidate in self._ranked_candidates(tool, rng):
                seed = int(rng.integers(2**31))
                result = self._map(tool, candidate, np.random.default_rng(seed))
                if isinstance(result, NoMapping):
                    self.rejections.append(Rejection(tool=tool, reason=result.reason, detail=result.detail))
                    continue
                if taken & {*result.mapping.targets, *result.mapping.references}:
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
        options = self._candidates(tool)
        shuffled = [options[i] for i in rng.permutation(len(options))]
        return sorted(shuffled, key=lambda c: (tool, c.key) in self.used)

    def _candidates(self, tool: Tool) -> list[Candidate]:
        entities = self.scene.entities
        if tool == "fuse":
            return [Candidate(a, other=b) for i, a in enumerate(entities) for b in entities[i + 1 :]]
        if tool == "distort":
            inner = [(e, p) for e in entities for p in e.parts if p.layer in ("intermediate", "both")]
            return [Candidate(e, p, kernel=k) for e, p in inner for k in KERNELS]
        return [Candidate(e, p) for e in entities for p in e.parts if p.layer in ("peripheral", "both")]

    def _map(self, tool: Tool, c: Candidate, rng: np.random.Generator) -> Mapped | NoMapping:
        section, owner = self.section, self.grids[c.entity.id]
        if c.other is not None:
            return fuse(owner, self.grids[c.other.id], self.core, rng, section)
        part = self.part_grids[c.part.id]
        if tool == "add":
            return add(part, owner, self._same_class(c.part), rng, section, self._solid(c.part))
        if tool == "remove":
            return remove(part, owner, self._same_class(c.part) | part, section.remove_radius)
        if c.kernel == "shuffle":
            return distort.shuffle(part, rng)
        if c.kernel == "jitter":
            return distort.jitter(part, owner, rng, section.jitter_sigma, section.jitter_attempts)
        return distort.strip(part, section.strips)

    def _solid(self, part: Part) -> np.ndarray:
        """Patches that an addition copies: those well covered, or all where these are less than half."""
        touched = self.part_grids[part.id]
        covered = touched & core_grid(self.part_masks[part.id], self.patch, self.section.add_coverage)
        return covered if 2 * covered.sum() >= touched.sum() else touched

    def _same_class(self, part: Part) -> np.ndarray:
        """Patches of the other instances of this part class."""
        grid = np.zeros_like(self.part_grids[part.id])
        for entity in self.scene.entities:
            for other in entity.parts:
                if other.name == part.name and other.id != part.id:
                    grid |= self.part_grids[other.id]
        return grid

    def _benign(self, rng: np.random.Generator) -> Injection | None:
        forms = [(e, p) for e in self.scene.entities for p in e.parts]
        foreground = np.logical_or.reduce(list(self.grids.values()))
        for i in rng.permutation(len(forms)):
            entity, part = forms[i]
            seed = int(rng.integers(2**31))
            result = benign.background(self.part_grids[part.id], foreground, np.random.default_rng(seed))
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

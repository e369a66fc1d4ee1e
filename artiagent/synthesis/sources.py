"""The plan of one source: which tools take which parts of its scene, seeded by the scene and the section alone.

Types are assigned so that the four tools balance: each slot goes to the tool that is furthest behind its share among
those the source can serve, with the others as ranked fall-backs. Knows one scene and the counts of those before it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from pydantic_core import to_json

from artiagent.config import PlanningSection
from artiagent.records import Entity, Job, Part, Rejection, Scene, Tool, stable_hash
from artiagent.synthesis.coverage import scene_coverage
from artiagent.synthesis.toolbox import Mapped, NoMapping, benign, distort
from artiagent.synthesis.toolbox.add import add_set
from artiagent.synthesis.toolbox.frame import Frame, frame
from artiagent.synthesis.toolbox.fuse import fuse_sets
from artiagent.synthesis.toolbox.remove import remove_set

KERNELS = ("shuffle", "jitter", "strip")
PERIPHERAL, INTERMEDIATE = ("peripheral", "both"), ("intermediate", "both")  # layers of parts, by what tools take


@dataclass(frozen=True)
class Rules:
    """What the section says, as every source needs it."""

    section: PlanningSection
    digest: str
    tools: tuple[Tool, ...]  # that are wanted, in alphabetical order
    chances: list[float]  # chances[k]: of at most k + 1 artifacts

    @classmethod
    def of(cls, section: PlanningSection) -> Rules:
        share = np.asarray(section.artifacts) / sum(section.artifacts)
        if (share < 0).any():
            raise ValueError(f"planning.artifacts {section.artifacts}: expected no negative probability")
        chances = share.cumsum()
        wanted = tuple(sorted(tool for tool, weight in section.tools.items() if weight > 0))
        return cls(section, section.digest(), wanted, (chances / chances[-1]).tolist())


class Grids(NamedTuple):
    """A scene on the token grid: sets of patches (see ``Frame``) by id of entity or part."""

    frame: Frame
    bodies: dict[str, int]  # entities and parts
    solid: dict[str, int]  # what an addition copies: patches of a part well covered, or all if few are
    core: int  # patches that are mostly object
    foreground: int  # of any entity

    @classmethod
    def of(cls, scene: Scene, section: PlanningSection, coverage: np.ndarray, patch: int) -> Grids:
        parts = [part for entity in scene.entities for part in entity.parts]
        count = len(scene.entities)
        grid = frame(coverage.shape[1:])
        share = coverage / patch**2
        *touched, foreground = grid.pack_all(share > 0)
        well = grid.pack_all(share[count:-1] >= section.add_coverage)
        ids = [entity.id for entity in scene.entities] + [part.id for part in parts]
        solid = {}
        for part, touches, covered in zip(parts, touched[count:], well, strict=True):
            if part.layer in PERIPHERAL:
                solid_part = touches & covered
                solid[part.id] = solid_part if 2 * solid_part.bit_count() >= touches.bit_count() else touches
        return cls(grid, dict(zip(ids, touched, strict=True)), solid, grid.pack(share[-1] >= 0.5), foreground)


class Candidate(NamedTuple):
    """A part of an entity, or an overlapping pair of entities, that a tool may take."""

    entity: Entity
    part: Part | None = None
    other: Entity | None = None
    kernel: str = ""
    own: int = 0  # patches that it will use in any case: with one of them taken there is no need to map it


class SourcePlanner:
    """Plans the variants of one source; ``balance`` is shared by the sources of a lane and counts planned artifacts.

    ``rules`` and ``coverage`` (see `scene_coverage`) follow from the others; who plans many sources makes them at once.
    """

    def __init__(
        self,
        scene: Scene,
        section: PlanningSection,
        patch: int,
        balance: Counter[Tool],
        rules: Rules | None = None,
        coverage: np.ndarray | None = None,
    ) -> None:
        self.scene, self.section, self.balance = scene, section, balance
        self.rules = rules or Rules.of(section)
        coverage = next(scene_coverage([scene], patch)) if coverage is None else coverage
        self.grids = Grids.of(scene, section, coverage, patch)
        self.rejections: list[Rejection] = []
        self.options: dict[Tool, list[Candidate]] = {}
        self.used: dict[Tool, set[int]] = {}  # by their places among the options

    def jobs(self) -> Iterator[Job]:
        """The source's jobs, variants first."""
        for _, text in self.rows():
            yield Job.model_validate_json(text)

    def rows(self) -> Iterator[tuple[str, str]]:
        """Id and JSON of every job: making the records first would take a third of the time."""
        variants = self.section.variants
        for variant in range(variants):
            seed = self._seed(variant)
            rng = np.random.default_rng(seed)
            wanted = 1 + bisect_right(self.rules.chances, rng.random())
            if injections := self._injections(rng, wanted):
                yield self._job(variant, seed, injections)
        if self.section.benign_share > 0:
            seed = self._seed(variants)
            rng = np.random.default_rng(seed)
            if rng.random() < self.section.benign_share and (injection := self._benign(rng)):
                yield self._job(variants, seed, [injection])

    def _seed(self, variant: int) -> int:
        return int(stable_hash(self.section.seed, self.scene.image_sha256, variant, length=15), 16)

    def _job(self, variant: int, seed: int, injections: list[str]) -> tuple[str, str]:
        """Id and JSON of a ``Job``; its injections are JSON."""
        scene = self.scene
        content = stable_hash(*injections)
        identity = stable_hash(scene.image_sha256, self.rules.digest, variant, content, length=24)
        head = {
            "job_id": identity,
            "source_id": scene.source_id,
            "group": scene.group,
            "scored": scene.scored,
            "variant": variant,
            "seed": seed,
            "prompt": scene.caption,
        }
        return identity, f'{to_json(head).decode()[:-1]},"injections":[{",".join(injections)}]}}'

    def _injections(self, rng: np.random.Generator, wanted: int) -> list[str]:
        """Up to ``wanted`` injections whose patches, targets and references together, are disjoint."""
        chosen: list[str] = []
        taken = 0
        for _ in range(wanted):
            found = self._one(rng, taken)
            if found is None:
                break
            chosen.append(found[0])
            taken |= found[1]
        return chosen

    def _one(self, rng: np.random.Generator, taken: int) -> tuple[str, int] | None:
        """An injection that uses none of the patches ``taken``, and those it uses."""
        for tool in self._ranked_tools(rng):
            for place in self._ranked_candidates(tool, rng):
                candidate = self.options[tool][place]
                seed = int(rng.integers(2**31))
                if candidate.own & taken:
                    continue
                result = self._map(tool, candidate, lambda seed=seed: np.random.default_rng(seed))
                if isinstance(result, NoMapping):
                    self.rejections.append(Rejection(tool=tool, reason=result.reason, detail=result.detail))
                    continue
                uses = self.grids.frame.union({*result.mapping.targets, *result.mapping.references})
                if uses & taken:
                    continue
                self.used.setdefault(tool, set()).add(place)
                self.balance[tool] += 1
                return self._injection(tool, candidate, seed, result), uses
        return None

    def _ranked_tools(self, rng: np.random.Generator) -> list[Tool]:
        """Tools by how far they are behind their share; ties broken by the seed."""
        tools, wanted = self.rules.tools, self.section.tools
        order = [tools[i] for i in rng.permutation(len(tools)).tolist()]
        return sorted(order, key=lambda tool: self.balance[tool] / wanted[tool])

    def _ranked_candidates(self, tool: Tool, rng: np.random.Generator) -> list[int]:
        """Places of the candidates: unused ones first, otherwise in seeded order."""
        if tool not in self.options:
            self.options[tool] = self._candidates(tool)
        shuffled = rng.permutation(len(self.options[tool])).tolist()
        if used := self.used.get(tool):
            shuffled.sort(key=used.__contains__)
        return shuffled

    def _candidates(self, tool: Tool) -> list[Candidate]:
        entities, bits = self.scene.entities, self.grids.bodies
        if tool == "fuse":
            pairs = ((a, b) for i, a in enumerate(entities) for b in entities[i + 1 :])
            return [Candidate(a, other=b, own=bits[a.id] & bits[b.id]) for a, b in pairs]
        if tool == "distort":
            inner = [(e, p) for e in entities for p in e.parts if p.layer in INTERMEDIATE]
            return [Candidate(e, p, kernel=k, own=bits[p.id]) for e, p in inner for k in KERNELS]
        own = self.grids.solid if tool == "add" else bits
        return [Candidate(e, p, own=own[p.id]) for e in entities for p in e.parts if p.layer in PERIPHERAL]

    def _map(self, tool: Tool, c: Candidate, rng: Callable[[], np.random.Generator]) -> Mapped | NoMapping:
        section, grids, frame = self.section, self.grids, self.grids.frame
        owner = grids.bodies[c.entity.id]
        if c.other is not None:
            return fuse_sets(frame, owner, grids.bodies[c.other.id], grids.core, rng, section)
        part = grids.bodies[c.part.id]
        if tool == "add":
            return add_set(frame, part, owner, self._same_class(c.part), rng(), section, grids.solid[c.part.id])
        if tool == "remove":
            return remove_set(frame, part, owner, self._same_class(c.part) | part, section.remove_radius)
        if c.kernel == "shuffle":
            return distort.shuffle_set(frame, part, rng())
        if c.kernel == "jitter":
            return distort.jitter_set(frame, part, owner, rng(), section.jitter_sigma, section.jitter_attempts)
        return distort.strip_set(frame, part, section.strips)

    def _same_class(self, part: Part) -> int:
        """Patches of the other instances of this part class."""
        found = 0
        for entity in self.scene.entities:
            for other in entity.parts:
                if other.name == part.name and other.id != part.id:
                    found |= self.grids.bodies[other.id]
        return found

    def _benign(self, rng: np.random.Generator) -> str | None:
        forms = [(e, p) for e in self.scene.entities for p in e.parts]
        grid = self.grids.frame.grid
        foreground = grid(self.grids.foreground)
        for i in rng.permutation(len(forms)):
            entity, part = forms[i]
            seed = int(rng.integers(2**31))
            result = benign.background(grid(self.grids.bodies[part.id]), foreground, np.random.default_rng(seed))
            if isinstance(result, Mapped):
                return self._injection("benign", Candidate(entity, part, kernel="background"), seed, result)
        return None

    def _injection(self, tool: Tool, c: Candidate, seed: int, result: Mapped) -> str:
        """JSON of an ``Injection``."""
        mapping = result.mapping
        values = {
            "tool": tool,
            "kernel": c.kernel,
            "entity": c.entity.name,
            "entity_id": c.entity.id,
            "part": c.part.name if c.part else "",
            "part_id": c.part.id if c.part else "",
            "other_entity": c.other.name if c.other else "",
            "seed": seed,
            "score": round(result.score, 6),
            "mapping": {"grid": mapping.grid, "targets": mapping.targets, "references": mapping.references},
            "params": result.params,
        }
        return to_json(values).decode()

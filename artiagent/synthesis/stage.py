"""The synthesis stage: jobs in, pairs out, one inversion per source, resumable per source, by any number of processes.

A source that cannot be rendered stops nothing: it is named in ``failures.json`` beside the pairs.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Literal

import torch
from pydantic import ConfigDict
from tqdm import tqdm

from artiagent.config import SynthesisSection
from artiagent.images import decode
from artiagent.parallel import ordered_map
from artiagent.records import CheckpointRef, DatasetRef, Job, Pair, Record, Scene, stable_hash
from artiagent.shards import Shard
from artiagent.store import DatasetWriter, Row, StoreError, open_dataset, read_rows
from artiagent.synthesis.checks import check_plan
from artiagent.synthesis.render import PairRenderer, Source

FAILURES, FAILURE = "failures.json", "failure"  # of the set; in the note of a source
# Faults of the program, the installation or the machine, not of a source: they stop the run, which resumes when mended.
STOPPING = (
    NameError, AttributeError, TypeError, AssertionError, NotImplementedError, ImportError, FileNotFoundError,
    torch.AcceleratorError,
)  # fmt: skip


class SynthesisError(ValueError):
    """No pair could be made; the message gives the reasons."""


class Failure(Record):
    """A source that could not be rendered; its jobs have no pairs."""

    source_id: str
    reason: Literal["decode_error", "wrong_size", "render_error"]
    error: str
    jobs: int


class _JobHead(Record):
    """What the stage must know of every job before it reads the jobs it renders."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    source_id: str
    prompt: str


@dataclass
class PlannedSource:
    """The jobs of a source, by id."""

    prompt: str
    jobs: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Planned:
    """Sources in the order of the plan, and the rows of the plan that their jobs lie in."""

    sources: dict[str, PlannedSource]
    rows: range


def synthesize(
    section: SynthesisSection,
    scenes: DatasetRef,
    jobs: DatasetRef,
    generator: CheckpointRef,
    out: Path,
    shard: tuple[int, int] | None = None,
    retry_failed: bool = True,
) -> DatasetRef:
    """Render every job of the plan, or a shard of it.

    Calls with a shard may run at the same time, on one machine or on several that share a file system. A call without
    one renders what is still missing and finishes; neither the number of shards nor the way there changes plan or
    pixels (spec: synthesis, rule 10).

    Args:
        section: solver, phases, background guarantee, device.
        scenes: data set of Scene records with their images; keys are source ids.
        jobs: the plan; jobs of one source lie together, sources in the order of ``scenes``.
        generator: diffusers pipeline folder.
        out: folder of the pair data set (kind "pairs").
        shard: (i, n), 0 <= i < n: render the sources whose first job lies in the i-th of n equal shares of the plan,
            and return the sealed part (kind "pairs-part"), or the whole where it is complete.
        retry_failed: render again what a shard noted as failed. If not, and all shards are sealed, no model is loaded.

    Raises ValueError for a shard outside its range, SynthesisError when no source at all can be rendered, StoreError
    when ``out`` holds pairs of other inputs or settings or cannot be written (finished sources stay).
    """
    piece = Shard(*shard) if shard is not None else None
    stamp = _stamp(section, scenes, jobs, generator)
    if (ready := open_dataset(out, stamp)) is not None:
        return ready
    writer: DatasetWriter[Pair] = DatasetWriter(out, "pairs", ("clean", "artifact"), stamp, piece)
    if (ready := open_dataset(out, stamp)) is not None:  # another process finished it between the two lines above
        return ready
    work = _Work(section, scenes, jobs, generator, writer, retry_failed)
    try:
        return work.part() if piece else work.whole()
    except StoreError:
        if (ready := open_dataset(out, stamp)) is not None:  # another process finished it meanwhile
            return ready
        if piece and (ready := writer.sealed()) is not None:
            return ready
        raise


@dataclass(frozen=True)
class _Work:
    """What is to be done and where it is written."""

    section: SynthesisSection
    scenes: DatasetRef
    jobs: DatasetRef
    generator: CheckpointRef
    writer: DatasetWriter[Pair]
    retry_failed: bool

    def part(self) -> DatasetRef:
        """The writer's shard, sealed."""
        if (ready := self.writer.sealed()) is not None:
            return ready
        failures = self._render(planned_sources(self.jobs, self.writer.shard))
        return self.writer.seal(_summary(failures))

    def whole(self) -> DatasetRef:
        """The data set, finished. The plan is not read where sealed shards say that nothing is left to do."""
        if self.writer.settled():
            failures = list(self._noted(self.writer))
            if not (failures and self.retry_failed):
                return self._finish(sum(1 for _ in self.writer), failures)
        plan = planned_sources(self.jobs)
        return self._finish(len(plan.sources), self._render(plan))

    def _render(self, plan: Planned) -> list[Failure]:
        """Write the pairs of those of the planned sources that are not on disk. Returns the ones that failed."""
        there = [source for source in plan.sources if source in self.writer]
        failures = list(self._noted(there))
        again = {failure.source_id for failure in failures} if self.retry_failed else set()
        known = set(there) - again
        missing = {source: entry for source, entry in plan.sources.items() if source not in known}
        return [f for f in failures if f.source_id in known] + self._rendered(plan, missing)

    def _rendered(self, plan: Planned, missing: dict[str, PlannedSource]) -> list[Failure]:
        """Write the pairs of the ``missing`` sources. Returns those that failed; a shard notes them."""
        section, total = self.section, sum(len(entry.jobs) for entry in plan.sources.values())
        wanted = {job for entry in missing.values() for job in entry.jobs}
        check_plan(self.generator, self.scenes, self.jobs, missing.keys(), wanted, plan.rows)
        work = _matched(
            read_rows(self.scenes, Scene, wanted=missing.keys()),
            (row.record for row in read_rows(self.jobs, Job, (), wanted.__contains__, plan.rows)),
            [entry.prompt for entry in missing.values()],
            section.prompt_window,
        )
        failures: list[Failure] = []
        with tqdm(desc="synthesize", initial=total - len(wanted), total=total, unit="pair") as bar:
            for source_id, result in ordered_map(SourceRenderer, (section, self.generator), work, section.workers):
                if isinstance(result, Failure):
                    failures.append(result)
                    bar.write(f"{source_id}: {result.reason}: {result.error}", file=sys.stderr)
                    if self.writer.shard:
                        self.writer.write(source_id, [], {FAILURE: result.model_dump()})
                else:
                    self.writer.write(source_id, result)
                bar.set_postfix(failed=len(failures), refresh=False)
                bar.update(len(plan.sources[source_id].jobs))
        return failures

    def _noted(self, sources: Iterable[str]) -> Iterator[Failure]:
        """Those of the sources on disk that a shard could not render."""
        for source in sources:
            if (failure := self.writer.note(source).get(FAILURE)) is not None:
                yield Failure.model_validate(failure)

    def _finish(self, planned: int, failures: list[Failure]) -> DatasetRef:
        if failures and len(failures) == planned:
            shown = "".join(f"\n  {f.source_id}: {f.reason}: {f.error}" for f in failures[:5])
            raise SynthesisError(f"none of the {planned} sources of the plan could be rendered:{shown}")
        listing = [failure.model_dump() for failure in sorted(failures, key=lambda failure: failure.source_id)]
        self.writer.attach(FAILURES, json.dumps(listing, indent=1, ensure_ascii=False).encode())
        return self.writer.finish(_summary(failures), shards=self.section.shards)


class SourceRenderer:
    """A PairRenderer that answers with a Failure where the source, not the program, is at fault."""

    def __init__(self, section: SynthesisSection, generator: CheckpointRef) -> None:
        self.render = PairRenderer(section, generator)

    def __call__(self, source: Source) -> tuple[str, list[Row[Pair]] | Failure]:
        scene, jobs, _ = source
        reason = "decode_error"
        try:
            height, width = decode(scene.images["image"]).shape[:2]
            reason = "wrong_size"
            if (width, height) != (scene.record.width, scene.record.height):
                raise ValueError(f"{width}x{height} px, the scene says {scene.record.width}x{scene.record.height}")
            reason = "render_error"
            return self.render(source)
        except STOPPING:
            raise
        except Exception as error:
            message = re.sub(r"0x[0-9a-f]+", "0x...", f"{type(error).__name__}: {error}")  # equal in every run
            return scene.key, Failure(source_id=scene.key, reason=reason, error=message, jobs=len(jobs))


def _summary(failures: list[Failure]) -> dict[str, float | int | str]:
    return {"failed_sources": len(failures), "failed_jobs": sum(failure.jobs for failure in failures)}


def _stamp(section: SynthesisSection, scenes: DatasetRef, jobs: DatasetRef, generator: CheckpointRef) -> str:
    """Identity of the pairs: inputs and every setting but those that change neither plan nor pixels."""
    settings = section.model_dump_json(exclude={"shards", "workers", "prompt_window"})
    return stable_hash(settings, scenes.digest, jobs.digest, generator.sha256, length=12)


def planned_sources(jobs: DatasetRef, shard: Shard | None = None) -> Planned:
    """The sources of the plan, or those whose first job lies in the shard's share; of the rest little is read."""
    share = shard.part(jobs.rows) if shard else range(jobs.rows)
    found: dict[str, PlannedSource] = {}
    before, first, stop = None, share.start, share.start
    start = max(0, share.start - 1)
    for place, row in enumerate(read_rows(jobs, _JobHead, (), rows=range(start, jobs.rows)), start):
        source = row.record.source_id
        if place < share.start:
            before = source
        elif source != before:
            if place >= share.stop and source not in found:
                break
            first = first if found else place
            stop = place + 1
            found.setdefault(source, PlannedSource(row.record.prompt)).jobs.append(row.key)
    return Planned(found, range(first, stop))


def _matched(scenes: Iterator[Row[Scene]], jobs: Iterator[Job], prompts: list[str], window: int) -> Iterator[Source]:
    """Join scenes with their jobs as two streams, both ordered by source id; ``prompts`` has one for every source."""
    for index, (source_id, group) in enumerate(groupby(jobs, key=lambda job: job.source_id)):
        for scene in scenes:
            if scene.record.source_id == source_id:
                ahead = tuple(prompts[index + 1 : index + window])
                yield Source(scene, list(group), ahead)  # noqa: B031  (the loop ends here)
                break
        else:
            raise ValueError(f"source {source_id}: the plan has its sources in another order than the scene set")

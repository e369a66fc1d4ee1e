"""The synthesis stage: jobs in, pairs out, one inversion per source, resumable per source, by any number of processes.

A source that cannot be rendered stops nothing: it is named in ``failures.json`` beside the pairs.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
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
from artiagent.store import DatasetWriter, Row, StoreError, open_dataset, read_rows
from artiagent.synthesis.checks import check_plan
from artiagent.synthesis.render import PairRenderer, Source

FAILURES = "failures.json"
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
class _Planned:
    """The jobs of a source, by id."""

    prompt: str
    jobs: list[str] = field(default_factory=list)


def synthesize(
    section: SynthesisSection,
    scenes: DatasetRef,
    jobs: DatasetRef,
    generator: CheckpointRef,
    out: Path,
    shard: tuple[int, int] | None = None,
) -> DatasetRef | None:
    """Render every job of the plan, or a shard of it.

    Calls with a shard may run at the same time, on one machine or on several that share a file system. A call without
    one renders what is still missing, failed sources included, and finishes; neither the number of shards nor the way
    there changes plan or pixels (spec: synthesis, rule 10).

    Args:
        section: solver, phases, background guarantee, device.
        scenes: data set of Scene records with their images; keys are source ids.
        jobs: the plan; jobs of one source lie together, sources in the order of ``scenes``.
        generator: diffusers pipeline folder.
        out: folder of the pair data set (kind "pairs").
        shard: (i, n), 0 <= i < n: render the sources i, i + n, i + 2n, ... of the plan and return None.

    Raises ValueError for a shard outside its range, SynthesisError when no source at all can be rendered, StoreError
    when ``out`` holds pairs of other inputs or settings or cannot be written (finished sources stay).
    """
    first, step = _checked(shard)
    stamp = _stamp(section, scenes, jobs, generator)
    if (ready := open_dataset(out, stamp)) is not None:
        return ready
    writer: DatasetWriter[Pair] = DatasetWriter(out, "pairs", ("clean", "artifact"), stamp)
    if (ready := open_dataset(out, stamp)) is not None:  # another process finished it between the two lines above
        return ready
    planned = _planned(jobs)
    try:
        failures = _render(section, scenes, jobs, generator, writer, dict(list(planned.items())[first::step]))
        return _finish(section, writer, planned, failures) if shard is None else None
    except StoreError:
        if (ready := open_dataset(out, stamp)) is not None:  # another process finished it meanwhile
            return ready
        raise


def _render(
    section: SynthesisSection,
    scenes: DatasetRef,
    jobs: DatasetRef,
    generator: CheckpointRef,
    writer: DatasetWriter[Pair],
    planned: dict[str, _Planned],
) -> list[Failure]:
    """Write the pairs of those of the ``planned`` sources that are not on disk. Returns the ones that failed."""
    missing = {source: jobs for source, jobs in planned.items() if source not in writer}
    wanted = {job for entry in missing.values() for job in entry.jobs}
    total = sum(len(entry.jobs) for entry in planned.values())
    check_plan(generator, scenes, jobs, missing.keys(), wanted)
    work = _matched(
        read_rows(scenes, Scene, wanted=missing.__contains__),
        (row.record for row in read_rows(jobs, Job, (), wanted.__contains__)),
        [entry.prompt for entry in missing.values()],
        section.prompt_window,
    )
    failures: list[Failure] = []
    with tqdm(desc="synthesize", initial=total - len(wanted), total=total, unit="pair") as bar:
        for source_id, result in ordered_map(SourceRenderer, (section, generator), work, section.workers):
            if isinstance(result, Failure):
                failures.append(result)
                bar.write(f"{source_id}: {result.reason}: {result.error}", file=sys.stderr)
            else:
                writer.write(source_id, result)
            bar.set_postfix(failed=len(failures), refresh=False)
            bar.update(len(planned[source_id].jobs))
    return failures


def _finish(
    section: SynthesisSection, writer: DatasetWriter[Pair], planned: dict[str, _Planned], failures: list[Failure]
) -> DatasetRef:
    failed = {failure.source_id for failure in failures}
    if failed and len(failed) == len(planned):
        shown = "".join(f"\n  {f.source_id}: {f.reason}: {f.error}" for f in failures[:5])
        raise SynthesisError(f"none of the {len(planned)} sources of the plan could be rendered:{shown}")
    listing = [failure.model_dump() for failure in sorted(failures, key=lambda failure: failure.source_id)]
    writer.attach(FAILURES, json.dumps(listing, indent=1, ensure_ascii=False).encode())
    failed_jobs = sum(failure.jobs for failure in failures)
    return writer.finish({"failed_sources": len(failed), "failed_jobs": failed_jobs}, shards=section.shards)


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


def _checked(shard: tuple[int, int] | None) -> tuple[int, int]:
    """Offset and stride of the sources to render."""
    if shard is None:
        return 0, 1
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(f"shard {index}/{count}: expected I/N with 0 <= I < N, e.g. 0/4 to 3/4")
    return index, count


def _stamp(section: SynthesisSection, scenes: DatasetRef, jobs: DatasetRef, generator: CheckpointRef) -> str:
    """Identity of the pairs: inputs and every setting but those that change neither plan nor pixels."""
    settings = section.model_dump_json(exclude={"shards", "workers", "prompt_window"})
    return stable_hash(settings, scenes.digest, jobs.digest, generator.sha256, length=12)


def _planned(jobs: DatasetRef) -> dict[str, _Planned]:
    """Jobs by source, in the order of the plan."""
    found: dict[str, _Planned] = {}
    for row in read_rows(jobs, _JobHead, ()):
        found.setdefault(row.record.source_id, _Planned(row.record.prompt)).jobs.append(row.key)
    return found


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

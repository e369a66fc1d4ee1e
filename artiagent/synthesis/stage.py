"""The synthesis stage: jobs in, pairs out, one inversion per source, resumable per source, by any number of processes.

A source that cannot be rendered stops nothing: it is named in ``failures.json`` beside the pairs.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import ConfigDict
from tqdm import tqdm

from artiagent.config import SynthesisSection
from artiagent.devices import use_threads
from artiagent.images import decode, encode
from artiagent.parallel import ordered_map
from artiagent.records import Artifact, CheckpointRef, DatasetRef, Job, Pair, Record, Scene, stable_hash
from artiagent.store import DatasetWriter, Row, StoreError, open_dataset, read_rows
from artiagent.synthesis.backbones import load_backbone
from artiagent.synthesis.compose import blend, measure, outside_change, region_mask
from artiagent.synthesis.engine import Engine, Rendered, row_evaluations

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


class _Planned(Record):
    """What the stage must know of every job before it reads the jobs it renders."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    source_id: str


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
    planned: dict[str, list[str]],
) -> list[Failure]:
    """Write the pairs of those of the ``planned`` sources that are not on disk. Returns the ones that failed."""
    missing = {source for source in planned if source not in writer}
    wanted = {job for source in missing for job in planned[source]}
    total = sum(map(len, planned.values()))
    work = _matched(
        read_rows(scenes, Scene, wanted=missing.__contains__),
        (row.record for row in read_rows(jobs, Job, (), wanted.__contains__)),
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
            bar.update(len(planned[source_id]))
    return failures


def _finish(
    section: SynthesisSection, writer: DatasetWriter[Pair], planned: dict[str, list[str]], failures: list[Failure]
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

    def __call__(self, source: tuple[Row[Scene], list[Job]]) -> tuple[str, list[Row[Pair]] | Failure]:
        scene, jobs = source
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


class PairRenderer:
    """Holds the loaded backbone; turns a source and its jobs into rows of pairs."""

    def __init__(self, section: SynthesisSection, generator: CheckpointRef) -> None:
        use_threads(section.threads)
        self.section, self.generator = section, generator
        self.backbone = load_backbone(generator, section)
        self.engine = Engine(self.backbone, section)

    def __call__(self, source: tuple[Row[Scene], list[Job]]) -> tuple[str, list[Row[Pair]]]:
        """All variants of one source in one batch; returns the source's key and its rows."""
        scene, jobs = source
        started = time.perf_counter()
        batch = [job.injections for job in jobs]
        rendered = self.engine.render(decode(scene.images["image"]), jobs[0].prompt, batch)
        seconds = (time.perf_counter() - started) / len(jobs)
        cost = row_evaluations(self.section, batch) / len(jobs)
        encoded: dict[int, bytes] = {}  # variants of a batch share the twin
        for r in rendered:
            encoded.setdefault(id(r.twin), encode(r.twin, self.section.image_format))
        pairs = zip(jobs, rendered, strict=True)
        return scene.key, [self._pair(scene.record, job, r, encoded[id(r.twin)], seconds, cost) for job, r in pairs]

    def _pair(
        self, scene: Scene, job: Job, rendered: Rendered, clean: bytes, seconds: float, cost: float
    ) -> Row[Pair]:
        twin, raw = rendered.twin, rendered.image
        feather, patch = self.section.feather, self.backbone.patch
        regions = [region_mask(i, patch, feather) for i in job.injections]
        image = raw
        if self.section.background == "guaranteed":
            image = blend(twin, raw, np.logical_or.reduce(regions), ramp=feather * patch // 2)
        leak = outside_change(twin, image, regions)
        artifacts: list[Artifact] = [
            measure(twin, image, i, patch, feather).model_copy(update={"change_outside": leak}) for i in job.injections
        ]
        pair = Pair(
            job_id=job.job_id,
            source_id=job.source_id,
            group=job.group,
            scored=job.scored,
            variant=job.variant,
            width=scene.width,
            height=scene.height,
            prompt=job.prompt,
            artifacts=tuple(artifacts),
            backbone=self.generator.name,
            backbone_sha256=self.generator.sha256,
            sampling=self._sampling() | {"batch": rendered.batch, "row_evaluations": round(cost, 4)},
            seconds=seconds,
            caption=scene.caption,
            licence=scene.licence,
        )
        return Row(job.job_id, pair, {"clean": clean, "artifact": encode(image, self.section.image_format)})

    def _sampling(self) -> dict[str, float | int | str]:
        section = self.section
        return {
            "solver": section.solver,
            "steps": section.steps,
            "guidance": section.guidance,
            **{f"pe_fraction_{tool}": value for tool, value in section.pe_fraction.model_dump().items()},
            **{f"value_fraction_{tool}": value for tool, value in section.value_fraction.model_dump().items()},
            "pe_blocks": section.pe_blocks,
            "value_blocks": section.value_blocks,
            "value_after": section.value_after,
            "shared_inversion": section.shared_inversion,
            "variant_tokens": section.variant_tokens,
            "quantize": section.quantize,
            "background": section.background,
            "feather": section.feather,
            "dtype": section.dtype,
            "threads": torch.get_num_threads(),
        }


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
    settings = section.model_dump_json(exclude={"shards", "workers"})
    return stable_hash(settings, scenes.digest, jobs.digest, generator.sha256, length=12)


def _planned(jobs: DatasetRef) -> dict[str, list[str]]:
    """Job ids by source, in the order of the plan."""
    found: dict[str, list[str]] = defaultdict(list)
    for row in read_rows(jobs, _Planned, ()):
        found[row.record.source_id].append(row.key)
    return dict(found)


def _matched(scenes: Iterator[Row[Scene]], jobs: Iterator[Job]) -> Iterator[tuple[Row[Scene], list[Job]]]:
    """Join scenes with their jobs as two streams: both data sets are ordered by source id."""
    for source_id, group in groupby(jobs, key=lambda job: job.source_id):
        for scene in scenes:
            if scene.record.source_id == source_id:
                yield scene, list(group)  # noqa: B031  (the loop ends here)
                break
        else:
            raise ValueError(
                f"the plan names source {source_id}, which is not in the scene set; plan again from this set"
            )

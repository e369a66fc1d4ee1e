"""The synthesis stage: jobs in, pairs out, one inversion per source, resumable per source."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from artiagent.config import SynthesisSection
from artiagent.devices import use_threads
from artiagent.images import decode, encode
from artiagent.parallel import ordered_map
from artiagent.records import Artifact, CheckpointRef, DatasetRef, Job, Pair, Scene
from artiagent.store import DatasetWriter, Row, open_dataset, read_rows
from artiagent.synthesis.backbones import load_backbone
from artiagent.synthesis.compose import blend, measure, outside_change, region_mask
from artiagent.synthesis.engine import Engine
from artiagent.synthesis.solvers import calls


def synthesize(
    section: SynthesisSection, scenes: DatasetRef, jobs: DatasetRef, generator: CheckpointRef, out: Path
) -> DatasetRef:
    """Render every job of the plan.

    Args:
        section: solver, phases, background guarantee, device.
        scenes: data set of Scene records with their images.
        jobs: the plan; jobs of one source lie together.
        generator: diffusers pipeline folder.
        out: folder of the pair data set (kind "pairs").
    """
    if (ready := open_dataset(out)) is not None:
        return ready
    writer: DatasetWriter[Pair] = DatasetWriter(out, "pairs", ("clean", "artifact"))
    evaluations = 0
    with tqdm(desc="synthesize", total=jobs.rows, unit="pair") as bar:

        def pending() -> Iterator[tuple[Row[Scene], list[Job]]]:
            nonlocal evaluations
            for scene, batch in _matched(read_rows(scenes, Scene), (row.record for row in read_rows(jobs, Job))):
                evaluations += _row_evaluations(section, len(batch))
                if scene.key in writer.done:
                    bar.update(len(batch))
                else:
                    yield scene, batch

        for source_id, rows in ordered_map(PairRenderer, (section, generator), pending(), section.workers):
            writer.write(source_id, rows)
            bar.update(len(rows))
    return writer.finish({"row_evaluations": evaluations}, shards=section.shards)


class PairRenderer:
    """Holds the loaded backbone; turns a source and its jobs into rows of pairs."""

    def __init__(self, section: SynthesisSection, generator: CheckpointRef) -> None:
        use_threads(section.threads)
        self.section, self.generator = section, generator
        self.backbone = load_backbone(
            generator,
            device=section.device,
            dtype=section.dtype,
            guidance=section.guidance,
            value_blocks=section.value_blocks,
        )
        self.engine = Engine(self.backbone, section)

    def __call__(self, source: tuple[Row[Scene], list[Job]]) -> tuple[str, list[Row[Pair]]]:
        """All variants of one source in one batch; returns the source's key and its rows."""
        scene, jobs = source
        started = time.perf_counter()
        inversion = self.engine.invert(decode(scene.images["image"]), jobs[0].prompt)
        device = inversion.noise.device
        variants = self.engine.variants([job.injections for job in jobs], inversion.grid, device)
        rows = self.engine.inject(inversion, variants)
        seconds = (time.perf_counter() - started) / len(jobs)
        clean = encode(rows[0], self.section.image_format)
        variants_of = zip(jobs, rows[1:], strict=True)
        return scene.key, [self._pair(scene.record, job, rows[0], raw, clean, seconds) for job, raw in variants_of]

    def _pair(
        self, scene: Scene, job: Job, twin: np.ndarray, raw: np.ndarray, clean: bytes, seconds: float
    ) -> Row[Pair]:
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
            sampling=self._sampling(),
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
            "value_blocks": section.value_blocks,
            "value_after": section.value_after,
            "background": section.background,
            "feather": section.feather,
            "dtype": section.dtype,
            "threads": torch.get_num_threads(),
        }


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


def _row_evaluations(section: SynthesisSection, variants: int) -> int:
    """Transformer calls times rows for one source: inversion, twin and variants."""
    return calls(section.solver, section.steps) * (1 + 1 + variants)

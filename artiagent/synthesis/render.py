"""One source and its jobs to rows of pairs: the engine's pictures, blended, measured, encoded and recorded.

Knows what a pair records. Does not know which sources there are nor what happens when one fails.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
import torch

from artiagent.config import SynthesisSection
from artiagent.devices import use_threads
from artiagent.images import decode, encode
from artiagent.licences import model_entry, models_of_scene
from artiagent.records import Artifact, CheckpointRef, Job, Pair, Scene
from artiagent.store import Row
from artiagent.synthesis.backbones import load_backbone
from artiagent.synthesis.compose import blend, measure, outside_change, region_mask
from artiagent.synthesis.engine import Engine, Rendered, row_evaluations


class Source(NamedTuple):
    """A scene with its image, its jobs, and the captions of the sources to come."""

    scene: Row[Scene]
    jobs: list[Job]
    ahead: tuple[str, ...] = ()


class PairRenderer:
    """Holds the loaded backbone; turns a source and its jobs into rows of pairs."""

    def __init__(self, section: SynthesisSection, generator: CheckpointRef) -> None:
        use_threads(section.threads)
        self.section, self.generator = section, generator
        self.licences = model_entry("generator", generator.uri)
        self.backbone = load_backbone(generator, section)
        self.engine = Engine(self.backbone, section)

    def __call__(self, source: Source) -> tuple[str, list[Row[Pair]]]:
        """All variants of one source; returns the source's key and its rows."""
        scene, jobs, ahead = source
        started = time.perf_counter()
        batch = [job.injections for job in jobs]
        rendered = self.engine.render(decode(scene.images["image"]), jobs[0].prompt, batch, ahead)
        seconds = (time.perf_counter() - started) / len(jobs)
        cost = row_evaluations(self.section, batch) / len(jobs)
        encoded: dict[int, bytes] = {}  # variants of a batch share the twin
        for r in rendered:
            encoded.setdefault(id(r.twin), encode(r.twin, self.section.image_format))
        pairs = zip(jobs, rendered, strict=True)
        return scene.key, [self._pair(scene.record, job, r, encoded[id(r.twin)], seconds, cost) for job, r in pairs]

    def _pair(self, scene: Scene, job: Job, rendered: Rendered, clean: bytes, seconds: float, cost: float) -> Row[Pair]:
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
            origin=scene.origin,
            licences=models_of_scene(scene) | self.licences,
            agents=scene.agents,
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

"""Pairs made from rendered scenes by pasting pixels along real toolbox mappings: no generator needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from artiagent.config import PlanningSection
from artiagent.curation.case import Case
from artiagent.grid import mask_box
from artiagent.images import encode
from artiagent.nano.scenes import render_scene
from artiagent.nano.vl_model import build_model, build_processor, build_tokenizer, save_model
from artiagent.records import DatasetRef, Entity, Injection, Job, Mask, Pair, Part, Scene, stable_hash
from artiagent.store import DatasetWriter, Row
from artiagent.synthesis.compose import blend, measure, region_mask
from artiagent.synthesis.planner import SourcePlanner

PATCH = 8
SEEDS = range(100, 109)


def scene_of(seed: int) -> tuple[Scene, np.ndarray]:
    rendered = render_scene(seed)
    entities = []
    for entity in rendered.entities:
        parts = tuple(
            Part(id=f"{entity.id}.{i}", name=p.name, layer=p.layer, mask=Mask.encode(p.mask), box=mask_box(p.mask))
            for i, p in enumerate(entity.parts)
        )
        entities.append(
            Entity(
                id=str(entity.id),
                name=entity.name,
                mask=Mask.encode(entity.mask),
                box=mask_box(entity.mask),
                parts=parts,
            )
        )
    height, width = rendered.image.shape[:2]
    scene = Scene(
        source_id=f"scene-{seed}", group="scenes", width=width, height=height, caption=rendered.caption,
        image_sha256=stable_hash(rendered.image.tobytes()), entities=tuple(entities),
    )  # fmt: skip
    return scene, rendered.image


def case_of(job: Job, clean: np.ndarray, feather: int = 1) -> Case:
    """Targets take the reference's pixels; the border is blended as synthesis does."""
    image, regions = clean.copy(), []
    for injection in job.injections:
        raw, mapping = image.copy(), injection.mapping
        for target, reference in zip(mapping.targets, mapping.references, strict=True):
            raw[_cell(target, mapping.grid)] = clean[_cell(reference, mapping.grid)]
        regions.append(region_mask(injection, PATCH, feather))
        image = blend(image, raw, regions[-1], ramp=feather * PATCH // 2)
    pair = Pair(
        job_id=job.job_id, source_id=job.source_id, group=job.group, scored=job.scored, variant=job.variant,
        width=clean.shape[1], height=clean.shape[0], prompt=job.prompt,
        artifacts=tuple(measure(clean, image, i, PATCH, feather) for i in job.injections),
        backbone="paste", backbone_sha256="0", sampling={},
    )  # fmt: skip
    return Case(pair, clean, image)


def _cell(index: int, grid: tuple[int, int]) -> tuple[slice, slice]:
    row, col = divmod(index, grid[1])
    return slice(row * PATCH, row * PATCH + PATCH), slice(col * PATCH, col * PATCH + PATCH)


def cases_of(seeds: range, section: PlanningSection) -> Iterator[Case]:
    balance: Counter = Counter()
    for seed in seeds:
        scene, image = scene_of(seed)
        for job in SourcePlanner(scene, section, PATCH, balance).jobs():
            yield case_of(job, image)


@pytest.fixture(scope="session")
def cases() -> list[Case]:
    """About thirty pairs, benign ones and several artifacts per image included."""
    section = PlanningSection(variants=3, artifacts=(0.5, 0.5), benign_share=1.0)
    return list(cases_of(SEEDS, section))


@pytest.fixture(scope="session")
def many_cases() -> list[Case]:
    """One artifact and, where there is room, one benign pair for each of 90 sources."""
    return list(cases_of(range(1000, 1090), PlanningSection(variants=1, artifacts=(1.0,), benign_share=1.0)))


@pytest.fixture
def job_with() -> Callable[..., Job]:
    def build(*injections: Injection) -> Job:
        return Job(
            job_id="job", source_id="scene-1", group="scenes", variant=0, seed=0, prompt="", injections=injections
        )

    return build


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory, cases: list[Case]) -> tuple[DatasetRef, DatasetRef]:
    """The same pairs and their scenes as data sets."""
    tmp_path = tmp_path_factory.mktemp("stored")
    pairs: DatasetWriter[Pair] = DatasetWriter(tmp_path / "pairs", "pairs", ("clean", "artifact"))
    pairs.write(
        "0", [Row(c.pair.job_id, c.pair, {"clean": encode(c.clean), "artifact": encode(c.image)}) for c in cases]
    )
    scenes: DatasetWriter[Scene] = DatasetWriter(tmp_path / "scenes", "scenes", ("image",))
    found = [scene_of(seed) for seed in SEEDS]
    scenes.write("0", [Row(scene.source_id, scene, {"image": encode(image)}) for scene, image in found])
    return pairs.finish(), scenes.finish()


@pytest.fixture(scope="session")
def tiny_vlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "tiny-vl"
    tokenizer = build_tokenizer()
    save_model(folder, build_model(tokenizer, hidden=48, vision_hidden=32, depth=1), build_processor(tokenizer))
    return folder

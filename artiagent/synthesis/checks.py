"""Is the plan one that this backbone can render? Asked before any weights are loaded.

Raises ValueError with the source or job, what was got and what was expected.
"""

from __future__ import annotations

from collections.abc import Collection, Container
from pathlib import Path

from pydantic import ConfigDict

from artiagent.records import CheckpointRef, DatasetRef, Job, Record
from artiagent.store import read_rows
from artiagent.synthesis.backbones import patch_size


class _SceneSize(Record):
    model_config = ConfigDict(extra="ignore", frozen=True)
    source_id: str
    width: int
    height: int


def check_plan(
    generator: CheckpointRef,
    scenes: DatasetRef,
    jobs: DatasetRef,
    sources: Collection[str],
    wanted: Container[str],
    rows: range | None = None,
) -> None:
    """Check the pipeline folder, the sizes of ``sources`` and the mappings of the ``wanted`` jobs.

    Args:
        generator: diffusers pipeline folder.
        scenes, jobs: as for ``synthesize``.
        sources, wanted: source and job ids that will be rendered.
        rows: the rows of ``jobs`` that these lie in; None: all.
    """
    patch = patch_size(Path(generator.uri))
    grids: dict[str, tuple[int, int]] = {}
    for row in read_rows(scenes, _SceneSize, (), sources):
        scene = row.record
        if scene.width % patch or scene.height % patch:
            raise ValueError(
                f"source {scene.source_id}: {scene.width}x{scene.height} px, but {generator.name} needs sides that are "
                f"multiples of {patch} px; set perception.patch={patch}"
            )
        grids[scene.source_id] = scene.height // patch, scene.width // patch
    if unknown := next((source for source in sources if source not in grids), None):
        raise ValueError(f"the plan names source {unknown}, which is not in the scene set; plan again from this set")
    for row in read_rows(jobs, Job, (), wanted.__contains__, rows):
        _check_job(row.record, grids)


def _check_job(job: Job, grids: dict[str, tuple[int, int]]) -> None:
    grid = grids[job.source_id]
    for injection in job.injections:
        if injection.mapping.grid != grid:
            raise ValueError(
                f"job {job.job_id}: mapping for a grid of {injection.mapping.grid} patches, but source {job.source_id} "
                f"has {grid}; plan again with the patch size of the backbone"
            )

"""As many pairs as a study's rows ask for, whose faults the renderer drew instead of injecting them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from artiagent.records import CheckpointRef, DatasetRef
from artiagent.studies.rows import DrawnPairs
from steps.stage import cached_step, out_dir


def run(
    section: DrawnPairs, generator: CheckpointRef
) -> tuple[Annotated[DatasetRef, "drawn"], Annotated[DatasetRef, "drawn_scenes"]]:
    from artiagent.nano.drawn_pairs import write_drawn_pairs
    from artiagent.nano.flux_vae import encode_path

    folders = [out_dir(kind, __name__, section, generator) for kind in ("drawn", "drawn-scenes")]
    curated, scenes = write_drawn_pairs(*folders, section.count, encode=encode_path(Path(generator.uri)))
    return curated, scenes


draw_pairs = cached_step(run)

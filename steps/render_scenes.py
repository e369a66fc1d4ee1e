"""Seeds -> rendered scenes with annotations, as input sets: where a study needs more sources than are embedded."""

from __future__ import annotations

import json
from typing import Annotated

from artiagent.config import InputSet
from artiagent.records import DatasetRef, stable_hash
from artiagent.store import content_sha256, write_atomic
from artiagent.studies.rows import RenderedScenes
from steps.stage import cached_step, out_dir


def run(section: RenderedScenes) -> Annotated[DatasetRef, "inputs"]:
    from artiagent.inputs import SETS
    from artiagent.nano.coco import write_scene_set
    from artiagent.nano.drawn_pairs import ORACLE_SEEDS

    if section.first_seed + section.count > ORACLE_SEEDS.start:
        raise ValueError(
            f"study.scenes: seeds {section.first_seed} to {section.first_seed + section.count - 1}; expected all below "
            f"{ORACLE_SEEDS.start}: from there on they draw the oracle's pairs and the benchmark"
        )
    out = out_dir("rendered", __name__, section)
    folder = write_scene_set(out / "scenes", range(section.first_seed, section.first_seed + section.count))
    places = {"images": str(folder / "images.parquet"), "annotations": str(folder / "annotations.json")}
    sets = [InputSet(name="scenes", **places).model_dump(mode="json")]
    write_atomic(out / SETS, json.dumps(sets, indent=1).encode())
    digest = stable_hash("inputs", content_sha256(folder), length=64)
    return DatasetRef(kind="inputs", uri=str(out), digest=digest, rows=section.count)


render_scenes = cached_step(run)

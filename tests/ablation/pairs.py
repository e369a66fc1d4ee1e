"""Rows of an ablation in miniature: pairs, jobs and audits as the stages would write them."""

import json
from pathlib import Path

import numpy as np

from artiagent.ablation.metrics import RowData
from artiagent.ablation.rows import AblationRow
from artiagent.images import encode
from artiagent.records import Artifact, Box, DatasetRef, Injection, Job, Mask, Pair, PatchMapping, stable_hash
from artiagent.store import DatasetWriter, Row

REGION = Mask.encode(np.ones((32, 32), bool))
PROBE = {"verdict": "pass", "auroc": 0.5, "low": 0.45, "high": 0.55, "n": 12}
AUDIT = {"verdict": "pass", "probes": {"ring": PROBE, "background": {**PROBE, "auroc": None}}, "edges": {}}


def pair(
    source: str, variant: int, tool: str, *, accepted: bool, change: float = 0.1, cost: float = 10.0, target: int = 5
) -> Pair:
    mapping = PatchMapping(grid=(4, 4), targets=(target,), references=(6,))
    injection = Injection(tool=tool, entity="dog", entity_id="e", part="tail", seed=1, mapping=mapping)
    artifact = Artifact(
        injection=injection, box=Box(8, 8, 16, 16), region=REGION, change_inside=change, overlap=0.5,
        accepted=accepted, reason=None if accepted else "too_similar", label="extra <tail>",
    )  # fmt: skip
    return Pair(
        job_id=stable_hash(source, variant), source_id=source, group="scenes", variant=variant, width=32, height=32,
        prompt="a dog", artifacts=(artifact,), backbone="b", backbone_sha256="x",
        sampling={"row_evaluations": cost}, caption="a dog", explanation="The dog has two tails." if accepted else "",
    )  # fmt: skip


def row_data(folder: Path, row: AblationRow, pairs: list[Pair], *, grey: int = 0, **refs: DatasetRef) -> RowData:
    """What a row made; its twins are of the given grey."""
    jobs: DatasetWriter[Job] = DatasetWriter(folder / "jobs", "jobs")
    curated: DatasetWriter[Pair] = DatasetWriter(folder / "curated", "curated", ("clean", "artifact"))
    sides = {"clean": flat(grey), "artifact": flat(grey + 9)}
    curated.write("all", [Row(made.job_id, made, sides) for made in pairs])
    jobs.write("all", [Row(made.job_id, _job(made)) for made in pairs])
    ref = curated.finish({"seconds": 6.0})
    (folder / "curated" / "audit.json").write_text(json.dumps(AUDIT))
    return RowData(row, jobs.finish(), ref, ref, **refs)


def flat(grey: int) -> bytes:
    return encode(np.full((32, 32, 3), grey, np.uint8))


def _job(made: Pair) -> Job:
    shared = made.model_dump(include={"job_id", "source_id", "group", "scored", "variant", "prompt"})
    return Job(**shared, seed=0, injections=tuple(a.injection for a in made.artifacts))

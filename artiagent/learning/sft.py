"""Stage "finetune": TRL + PEFT from a base checkpoint, in stages (vision encoder frozen, then unfrozen).

Knows the order of things and what is kept when it is interrupted. Does not know how a stage trains (`stages`), how
conversations become tokens (`collate`), how pairs share a batch (`paired`), what other processes do (`launch`) or how
other machines hear of it (`nodes`); of several, the first does alone what is not training. One
adapter lives through both stages; at the end it is merged and a full model folder is written (`export`).

The conversations are read through a memory-mapped Arrow copy below ``out/stages``: memory does not grow with their
number, the disk holds them twice until the end.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from artiagent.config import SftSection
from artiagent.devices import use_threads
from artiagent.learning.export import STAMP, export, exported, seal_export
from artiagent.learning.family import family_of
from artiagent.learning.launch import launch
from artiagent.learning.nodes import Head, gathered
from artiagent.learning.paired import open_rows
from artiagent.learning.sharding import check_section
from artiagent.learning.stages import (
    CURVES,
    WEIGHTS,
    Report,
    StageJob,
    checkpoint_step,
    close_stage,
    resumed,
    train_stage,
)
from artiagent.records import CheckpointRef, DatasetRef, stable_hash
from artiagent.sealed import STAGES


def finetune(
    section: SftSection, conversations: DatasetRef, base: CheckpointRef, out: Path, report: Report | None = None
) -> CheckpointRef:
    """Fine-tune ``base``; ``out`` gets what `export` lists.

    Resumes after a kill: finished stages are kept, an unfinished one goes on from its last whole checkpoint.

    Args:
        section: method, stages, batch, processes.
        conversations: the data set; pairs complete.
        base: model folder of a known family.
        out: folder of the result.
        report: called with every new point of the curve: "stage", "step" and the figures. Points that an interrupted
            run had reported after its last checkpoint come again.

    Raises ValueError when ``out`` belongs to other inputs, for a family that is not known, for settings that cannot
    work together, or when a training conversation lacks its twin; RuntimeError when one of several processes dies,
    or one of several nodes.
    """
    with gathered(section) as head:
        return _finetune(section, conversations, base, out, report, head)


def _finetune(
    section: SftSection, conversations: DatasetRef, base: CheckpointRef, out: Path, report: Report | None,
    head: Head | None,
) -> CheckpointRef:  # fmt: skip
    stamp = stable_hash(section.digest(), conversations.digest, base.sha256)
    if (out / STAMP).is_file():
        return exported(out, stamp, base)
    check_section(section)
    family = family_of(base.uri)
    use_threads(section.threads)
    work = out / STAGES / stamp[:12]
    rows = open_rows(section, conversations, work / "cache", family.load_processor(base.uri, section.image_pixels))
    if not len(rows["train"]):
        raise ValueError(
            f"{conversations.uri}: no training conversations; lower instruction.val_share or make more pairs"
        )
    curves: list[dict[str, Any]] = []
    weights, started, seen = Path(base.uri), time.monotonic(), 0
    for number, stage in enumerate(section.stages):
        job = StageJob(
            section=section, number=number, conversations=conversations, base=base, weights=weights,
            folder=work / f"{number}-{stage.name}", cache=work / "cache",
        )  # fmt: skip
        if not (job.folder / CURVES).is_file():
            job = resumed(job)
            launch(job, report, head) if section.world_size > 1 else train_stage(job, rows, report)
            seen -= checkpoint_step(job.checkpoint) * section.samples_per_step
            seen += json.loads((job.folder / CURVES).read_text())[-1]["step"] * section.samples_per_step
        close_stage(job)
        curves += json.loads((job.folder / CURVES).read_text())
        weights = job.folder / WEIGHTS
    speed = seen / (time.monotonic() - started)
    export(section, base, weights, out)
    seal_export(section, conversations, base, out, stamp, curves)
    return exported(out, stamp, base, {"samples_per_second": round(speed, 2)})

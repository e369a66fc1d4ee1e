"""How long a manifest of 100,000 jobs takes, and how much memory: plan it, resume it half-way, finish it.

Nothing is rendered: scenes drawn by the renderer go through perception once and are repeated under ids and seeds of
their own; in place of the model stands a renderer whose images are random bytes. All else is the code of a real run.
Every phase runs in a process of its own, whose imports count in the memory, not in the seconds:

    plan      four variants for every source
    half      the first of two shards (not in the sum: a real run renders for hours meanwhile)
    resume    check what is there, check the plan, find the first source that is missing
    rest      the other shard (not in the sum)
    finish    check what is there, join it, write the manifest

    python bench/manifest.py --sources 25000
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pyarrow
from toolbox import cpu_model

from artiagent.checkpoints import checkpoint_ref
from artiagent.config import InputSet, PerceptionSection, PlanningSection, SynthesisSection
from artiagent.nano.coco import write_scene_set
from artiagent.perception.stage import perceive
from artiagent.records import DatasetRef, Job, Pair, Scene, stable_hash
from artiagent.store import DatasetWriter, Row, open_dataset, read_rows
from artiagent.synthesis.planner import plan

if TYPE_CHECKING:
    from artiagent.synthesis.render import Source

DRAWN, VARIANTS = 200, 4
COUNTED = ("plan", "resume", "finish")
GENERATOR = "data/weights/nano-flux"


class Reached(BaseException):
    """The first missing source has come to the renderer."""


class Stop:
    def __init__(self, *_: object) -> None:
        pass

    def __call__(self, source: Source) -> tuple[str, list[Row[Pair]]]:
        raise Reached


class Scribble:
    """Pairs whose images are random bytes; the variants of a source share the clean side."""

    def __init__(self, *_: object, size: int) -> None:
        self.size, self.rng = size, np.random.default_rng(0)

    def __call__(self, source: Source) -> tuple[str, list[Row[Pair]]]:
        clean = self.rng.bytes(self.size)
        images = [{"clean": clean, "artifact": self.rng.bytes(self.size)} for _ in source.jobs]
        return source.scene.key, [Row(j.job_id, pair(j), i) for j, i in zip(source.jobs, images, strict=True)]


def pair(job: Job) -> Pair:
    """A record about as long as a real one: the plan's mappings stand in for the measured artifacts."""
    return Pair(
        job_id=job.job_id,
        source_id=job.source_id,
        group=job.group,
        variant=job.variant,
        width=128,
        height=128,
        prompt=job.prompt,
        artifacts=(),
        backbone="none",
        backbone_sha256="0" * 64,
        sampling={"injections": " ".join(i.model_dump_json() for i in job.injections)},
    )


def draw_scenes(folder: Path, sources: int) -> None:
    """Scene set of ``sources`` rows, made of ``DRAWN`` rendered scenes."""
    drawn = write_scene_set(folder / "drawn", range(DRAWN))
    source = InputSet(name="drawn", images=f"{drawn}/images.parquet", annotations=f"{drawn}/annotations.json")
    scenes = [row.record for row in read_rows(perceive(PerceptionSection(), [source], folder / "few"), Scene, ())]
    writer: DatasetWriter[Scene] = DatasetWriter(folder / "scenes", "scenes", ("image",))
    for start in range(0, sources, 500):
        copies = [copy_of(scenes[n % len(scenes)], n) for n in range(start, min(start + 500, sources))]
        writer.write(f"{start:06d}", [Row(scene.source_id, scene, {"image": b""}) for scene in copies])
    writer.finish()


def copy_of(scene: Scene, number: int) -> Scene:
    """The scene as another source; the hash of its image seeds its plan."""
    return scene.model_copy(
        update={"source_id": f"source-{number:06d}", "image_sha256": stable_hash(number, length=64)}
    )


def make_plan(folder: Path) -> DatasetRef:
    section = PlanningSection(variants=VARIANTS, benign_share=0)
    return plan(section, open_dataset(folder / "scenes"), PerceptionSection().patch, folder / "jobs")


def synthesize(folder: Path, renderer: Callable, shard: tuple[int, int] | None = None) -> DatasetRef | None:
    from artiagent.synthesis import stage

    stage.SourceRenderer = renderer
    section = SynthesisSection(workers=1, shards=16)
    inputs = open_dataset(folder / "scenes"), open_dataset(folder / "jobs")
    try:
        return stage.synthesize(section, *inputs, checkpoint_ref("none", GENERATOR), folder / "pairs", shard)
    except Reached:
        return None


def run_phase(phase: str, folder: Path, image_bytes: int, connection: Connection) -> None:
    """Runs in a process of its own."""
    scribble = partial(Scribble, size=image_bytes)
    phases: dict[str, Callable[[], DatasetRef | None]] = {
        "plan": lambda: make_plan(folder),
        "half": lambda: synthesize(folder, scribble, (0, 2)),
        "resume": lambda: synthesize(folder, Stop),
        "rest": lambda: synthesize(folder, scribble, (1, 2)),
        "finish": lambda: synthesize(folder, Stop),
    }
    if phase != "plan":
        import artiagent.synthesis.stage  # noqa: F401  (imports are not timed; planning needs no torch)
    memory: list[float] = []
    Thread(target=watch, args=(memory,), daemon=True).start()
    started, busy = time.perf_counter(), cpu_seconds()
    made = phases[phase]()
    result = {
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(cpu_seconds() - busy, 1),
        "peak_mb": round(max(memory)),
        "rows": made.rows if made else 0,
        "chunks": len(list(folder.glob("pairs/chunks/*"))),
    }
    connection.send({"phase": phase, **result})


def cpu_seconds() -> float:
    """Of this process and of those that it has waited for."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def watch(memory: list[float]) -> None:
    """Note the memory of this process and its workers in MB, ten times a second; shared pages count in each."""
    this = psutil.Process()
    while True:
        with suppress(psutil.NoSuchProcess):
            memory.append(sum(p.memory_info().rss for p in (this, *this.children(recursive=True))) / 2**20)
        time.sleep(0.1)


def measure(folder: Path, sources: int, image_bytes: int) -> list[dict[str, float | str]]:
    draw_scenes(folder, sources)
    context = get_context("spawn")
    results = []
    for phase in ("plan", "half", "resume", "rest", "finish"):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=run_phase, args=(phase, folder, image_bytes, sender))
        process.start()
        sender.close()
        results.append(receiver.recv())
        process.join()
    return results


def table(results: list[dict[str, float | str]]) -> str:
    rows = [[*r.values()] for r in results]
    counted = [r for r in results if r["phase"] in COUNTED]
    sums = [round(sum(r[key] for r in counted), 1) for key in ("seconds", "cpu_seconds")]
    rows.append(["sum", *sums, max(r["peak_mb"] for r in counted), "", ""])
    head = ["phase", "seconds", "CPU s", "peak MB", "rows", "chunks"]
    return "\n".join(f"{row[0]:<8}" + "".join(f"{value:>10}" for value in row[1:]) for row in [head, *rows])


def machine() -> dict[str, str | int]:
    """When and where this was measured."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "pyarrow": pyarrow.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=int, default=25_000, help=f"scenes, with {VARIANTS} jobs each")
    parser.add_argument("--image-bytes", type=int, default=4096, help="size of each of the two images of a pair")
    parser.add_argument("--workdir", type=Path, help="where to write some GB; default: the system's temporary folder")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"), help="JSON file to write")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=args.workdir) as folder:
        results = measure(Path(folder), args.sources, args.image_bytes)
    print(table(results))
    # Load of others: with more than a core free the seconds come near the CPU seconds.
    told = {"load_before": round(load, 1), "sources": args.sources, "image_bytes": args.image_bytes}
    report = machine() | told | {"phases": results}
    args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

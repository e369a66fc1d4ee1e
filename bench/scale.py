"""What a million jobs cost beside the rendering: planning them, finding them in 64 shards, joining what was made.

Nothing is rendered: scenes drawn by the renderer go through perception once and are repeated under ids and seeds of
their own, and the sealed shards hold records about as long as real ones with images of random bytes. All else is the
code of a real run. Every phase runs in a process of its own, whose imports count in the memory, not in the seconds:

    scenes    the scene set (not in the sum: perception)
    plan      the variants of every source
    shards    all shards, one after the other, find the sources and jobs that are theirs
    seal      their sealed parts (not in the sum: the shards' own work, all at the same time)
    join      check the parts, make them the data set
    merge     the same parts beside one unsharded batch, as after a mixed history: all rows are copied (not in the sum)

    python bench/scale.py --sources 250000 125000    # with 4 and with 8 variants: a million jobs each
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread

import numpy as np
import pyarrow
from manifest import cpu_seconds, draw_scenes, machine, pair, watch

from artiagent.checkpoints import checkpoint_ref
from artiagent.chunks import merge, schema
from artiagent.config import PerceptionSection, PlanningSection, SynthesisSection
from artiagent.parts import Part, file_name, write_part
from artiagent.records import DatasetRef, Job, stable_hash
from artiagent.shards import Shard
from artiagent.store import DatasetWriter, file_sha256, open_dataset, read_rows

PHASES = ("scenes", "plan", "shards", "seal", "join", "merge")
COUNTED = ("plan", "shards", "join")
JOBS = 1_000_000
IMAGES = ("clean", "artifact")
SECTION = SynthesisSection(workers=1)
GENERATOR = "data/weights/nano-flux"


def inputs(folder: Path) -> tuple[DatasetRef, DatasetRef]:
    return open_dataset(folder / "scenes"), open_dataset(folder / "jobs")


def stamp(folder: Path) -> str:
    from artiagent.synthesis import stage

    return stage._stamp(SECTION, *inputs(folder), checkpoint_ref("none", GENERATOR))


def make_plan(folder: Path, variants: int) -> int:
    from artiagent.synthesis.planner import plan

    section = PlanningSection(variants=variants, benign_share=0)
    return plan(section, open_dataset(folder / "scenes"), PerceptionSection().patch, folder / "jobs").rows


def find(folder: Path, shards: int) -> int:
    """Every shard finds its jobs. Returns how many they found together."""
    from artiagent.synthesis.stage import planned_sources

    jobs = DatasetRef.model_validate(json.loads((folder / "jobs" / "manifest.json").read_text())["ref"])
    jobs = jobs.model_copy(update={"uri": str(folder / "jobs")})
    found = (planned_sources(jobs, Shard(index, shards)) for index in range(shards))
    return sum(len(entry.jobs) for plan in found for entry in plan.sources.values())


def seal(folder: Path, shards: int, image_bytes: int) -> int:
    """Sealed parts as the shards leave them, without the chunks that they come from."""
    from artiagent.synthesis.stage import planned_sources

    jobs, mark, rows = inputs(folder)[1], stamp(folder), 0
    for shard in (Shard(index, shards) for index in range(shards)):
        plan = planned_sources(jobs, shard)
        batches = {source: len(entry.jobs) for source, entry in plan.sources.items()}
        target, digests = folder / "pairs" / file_name("pairs", shard), []
        target.parent.mkdir(exist_ok=True)
        stream = (row.record for row in read_rows(jobs, Job, (), rows=plan.rows))
        merge(tables(stream, image_bytes, digests), target, IMAGES)
        part = Part(
            kind="pairs", file=target.name, sha256=file_sha256(target), stamp=mark, rows=len(digests), batches=batches,
            notes={}, digests=digests, summary={},
        )  # fmt: skip
        write_part(folder / "pairs", shard, part)
        rows += len(digests)
    return rows


def tables(jobs: Iterator[Job], image_bytes: int, digests: list[str]) -> Iterator[pyarrow.Table]:
    """The jobs' pairs, a thousand at a time."""
    rng = np.random.default_rng(0)
    while flat := [
        (job.job_id, pair(job).model_dump_json(), rng.bytes(image_bytes), rng.bytes(image_bytes))
        for job in islice(jobs, 1000)
    ]:
        digests += [stable_hash(*values) for values in flat]
        columns = zip(*flat, strict=True)
        types = schema(IMAGES)
        yield pyarrow.table([pyarrow.array(c, f.type) for c, f in zip(columns, types, strict=True)], schema=types)


def join(folder: Path) -> int:
    from artiagent.synthesis.stage import synthesize

    return synthesize(
        SECTION, *inputs(folder), checkpoint_ref("none", GENERATOR), folder / "pairs", retry_failed=False
    ).rows


def prepare_merge(folder: Path) -> None:
    """The sealed parts again, as links, and an empty batch that belongs to no shard."""
    for place in ("", "parts"):
        (folder / "mixed" / place).mkdir()
        for file in (folder / "pairs" / place).glob("*-of-*"):
            os.link(file, folder / "mixed" / place / file.name)
    DatasetWriter(folder / "mixed", "pairs", IMAGES, stamp(folder)).write("more", [])


def run_phase(phase: str, folder: Path, shards: int, sources: int, connection: Connection) -> None:
    """Runs in a process of its own."""
    import artiagent.synthesis.stage  # noqa: F401  (imports are not timed)

    phases: dict[str, Callable[[], int]] = {
        "scenes": lambda: draw_scenes(folder, sources) or sources,
        "plan": lambda: make_plan(folder, JOBS // sources),
        "shards": lambda: find(folder, shards),
        "seal": lambda: seal(folder, shards, image_bytes=16),
        "join": lambda: join(folder),
        "merge": lambda: DatasetWriter(folder / "mixed", "pairs", IMAGES, stamp(folder)).finish().rows,
    }
    if phase == "join":
        prepare_merge(folder)
    memory: list[float] = []
    Thread(target=watch, args=(memory,), daemon=True).start()
    started, busy = time.perf_counter(), cpu_seconds()
    rows = phases[phase]()
    seconds, spent = time.perf_counter() - started, cpu_seconds() - busy
    connection.send({
        "phase": phase, "seconds": round(seconds, 1), "cpu_seconds": round(spent, 1), "peak_mb": round(max(memory)),
        "rows": rows,
    })  # fmt: skip


def measure(folder: Path, shards: int, sources: int) -> list[dict[str, float | str]]:
    context = get_context("spawn")
    results = []
    for phase in PHASES:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=run_phase, args=(phase, folder, shards, sources, sender))
        process.start()
        sender.close()
        results.append(receiver.recv())
        process.join()
        print(results[-1], flush=True)
    digests = {open_dataset(folder / name).digest for name in ("pairs", "mixed")}
    assert len(digests) == 1, "joined and merged sets differ"
    return results


def total(results: list[dict[str, float | str]]) -> dict[str, float]:
    counted = [r for r in results if r["phase"] in COUNTED]
    sums = {key: round(sum(r[key] for r in counted), 1) for key in ("seconds", "cpu_seconds")}
    return {**sums, "peak_mb": max(r["peak_mb"] for r in counted)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=int, nargs="+", default=[250_000, 125_000], help=f"scenes for {JOBS} jobs")
    parser.add_argument("--shards", type=int, default=64)
    parser.add_argument("--workdir", type=Path, help="where to write some GB; default: the system's temporary folder")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"), help="JSON file to write")
    args = parser.parse_args()
    runs = []
    for sources in args.sources:
        load = os.getloadavg()[0]
        with tempfile.TemporaryDirectory(dir=args.workdir) as folder:
            phases = measure(Path(folder), args.shards, sources)
        # Of others: seconds are seconds, and on a machine that others use CPU seconds say more.
        loads = {"load_before": round(load, 1), "load_after": round(os.getloadavg()[0], 1)}
        runs.append(
            {"sources": sources, "variants": JOBS // sources, **loads, "phases": phases, "total": total(phases)}
        )
        print(f"{sources} sources; plan, shards and join: {runs[-1]['total']}", flush=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    report = machine() | {"commit": commit.strip(), "shards": args.shards, "runs": runs}
    args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

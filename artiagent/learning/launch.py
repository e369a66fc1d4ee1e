"""One stage of fine-tuning in several processes of this machine, started by PyTorch's own launcher.

Knows processes, their messages and their end. Does not know training: every process runs `stages.train_stage`. The job
travels as JSON in a file; points of the curve come back as lines of another.

``python -m torch.distributed.run --nproc_per_node N -m artiagent.learning.launch JOB.json`` is what `launch` calls.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from artiagent.devices import quiet_loading, use_threads
from artiagent.learning.family import family_of
from artiagent.learning.paired import open_rows
from artiagent.learning.stages import CURVES, Report, StageJob, train_stage
from artiagent.store import write_atomic

JOB, POINTS, ERROR = "job.json", "points.jsonl", "error-{rank}.txt"
POLL_SECONDS = 0.5


def launch(job: StageJob, report: Report | None = None) -> None:
    """Train the stage in ``job.section.processes`` processes.

    They end when this one dies: they hold the other end of a pipe. Raises RuntimeError, with the first message of the
    process that failed, when one of them does; the next call resumes.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    for old in (*job.folder.glob(ERROR.format(rank="*")), job.folder / POINTS):
        old.unlink(missing_ok=True)
    write_atomic(job.folder / JOB, job.model_dump_json().encode())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
    command += [str(job.section.processes), "--module", __name__, str(job.folder / JOB)]
    environment = {"OMP_NUM_THREADS": str(job.section.threads), **os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True)
    lines: list[str] = []
    relay = threading.Thread(target=_relay, args=(process, lines), daemon=True)
    relay.start()
    try:
        told = 0
        while process.poll() is None:
            relay.join(POLL_SECONDS)
            told += _tell(job.folder / POINTS, told, report)
        _tell(job.folder / POINTS, told, report)
    finally:
        process.stdin.close()  # an interrupted caller takes the processes along
        process.wait()
    relay.join()
    if process.returncode or not (job.folder / CURVES).is_file():
        raise RuntimeError(
            f"finetune {job.stage.name}: {_reason(job, lines, process.returncode)}; "
            "run the same again to resume from the last checkpoint"
        )


def _relay(process: subprocess.Popen[str], lines: list[str]) -> None:
    """Pass the processes' messages on, and keep the last of them."""
    for line in process.stderr:
        sys.stderr.write(line)
        lines[:] = [*lines[-50:], line]


def _tell(path: Path, told: int, report: Report | None) -> int:
    """Report the points that were added to the file; how many."""
    if report is None or not path.is_file():
        return 0
    lines = path.read_text().split("\n")[:-1]  # the last may be half-written
    for line in lines[told:]:
        report(json.loads(line))
    return len(lines) - told


def _reason(job: StageJob, lines: list[str], code: int) -> str:
    failed = sorted(job.folder.glob(ERROR.format(rank="*")), key=lambda path: path.stat().st_mtime_ns)
    if failed:
        rank = failed[0].stem.rsplit("-", 1)[1]
        return f"process {rank} of {job.section.processes} failed: {failed[0].read_text().strip()}"
    killed = [line.strip() for line in lines if "exitcode" in line]
    told = killed[-1] if killed else f"exit code {code}"
    return f"one of {job.section.processes} processes died without a message ({told}; out of memory?)"


def main(path: str) -> None:
    """What each process does."""
    job, rank = StageJob.model_validate_json(Path(path).read_text()), int(os.environ["RANK"])
    threading.Thread(target=_end_with_the_launcher, daemon=True).start()
    quiet_loading()
    use_threads(job.section.threads)
    try:
        processor = family_of(job.base.uri).load_processor(job.base.uri, job.section.image_pixels)
        rows = open_rows(job.section, job.conversations, job.cache, processor)
        with (job.folder / POINTS).open("a") as points:
            train_stage(job, rows, lambda point: print(json.dumps(point), file=points, flush=True))
    except Exception as error:
        (job.folder / ERROR.format(rank=rank)).write_text(f"{type(error).__name__}: {error}")
        raise


def _end_with_the_launcher() -> None:
    """The pipe's other end is closed when whoever launched is gone."""
    if os.read(sys.stdin.fileno(), 1) == b"":
        os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])

"""One stage of fine-tuning in several processes, of this machine and of others, started by PyTorch's own launcher.

Knows processes, their messages and their end. Does not know training: every process runs `stages.train_stage`; nor how
machines find each other (`nodes`). The job travels as JSON in a file; points of the curve return as lines of another.
Several machines see the same folder: what the first process writes there, all of them resume from.

``python -m torch.distributed.run ... -m artiagent.learning.launch JOB.json`` is what `launch` and `follow` call.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from artiagent.devices import quiet_loading, use_threads
from artiagent.exchange import fetch
from artiagent.learning.family import family_of
from artiagent.learning.nodes import JOIN_SECONDS, Follower, Head, NodeError, Place
from artiagent.learning.paired import open_rows
from artiagent.learning.sharding import check_section
from artiagent.learning.stages import CURVES, Report, StageJob, train_stage
from artiagent.store import write_atomic

JOB, NODE_JOB, POINTS, ERROR = "job.json", "job-{node}.json", "points.jsonl", "error-{rank}.txt"
POLL_SECONDS = 0.5
GRACE_SECONDS = 5.0  # for the news of another node to explain why the processes here failed
SHARED_SECONDS = 60.0  # until a file that node 0 wrote must be seen by the others
Meeting = tuple[str, int]


def launch(job: StageJob, report: Report | None = None, head: Head | None = None) -> None:
    """Train the stage in ``section.processes`` processes; with ``head`` on every node that it gathered.

    They end when this one dies: they hold the other end of a pipe, and other nodes that of a connection. Raises
    RuntimeError, with the first message of the process that failed, when one of them does, and NodeError when a node
    is gone; `resumed` then gives the job with which the next call goes on.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    for old in (*job.folder.glob(ERROR.format(rank="*")), job.folder / POINTS):
        old.unlink(missing_ok=True)
    write_atomic(job.folder / JOB, job.model_dump_json().encode())
    meeting = head.start(job.model_dump(mode="json")) if head else None
    told = 0

    def watch() -> str:
        nonlocal told
        told += _tell(job.folder / POINTS, told, report)
        return head.trouble() if head else ""

    failure, trouble = _run(job, job.folder / JOB, _members(job, 0, meeting), watch)
    if failure or not (job.folder / CURVES).is_file():
        reason = trouble or failure or f"no {CURVES} in {job.folder}"
        kind = NodeError if trouble else RuntimeError
        raise kind(f"finetune {job.stage.name}: {reason}; run the same again to resume from the last checkpoint")


def follow(place: Place) -> None:
    """Train what node 0 asks for, until it has no more.

    Raises NodeError when node 0 is gone or something failed, here or elsewhere.
    """
    follower = Follower(place)
    try:
        for tree, meeting in follower.jobs():
            try:
                _take_part(StageJob.model_validate(tree), place, meeting, follower)
            except (OSError, ValueError, RuntimeError) as error:
                follower.fail(str(error))
                raise
    finally:
        follower.close()


def _take_part(job: StageJob, place: Place, meeting: Meeting, follower: Follower) -> None:
    check_section(job.section)
    _see(job.folder / JOB, place)
    job = _here(job)
    file = job.folder / NODE_JOB.format(node=place.index)
    write_atomic(file, job.model_dump_json().encode())
    failure, trouble = _run(job, file, _members(job, place.index, meeting), follower.trouble)
    if trouble or failure:
        raise NodeError(trouble or failure)


def _see(file: Path, place: Place) -> None:
    """Wait until a file of node 0 is here. Raises NodeError when the folder is not shared."""
    deadline = time.monotonic() + SHARED_SECONDS
    while not file.is_file():
        if time.monotonic() > deadline:
            raise NodeError(
                f"{file.parent}: node {place.index} does not see it; nodes need a folder that all of them share"
            )
        time.sleep(POLL_SECONDS)


def _here(job: StageJob) -> StageJob:
    """The job with data and weights on this machine, where it does not see those of node 0."""
    conversations, base = (
        ref if Path(ref.uri).is_dir() else fetch(ref) for ref in (job.conversations, job.base)
    )  # fmt: skip
    weights = Path(base.uri) if job.weights == Path(job.base.uri) else job.weights
    for folder in (Path(conversations.uri), Path(base.uri), weights):
        if not folder.is_dir():
            raise NodeError(
                f"{folder}: not on this node, nor in ARTIAGENT_STORE; put it into the folder that all share"
            )
    return job.model_copy(update={"conversations": conversations, "base": base, "weights": weights})


def _members(job: StageJob, node: int, meeting: Meeting | None) -> list[str]:
    """Arguments of PyTorch's launcher that say who takes part."""
    if meeting is None:
        return ["--standalone"]
    address, port = meeting
    return [
        "--nnodes", str(job.section.nodes), "--node_rank", str(node), "--master_addr", address,
        "--master_port", str(port), "--rdzv_conf", f"timeout={JOIN_SECONDS:.0f}",
    ]  # fmt: skip


def _command(job: StageJob, file: Path, members: list[str]) -> list[str]:
    return [
        sys.executable, "-m", "torch.distributed.run", *members, "--nproc_per_node", str(job.section.processes),
        "--module", __name__, str(file),
    ]  # fmt: skip


def _run(job: StageJob, file: Path, members: list[str], watch: Callable[[], str]) -> tuple[str, str]:
    """This machine's processes, to their end: why they failed, and what ``watch`` says of the other nodes; "": well.

    ``watch`` is called again and again; they are ended when it says something.
    """
    environment = {"OMP_NUM_THREADS": str(job.section.threads), **os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        _command(job, file, members), stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
    )
    lines: list[str] = []
    relay = threading.Thread(target=_relay, args=(process, lines), daemon=True)
    relay.start()
    trouble = ""
    try:
        while process.poll() is None and not trouble:
            relay.join(POLL_SECONDS)
            trouble = watch()
    finally:
        process.stdin.close()  # an interrupted caller takes the processes along
        if trouble:
            process.terminate()  # it may still be waiting for other nodes
        process.wait()
    relay.join()
    if not process.returncode:
        return "", watch()
    deadline = time.monotonic() + GRACE_SECONDS * (job.section.nodes > 1)
    while not (trouble := trouble or watch()) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    failure = _reason(job, lines, process.returncode)
    return failure, trouble


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
    count = job.section.world_size
    failed = sorted(job.folder.glob(ERROR.format(rank="*")), key=lambda path: path.stat().st_mtime_ns)
    if failed:
        rank = failed[0].stem.rsplit("-", 1)[1]
        return f"process {rank} of {count} failed: {failed[0].read_text().strip()}"
    killed = [line.strip() for line in lines if "exitcode" in line]
    told = killed[-1] if killed else f"exit code {code}"
    return f"one of {count} processes died without a message ({told}; out of memory?)"


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

"""What publishing and exchanging a data set costs, by its number of rows: seconds, and memory of all processes.

The rows are curated pairs whose images (two each) are random bytes, in files of 10,000 rows. The store and the DVC
remote are a real S3-compatible server (moto's) on this machine, in a process of its own that is not counted. Every
phase runs in a process of its own; its memory is that of this process and of those that it starts (DVC), sampled every
50 ms:

    publish   read the facts, write the card, push
    again     publish the same set: nothing to do
    pull      two of the files, as a data set of their own
    send      the folder into the object store
    fetch     manifest and small files on another machine
    read      all rows there: every file is fetched when its turn comes
    gc        look for garbage among the remote's objects

    python bench/publish.py --sets 20000x4096 100000x4096 20000x20000
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event, Thread

import psutil
from toolbox import cpu_model

from artiagent import exchange
from artiagent.dataset.garbage import survey
from artiagent.dataset.pull import find_published, pull_set
from artiagent.publish import JOBS, publish
from artiagent.records import DatasetRef, Pair
from artiagent.store import DatasetWriter, Row, dataset_dir, read_rows

FILE_ROWS, BATCH = 10_000, 500
BUCKET = "bench"


def make(rows: int, image_bytes: int) -> DatasetRef:
    """A curated set of this home."""
    out = dataset_dir("curated", str(rows), str(image_bytes))
    writer = DatasetWriter(out, "curated", ("clean", "artifact"))
    for start in range(0, rows, BATCH):
        writer.write(f"{start:07d}", [_row(start + n, image_bytes) for n in range(BATCH)])
    return writer.finish({"lineage.run": "bench"}, shards=rows // FILE_ROWS)


def _row(number: int, image_bytes: int) -> Row[Pair]:
    pair = Pair(
        job_id=f"j{number:07d}", source_id=f"s{number // 4:07d}", group="g", variant=number % 4, width=48, height=48,
        prompt="a dog", artifacts=(), backbone="generator", backbone_sha256="0" * 64, sampling={"steps": 10},
        licence="CC0-1.0", licences={"generator: nano-flux": "Apache-2.0"},
    )  # fmt: skip
    return Row(pair.job_id, pair, {side: os.urandom(image_bytes) for side in ("clean", "artifact")})


def measured(name: str, act: Callable[[], int]) -> dict[str, float | int | str]:
    """Seconds, peak memory in MB and what the phase returns, of a process of its own."""
    receiver, sender = get_context("spawn").Pipe(duplex=False)
    process = get_context("spawn").Process(target=_phase, args=(act, sender))
    process.start()
    sender.close()
    found = receiver.recv()
    process.join()
    told = {"phase": name, **found}
    print(f"{name:<9}{told['seconds']:>8.1f} s{told['peak_mb']:>7} MB   {told['result']}", flush=True)
    return told


def _phase(act: Callable[[], int], sender: Connection) -> None:
    over, peak = Event(), [0]
    base = _memory()
    watcher = Thread(target=_watch, args=(over, peak), daemon=True)
    watcher.start()
    started = time.monotonic()
    result = act()
    seconds = time.monotonic() - started
    over.set()
    watcher.join()
    sender.send({"seconds": round(seconds, 1), "peak_mb": peak[0], "imports_mb": base, "result": result})


def _watch(over: Event, peak: list[int]) -> None:
    while not over.wait(0.05):
        peak[0] = max(peak[0], _memory())


def _memory() -> int:
    """MB of this process and all below it."""
    this, total = psutil.Process(), 0
    for process in (this, *this.children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total // 2**20


def _publish(ref: DatasetRef, remote: str) -> int:
    return publish(ref, remote).size


def _pull(digest: str, remote: str, out: Path) -> int:
    return pull_set(find_published(digest, remote), out, (0, 1)).rows


def _send(ref: DatasetRef) -> int:
    return exchange.send(ref).rows


def _fetch(ref: DatasetRef) -> int:
    return exchange.fetch(ref).rows


def _read(ref: DatasetRef) -> int:
    return sum(1 for _ in read_rows(exchange.fetch(ref), Pair))


def _gc(remote: str) -> int:
    return survey(remote).referenced


def phases(rows: int, image_bytes: int, folder: Path) -> list[dict[str, float | int | str]]:
    """All phases on a set of so many rows."""
    os.environ["ARTIAGENT_HOME"] = str(folder / "a")
    os.environ["ARTIAGENT_STORE"] = f"s3://{BUCKET}/store"
    ref, remote = make(rows, image_bytes), f"s3://{BUCKET}/published-{rows}x{image_bytes}"
    found = [
        measured("publish", partial(_publish, ref, remote)),
        measured("again", partial(_publish, ref, remote)),
        measured("send", partial(_send, ref)),
    ]
    (folder / "a").rename(folder / "away")
    os.environ["ARTIAGENT_HOME"] = str(folder / "b")
    return found + [
        measured("pull", partial(_pull, ref.digest, remote, folder / "out")),
        measured("fetch", partial(_fetch, ref)),
        measured("read", partial(_read, ref)),
        measured("gc", partial(_gc, remote)),
    ]


@contextmanager
def server() -> Iterator[str]:
    """Address of an S3 server in a process of its own."""
    receiver, sender = get_context("spawn").Pipe(duplex=False)
    process = get_context("spawn").Process(target=_serve, args=(sender,), daemon=True)
    process.start()
    try:
        yield receiver.recv()
    finally:
        process.terminate()
        process.join()


def _serve(sender: Connection) -> None:
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    made = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    made.start()
    host, port = made.get_host_and_port()
    sender.send(f"http://{host}:{port}")
    Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = ["20000x4096", "100000x4096", "20000x20000"]
    parser.add_argument("--sets", nargs="+", default=default, metavar="ROWSxBYTES", help="rows, bytes of an image")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    report = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}", "cpu": cpu_model(), "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 1), "python": sys.version.split()[0],
        "file_rows": FILE_ROWS, "dvc_jobs": JOBS, "sets": [],
    }  # fmt: skip
    credentials = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    with server() as address:
        os.environ.update(credentials, AWS_ENDPOINT_URL=address)
        import boto3

        boto3.client("s3").create_bucket(Bucket=BUCKET)
        for asked in arguments.sets:
            rows, image_bytes = map(int, asked.split("x"))
            print(f"\n{rows} rows, images of {image_bytes} bytes")
            with tempfile.TemporaryDirectory(prefix="artiagent-publish-") as folder:
                found = phases(rows, image_bytes, Path(folder))
            report["sets"].append({"rows": rows, "image_bytes": image_bytes, "phases": found})
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\n{arguments.out}")


if __name__ == "__main__":
    main()

"""nano-VL behind ``artiagent serve``, once a session."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.vlm.servers import free_port

FOLDER = "data/weights/nano-vl"
WAIT = 240  # seconds: machines are shared


class Running(NamedTuple):
    process: subprocess.Popen
    url: str
    log: Path


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The command itself, in a process; ready when it has said so."""
    port, log = free_port(), tmp_path_factory.mktemp("serve") / "log"
    command = [sys.executable, "-m", "artiagent.cli", "serve", "--model", FOLDER, "--port", str(port)]
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, "--set", "evaluation.device=cpu"], stdout=out, stderr=out,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    try:
        until = time.monotonic() + WAIT
        while "is served on" not in log.read_text():
            assert process.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        yield Running(process, f"http://127.0.0.1:{port}", log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(30)

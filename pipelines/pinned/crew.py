"""The runner's side of its `supervisor`: start a process, hear how it ended, end it.

A message to the supervisor is ``{do: start, id, arguments, environment, folder, prefix, log}`` with the leases' open
files, or ``{do: kill, id}``; one from it is ``{id, pid}`` or ``{id, code, tail}``.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import Lock, Thread

from pipelines.pinned.supervisor import MESSAGE

ENTRY = "pipelines.pinned.entrypoint"


@dataclass(frozen=True)
class Job:
    """A process to be: arguments of the entry point, what is added to the environment, where its output goes.

    ``folder`` is the environment variable that shall name a folder of the process's own.
    """

    id: str
    arguments: list[str]
    environment: dict[str, str]
    folder: str
    prefix: str
    log: str


@dataclass(frozen=True)
class Ended:
    """Exit code, negative for a signal, and the last lines that were printed. Code None: the supervisor ended first."""

    code: int | None
    tail: list[str] = field(default_factory=list)


class Crew:
    """The processes of one runner. They end with it, however it ends.

    Args:
        root: folder that is current in the processes.
        preload: modules that the supervisor imports once for all of them, beside the entry point.
        entry: module whose ``main()`` every process executes.
    """

    def __init__(self, root: Path, preload: Sequence[str] = (), entry: str = ENTRY) -> None:
        self.parent, self._environment = os.getpid(), dict(os.environ)
        self._lock = Lock()
        self._pids: dict[str, int] = {}
        self._ended: dict[str, Callable[[Ended], None]] = {}
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "pipelines.pinned.supervisor", str(other.fileno()), entry, *preload]
        self._process = subprocess.Popen(
            command, cwd=root, pass_fds=[other.fileno()], start_new_session=True, stdin=subprocess.DEVNULL
        )
        other.close()
        Thread(target=self._listen, name="pinned-steps", daemon=True).start()

    @property
    def alive(self) -> bool:
        return self.parent == os.getpid() and self._process.poll() is None

    def start(self, job: Job, files: Sequence[int], ended: Callable[[Ended], None]) -> None:
        """Start a process that inherits ``files``; ``ended`` is called, in another thread, when it has ended.

        It has this process's environment as it is now, and the job's.
        """
        news = {name: value for name, value in os.environ.items() if self._environment.get(name) != value}
        job = replace(job, environment=news | job.environment)
        with self._lock:
            self._ended[job.id] = ended
        try:
            self._send({"do": "start", **asdict(job)}, files)
        except OSError:
            self._end(job.id, Ended(None))

    def pid(self, id: str) -> int | None:
        """Number of a process that was started; None while it waits for that."""
        return self._pids.get(id)

    def kill(self, id: str) -> None:
        """End a process and all that it started, gently first."""
        with suppress(OSError):
            self._send({"do": "kill", "id": id})

    def close(self) -> None:
        """End all processes and wait for that."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._process.wait()

    def _send(self, message: dict, files: Sequence[int] = ()) -> None:
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(message).encode()], files)

    def _listen(self) -> None:
        """Until the supervisor is gone, and with it all processes."""
        with suppress(OSError):
            while text := self._socket.recv(MESSAGE):
                message = json.loads(text)
                if "pid" in message:
                    self._pids[message["id"]] = message["pid"]
                else:
                    self._end(message["id"], Ended(message["code"], message["tail"]))
        for id in list(self._ended):
            self._end(id, Ended(None))

    def _end(self, id: str, how: Ended) -> None:
        with self._lock:
            ended = self._ended.pop(id, None)
        if ended is not None:
            ended(how)

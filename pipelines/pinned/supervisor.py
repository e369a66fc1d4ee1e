"""The process that starts the steps' processes, passes on what they print, and ends them when its own parent ends.

It has imported what every step needs and forks, so that a step does not pay for it; it has one thread and touches no
device. In a session of its own, it sees no Ctrl-C: it ends its children when it is told to, when it gets SIGTERM, or
when the other end of its socket is closed, as the kernel does for a parent that was killed. Should it be killed itself,
the kernel kills its children.

Messages are JSON objects, see `crew`. Knows no ZenML and no device, only names of modules to import.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import IO

GRACE = 10.0  # seconds between SIGTERM and SIGKILL
PAUSE = 0.1  # seconds between two looks at the children
MESSAGE, FILES = 2**17, 64
BAR = 10.0  # seconds between two looks at a bar
LINE = 2**16  # bytes; a longer one is broken
TAIL = 20  # lines of a child's output that are kept for an error message
PR_SET_PDEATHSIG = 1
DRIVER = "/dev/nvidia"


@dataclass
class Child:
    """A process, whose group has its number, and its output."""

    id: str
    pid: int
    prefix: str
    out: int
    log: IO[bytes]
    rest: bytes = b""
    tail: list[str] = field(default_factory=list)
    bar_at: float = 0.0
    kill_at: float | None = None


class Supervisor:
    """Serves one socket until it closes. `serve` returns twice or more: in every child with its module's arguments."""

    def __init__(self, parent: socket.socket, scratch: Path) -> None:
        self.parent, self.scratch = parent, scratch
        self.children: dict[str, Child] = {}
        self.selector = selectors.PollSelector()
        self.selector.register(parent, selectors.EVENT_READ)
        self.ending = False

    def serve(self) -> list[str] | None:
        """None at the end; in a child that was forked, its arguments."""
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        while not self.ending or self.children:
            for key, _ in self.selector.select(PAUSE):
                if key.data is not None:
                    self._pass_on(key.data)
                elif (arguments := self._receive()) is not None:
                    return arguments
            self._bury()
        return None

    def _end(self, *_: object) -> None:
        self.ending = True
        for child in self.children.values():
            self._kill(child)

    def _receive(self) -> list[str] | None:
        try:
            text, files, _, _ = socket.recv_fds(self.parent, MESSAGE, FILES)
        except ConnectionError:
            text, files = b"", []
        if not text:
            self.selector.unregister(self.parent)
            self._end()
            return None
        message = json.loads(text)
        if message["do"] == "kill":
            if child := self.children.get(message["id"]):
                self._kill(child)
            return None
        return self._start(message, files)

    def _start(self, message: dict, files: list[int]) -> list[str] | None:
        """Fork. The open files that came along, the leases, stay with the child alone."""
        out, end = os.pipe()
        own = os.getpid()
        pid = os.fork()
        if pid:
            for file in (*files, end):
                os.close(file)
            os.set_blocking(out, False)
            log = Path(message["log"])
            log.parent.mkdir(parents=True, exist_ok=True)
            child = Child(message["id"], pid, message["prefix"], out, log.open("ab"))
            self.children[child.id] = child
            self.selector.register(out, selectors.EVENT_READ, child)
            self._tell(id=child.id, pid=pid)
            return None
        _become(message, end, own, self.scratch)
        for child in self.children.values():
            os.close(child.out)
            child.log.close()
        os.close(out)
        self.parent.close()
        return message["arguments"]

    def _kill(self, child: Child) -> None:
        """The whole group, gently first."""
        if child.kill_at is None:
            child.kill_at = time.monotonic() + GRACE
            _signal_group(child.pid, signal.SIGTERM)

    def _bury(self) -> None:
        """Report children that ended, with what they left behind in their group ended as well."""
        for child in list(self.children.values()):
            if child.kill_at is not None and time.monotonic() > child.kill_at:
                _signal_group(child.pid, signal.SIGKILL)
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                _signal_group(child.pid, signal.SIGKILL)
                self._pass_on(child, last=True)
                self.selector.unregister(child.out)
                os.close(child.out)
                child.log.close()
                del self.children[child.id]
                self._tell(id=child.id, code=os.waitstatus_to_exitcode(status), tail=child.tail)

    def _pass_on(self, child: Child, last: bool = False) -> None:
        """What a child printed: everything to its log, its lines with a prefix to where this process prints.

        Of a bar that is drawn again and again in one line, what it shows every few seconds and at the end.
        """
        with suppress(BlockingIOError):
            while data := os.read(child.out, 2**16):
                child.log.write(data)
                child.log.flush()
                *lines, child.rest = (child.rest + data).split(b"\n")
                self._print(child, lines)
        bar = b"\r" in child.rest and time.monotonic() > child.bar_at
        if last or bar or len(child.rest) > LINE:
            shown, child.rest = child.rest, b""
            child.bar_at = time.monotonic() + BAR
            self._print(child, [shown])

    def _print(self, child: Child, lines: Iterable[bytes]) -> None:
        drawn = (line.decode(errors="replace").rstrip().rpartition("\r")[2] for line in lines)
        texts = [text for text in drawn if text]
        child.tail = [*child.tail, *texts][-TAIL:]
        with suppress(OSError):  # the terminal may be gone; the log is not
            os.write(1, "".join(f"{child.prefix} {text}\n" for text in texts).encode())

    def _tell(self, **message: object) -> None:
        with suppress(OSError):  # a parent that is gone: its end of the socket says so to the loop
            self.parent.send(json.dumps(message).encode())


def _become(message: dict, out: int, parent: int, scratch: Path) -> None:
    """In the child: a group of its own that dies with the supervisor, its environment, a folder, its output."""
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (out, 1), (out, 2)):
        os.dup2(source, target)
    os.close(out)
    os.close(null)
    os.environ.update(message["environment"])
    os.environ[message["folder"]] = str(scratch / str(os.getpid()))


def _signal_group(pid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def check_untouched(modules: Iterable[str]) -> None:
    """Raises RuntimeError when an import has opened a GPU driver: a forked process could not use the GPU."""
    for file in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if (target := os.readlink(file)).startswith(DRIVER):
                raise RuntimeError(
                    f"preload {', '.join(modules)}: a module opens {target} when it is imported, which a forked "
                    "process cannot use; leave it out of the stack's 'preload'"
                )


def main() -> None:
    """``python -m pipelines.pinned.supervisor FD RUN MODULE...``: serve on an inherited socket, with modules imported.

    ``RUN`` is the module whose ``main()`` a child executes, with its arguments in ``sys.argv``.
    """
    number, run, *modules = sys.argv[1:]
    for name in (run, *modules):
        import_module(name)
    check_untouched(modules)
    scratch = Path(tempfile.mkdtemp(prefix="artiagent-steps-"))
    arguments = Supervisor(socket.socket(fileno=int(number)), scratch).serve()
    if arguments is None:
        shutil.rmtree(scratch, ignore_errors=True)
        return
    sys.argv = [run, *arguments]
    import_module(run).main()


if __name__ == "__main__":
    main()

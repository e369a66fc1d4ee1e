"""Several machines that train together: node 0 has the work, the others ask it what to do and say how it went.

Knows who takes part, what they are told, and that one of them is gone. Does not know training (`launch`).

Every other node keeps one connection to node 0: lines of JSON, a sign of life every few seconds. Its end is the node's
end, so that nobody waits for a machine that died. PyTorch's own rendezvous and collectives run beside it, on other
ports. None of them knows passwords or encryption: the network between the nodes must be their own.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from queue import Empty, Queue
from threading import Lock, Thread
from typing import Any, TypeVar

from pydantic import ValidationError

from artiagent.config import Section, SftSection

RANK, ADDRESS, PORT = "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"  # as PyTorch's launchers call them
DEFAULT_PORT = 29500
JOIN_SECONDS = 1800.0  # until all are there: images are pulled, machines started
BEAT_SECONDS, SILENT_SECONDS = 2.0, 60.0  # between signs of life; without any a node counts as gone
LEAVE_SECONDS = 10.0  # for the others to have heard how it ended
RETRY_SECONDS = 0.5
LONGEST = 1 << 20  # bytes of a message
FOLLOW = "artiagent.learning.follow"  # what the other nodes run
T = TypeVar("T")


class NodeError(RuntimeError):
    """A node is not there, is gone, or failed."""


class Place(Section):
    """This machine's place among those that train together, and where they meet: an address of node 0."""

    index: int
    address: str
    port: int = DEFAULT_PORT

    @property
    def meeting(self) -> str:
        return f"{self.address}:{self.port}"


def place_here(environment: Mapping[str, str] = os.environ) -> Place:
    """From ``NODE_RANK``, ``MASTER_ADDR`` and ``MASTER_PORT``. Raises ValueError naming what is missing."""
    if missing := [name for name in (RANK, ADDRESS) if not environment.get(name)]:
        raise ValueError(
            f"{' and '.join(missing)} not set: which of the nodes this is (from 0), and an address of node 0 that all "
            "of them reach (docs/finetuning.md)"
        )
    port = environment.get(PORT) or DEFAULT_PORT
    try:
        return Place(index=environment[RANK], address=environment[ADDRESS], port=port)
    except ValidationError as error:
        raise ValueError(f"{RANK}={environment[RANK]}, {PORT}={port}: expected whole numbers") from error


class Line:
    """One connection. Messages that came are in ``inbox``; None there: no more will, ``over`` says why."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(SILENT_SECONDS)
        self.inbox: Queue[dict[str, Any] | None] = Queue()
        self.over = ""
        self._connection, self._lock = connection, Lock()
        Thread(target=self._listen, name="node-listens", daemon=True).start()
        Thread(target=self._live, name="node-lives", daemon=True).start()

    def say(self, **message: Any) -> None:
        """Nothing is raised for one who does not hear: its silence is noticed."""
        with self._lock:
            try:
                self._connection.sendall(json.dumps(message).encode() + b"\n")
            except OSError as error:
                self._end(f"nothing can be sent ({error})")

    def close(self) -> None:
        self._end("closed here")

    def _listen(self) -> None:
        try:
            with self._connection.makefile("rb") as lines:
                while line := lines.readline(LONGEST):
                    message = json.loads(line)
                    if not isinstance(message, dict):
                        raise ValueError("not one of ours")
                    if message:
                        self.inbox.put(message)
            self._end("its connection closed")
        except TimeoutError:
            self._end(f"no sign of life for {SILENT_SECONDS:g} s")
        except (OSError, ValueError) as error:
            self._end(f"{type(error).__name__}: {error}")
        self.inbox.put(None)

    def _live(self) -> None:
        while not self.over:
            self.say()
            time.sleep(BEAT_SECONDS)

    def _end(self, why: str) -> None:
        self.over = self.over or why
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()


class Head:
    """Node 0's side: the others, by index."""

    def __init__(self, place: Place, count: int) -> None:
        """Open the meeting place. Raises NodeError when it is not an address of this machine, or taken."""
        self.place, self.count = place, count
        self._lines: dict[int, Line] = {}
        self._failed: dict[int, str] = {}
        self._server = _patiently(
            lambda: socket.create_server((place.address, place.port)),
            f"{ADDRESS}={place.address}, {PORT}={place.port}: node 0 cannot be reached there",
            passing=socket.gaierror,
        )
        Thread(target=self._welcome, name="node-welcome", daemon=True).start()

    def start(self, job: dict[str, Any]) -> tuple[str, int]:
        """Hand a job to all, once all are there; the address and port at which PyTorch's processes meet.

        Raises NodeError naming those that did not come, or are gone already.
        """
        deadline = time.monotonic() + JOIN_SECONDS
        while missing := [index for index in range(1, self.count) if index not in self._lines]:
            if time.monotonic() > deadline:
                raise NodeError(
                    f"after {JOIN_SECONDS:g} s node {', '.join(map(str, missing))} of {self.count} is not at "
                    f"{self.place.meeting}; start it (docs/finetuning.md), and see that the network lets it through"
                )
            time.sleep(RETRY_SECONDS)
        if trouble := self.trouble():
            raise NodeError(trouble)
        meeting = self.place.address, _free_port(self.place.address)
        for line in self._lines.values():
            line.say(job=job, meeting=meeting)
        return meeting

    def trouble(self) -> str:
        """Who is gone, else who failed and why; "" while all is well."""
        for index, line in sorted(self._lines.items()):
            try:
                while message := line.inbox.get_nowait():
                    self._failed.setdefault(index, str(message.get("failed", message)))
            except Empty:
                pass
            if line.over and index not in self._failed:
                return f"node {index} of {self.count} is gone ({line.over})"
        return next((f"node {index} of {self.count}: {why}" for index, why in sorted(self._failed.items())), "")

    def close(self, error: str = "") -> None:
        """Tell the others how it ended and wait, a little, until they are gone."""
        for line in self._lines.values():
            line.say(end=error)
        deadline = time.monotonic() + LEAVE_SECONDS
        while time.monotonic() < deadline and not all(line.over for line in self._lines.values()):
            time.sleep(0.05)
        self._server.close()
        for line in self._lines.values():
            line.close()

    def _welcome(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            Thread(target=self._join, args=(Line(connection),), daemon=True).start()

    def _join(self, line: Line) -> None:
        try:
            hello = line.inbox.get(timeout=SILENT_SECONDS)
        except Empty:
            hello = None
        index = hello.get("node") if hello else None
        if index in range(1, self.count) and index not in self._lines:
            self._lines[index] = line
        else:
            line.say(end=f"node {index}: there are nodes 1 to {self.count - 1}, each once")
            line.close()


class Follower:
    """The other nodes' side."""

    def __init__(self, place: Place) -> None:
        """Ask node 0 for work. Raises NodeError when it does not answer for `JOIN_SECONDS`."""
        self.place = place
        connection = _patiently(
            lambda: socket.create_connection((place.address, place.port), 10),
            f"node 0 does not answer at {place.meeting}",
        )
        self.line = Line(connection)
        self.line.say(node=place.index)
        self._ended: str | None = None

    def jobs(self) -> Iterator[tuple[dict[str, Any], tuple[str, int]]]:
        """Jobs and where PyTorch's processes meet, until there are no more. Raises NodeError when node 0 is gone, or
        stopped because something failed.
        """
        while (message := self.line.inbox.get()) is not None and "end" not in message:
            yield message["job"], tuple(message["meeting"])
        if message is None:
            raise NodeError(self._gone())
        if message["end"]:
            raise NodeError(f"node 0 stopped: {message['end']}")

    def trouble(self) -> str:
        """Why this node need not go on; "" while it should."""
        waiting = list(self.line.inbox.queue)
        ends = [message["end"] for message in waiting if message and "end" in message]
        return ends[0] if ends else self._gone() if self.line.over else ""

    def fail(self, reason: str) -> None:
        """Tell node 0, and wait, a little, until it has heard."""
        self.line.say(failed=reason)
        deadline = time.monotonic() + LEAVE_SECONDS
        while time.monotonic() < deadline and not (self.trouble() or self.line.over):
            time.sleep(0.05)

    def close(self) -> None:
        self.line.close()

    def _gone(self) -> str:
        return f"node 0 at {self.place.meeting} is gone ({self.line.over})"


@contextmanager
def gathered(section: SftSection) -> Iterator[Head | None]:
    """Node 0's side of ``section.nodes`` machines while the body works; None where there is one.

    The others are told how the body ended. Raises ValueError when this machine does not know its place, or is not
    node 0.
    """
    if section.nodes == 1:
        yield None
        return
    try:
        place = place_here()
    except ValueError as error:
        raise ValueError(f"sft.nodes {section.nodes}: {error}; or set sft.nodes to 1") from error
    if place.index:
        raise ValueError(f"{RANK}={place.index}: only node 0 is given the work; here: python -m {FOLLOW}")
    head = Head(place, section.nodes)
    try:
        yield head
    except BaseException as error:
        head.close(str(error) or type(error).__name__)
        raise
    head.close()


def _patiently(attempt: Callable[[], T], what: str, passing: type[OSError] = OSError) -> T:
    """Try until it works, as long as it fails in a way that may pass: new machines' names are not known at once."""
    deadline = time.monotonic() + JOIN_SECONDS
    while True:
        try:
            return attempt()
        except OSError as error:
            if not isinstance(error, passing) or time.monotonic() > deadline:
                raise NodeError(f"{what}: {error}") from error
            time.sleep(RETRY_SECONDS)


def _free_port(address: str) -> int:
    with socket.create_server((address, 0)) as server:
        return server.getsockname()[1]

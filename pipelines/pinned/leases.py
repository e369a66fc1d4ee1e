"""Which process of this host has which device: one locked file per device.

The lock belongs to the open file, which the step's process inherits: the kernel gives the device back when the last
process that has it is gone, however that ended. Names are free text. Knows neither ZenML nor GPUs.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from artiagent.store import home

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*")
PAUSE = 0.1  # seconds between two tries
DEVICES = "devices"  # the queue of those who take devices


class LeaseError(RuntimeError):
    """Devices that were not to be had."""


@dataclass
class Lease:
    """Devices, and the open files whose locks they are. Whoever inherits the files has the devices as well."""

    devices: tuple[str, ...]
    files: tuple[int, ...] = field(repr=False)

    def release(self) -> None:
        """Close the files here; the devices are free when no other process has them open."""
        for file in self.files:
            os.close(file)
        self.files = ()


def device_names(text: str) -> tuple[str, ...]:
    """From ``0,1,2``. Raises ValueError for a name that is no file name, and for one given twice."""
    names = tuple(name for part in text.split(",") if (name := part.strip()))
    for name in names:
        if not NAME.fullmatch(name):
            raise ValueError(f"device {name!r}: expected letters, digits and . _ : -, e.g. 0, GPU-8f6f or fake-0")
    if len(set(names)) < len(names):
        raise ValueError(f"devices {text!r}: a name is there twice; name every device once")
    return names


def too_few(step: str, count: int, names: Sequence[str]) -> str:
    """What is wrong with a step that needs more devices than there are, and what to do about it."""
    have = ", ".join(names) or "none"
    return (
        f"{step}: its profile needs {count} devices, the pinned stack has {len(names)} ({have}); name a smaller "
        f"profile under scale.profiles, or register the stack with more devices"
    )


def lock_dir() -> Path:
    """Where the locks of this host are: of the home, and of the host when several share the home."""
    return home() / "devices" / socket.gethostname()


def lease(
    devices: Sequence[str],
    count: int,
    holder: str,
    seconds: float,
    waiting: Callable[[], None] = lambda: None,
    queue: str = DEVICES,
) -> Lease:
    """Take ``count`` of ``devices`` at once, waiting until they are free.

    One taker of a queue at a time chooses. One that needs several keeps its turn, and what it has, while the rest
    becomes free: so two takers never hold what the other waits for, and those that need few do not pass it for ever.

    Args:
        devices: names to choose from.
        count: how many, of which all or none.
        holder: who has them, for `holders`.
        seconds: how long to wait.
        waiting: called between two tries; what it raises ends the waiting.
        queue: those who choose from the same devices are in the same queue.

    Raises LeaseError when there are fewer devices than asked for, or when the time is over.
    """
    if count > len(devices):
        raise LeaseError(too_few(holder, count, devices))
    end = time.monotonic() + seconds
    taken: dict[str, int] = {}
    turn = None
    try:
        while len(taken) < count:
            turn = _try(f".{queue}") if turn is None else turn
            if turn is not None:
                _take_free(devices, count, taken, holder)
            if turn is not None and count == 1:
                os.close(turn)
                turn = None
            if len(taken) < count:
                if time.monotonic() >= end:
                    raise LeaseError(f"{holder}: no {count} of the devices {', '.join(devices)} for {seconds:.0f} s")
                waiting()
                time.sleep(PAUSE)
    except BaseException:
        Lease((), tuple(taken.values())).release()
        raise
    finally:
        if turn is not None:
            os.close(turn)
    return Lease(tuple(taken), tuple(taken.values()))


def holders(devices: Sequence[str]) -> dict[str, str]:
    """Who has which device now; a free one has "". A device that is tried here is free again at once."""
    return {device: _holder(device) for device in devices}


def _holder(device: str) -> str:
    try:
        file = os.open(_path(device), os.O_RDONLY)
    except FileNotFoundError:
        return ""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(file, 4096, 0)
        return json.loads(text)["holder"] if text else "?"
    finally:
        os.close(file)
    return ""


def _take_free(devices: Sequence[str], count: int, taken: dict[str, int], holder: str) -> None:
    for device in devices:
        if len(taken) == count:
            return
        if device not in taken and (file := _try(device)) is not None:
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps({"holder": holder}).encode(), 0)
            taken[device] = file


def _try(name: str) -> int | None:
    """The open, locked file, or None when another has the lock."""
    path = _path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


def _path(name: str) -> Path:
    return lock_dir() / f"{name}.lock"

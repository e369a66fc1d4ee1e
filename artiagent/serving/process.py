"""A server as a child process: started, waited for, ended together with whoever started it.

Knows processes and signals. Does not know what is served.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from artiagent.serving.address import is_healthy

_PATIENCE = (20.0, 5.0)  # seconds after SIGINT, after SIGTERM
_POLL = 0.25


def require_free(host: str, port: int) -> None:
    """Raises ValueError when nobody can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise ValueError(f"{host}:{port}: cannot listen there ({error}); choose another --host or --port") from None


def run_server(command: list[str], url: str, announce: Callable[[], None]) -> int:
    """Run until the server ends or somebody interrupts. Returns the server's exit code, 0 after an interrupt.

    The server runs in a session of its own, so that Ctrl-C reaches it once, from here. It finds the hub offline: all it
    needs lies in its folder.

    Args:
        command: the server's.
        url: where it will listen, without a path.
        announce: called once it is healthy.
    """
    before = signal.signal(signal.SIGTERM, _interrupt)
    process = subprocess.Popen(command, start_new_session=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    try:
        while process.poll() is None and not is_healthy(url):
            time.sleep(_POLL)
        if process.poll() is None:
            announce()
        return _code(process.wait())
    except KeyboardInterrupt:
        _end(process)
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)
        if process.poll() is None:
            process.kill()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _end(process: subprocess.Popen) -> None:
    """Ask politely, then less so."""
    for number, patience in zip((signal.SIGINT, signal.SIGTERM), _PATIENCE, strict=True):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            process.wait(patience)
            return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _code(returned: int) -> int:
    """As a shell tells it: 128 and the signal's number."""
    return returned if returned >= 0 else 128 - returned

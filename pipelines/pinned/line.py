"""Steps of one process that wait for the same devices: first come, first served, and one line that says who waits."""

from __future__ import annotations

import sys
import textwrap
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

SAY_AFTER = 5.0  # seconds of waiting before it is said
NEWS = 60.0  # seconds between two times that it is said
PAUSE = 0.2  # seconds between two looks whether one is the first


class Line:
    """Of those who wait in this process; other processes have lines of their own, see `leases`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._waiting: deque[tuple[str, float]] = deque()
        self._lock = Lock()
        self._say_at = 0.0

    @contextmanager
    def wait(self, who: str, go_on: Callable[[], None]) -> Iterator[Callable[[], None]]:
        """Until one is the first, and stays it inside; gives what to call while one goes on waiting there.

        ``go_on`` raises when the waiting shall end.
        """
        mine = (who, time.monotonic())
        with self._lock:
            self._say_at = self._say_at if self._waiting else mine[1] + SAY_AFTER
            self._waiting.append(mine)

        def waiting() -> None:
            go_on()
            self._say()

        try:
            while self._waiting[0] is not mine:
                waiting()
                time.sleep(PAUSE)
            yield waiting
        finally:
            with self._lock:
                self._waiting.remove(mine)

    def _say(self) -> None:
        with self._lock:
            if (now := time.monotonic()) < self._say_at:
                return
            self._say_at = now + NEWS
            names = ", ".join(who for who, _ in self._waiting)
            longest = now - self._waiting[0][1]
        text = f"waiting for {self.name}, the longest for {longest:.0f} s: {textwrap.shorten(names, 200)}"
        print(text, file=sys.stderr, flush=True)

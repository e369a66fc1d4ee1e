"""Ordered map over worker processes: one model replica per process, one thread each, none of which outlives its parent.

On a CPU two single-threaded processes beat one with two threads for small models, and the pixels do not depend on how
many there are. On one GPU use one worker, which runs in this process.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")
U = TypeVar("U")

_worker: Any = None
_failure: Exception | None = None


def ordered_map(
    build: Callable[..., Callable[[T], U]], arguments: tuple, items: Iterable[T], workers: int
) -> Iterator[U]:
    """Yield ``build(*arguments)(item)`` for every item, in order.

    Args:
        build: makes the work function once per worker (loads the model); importable by name.
        arguments: for ``build``.
        items: consumed as a stream, at most two per worker ahead.
        workers: number of processes; 1 works in this process.

    Raises what ``build`` or the work raises, and RuntimeError when a worker process was killed.
    """
    if workers <= 1:
        yield from _in_process(build, arguments, items)
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start, (build, arguments))
    pending: deque = deque()
    try:
        for item in items:
            pending.append(pool.submit(_work, item))
            if len(pending) >= 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a worker process was killed, most often for lack of memory; fewer workers need less. Run again to resume"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _in_process(build: Callable[..., Callable[[T], U]], arguments: tuple, items: Iterable[T]) -> Iterator[U]:
    work: Callable[[T], U] | None = None
    for item in items:
        work = work or build(*arguments)
        yield work(item)


def _start(build: Callable[..., Any], arguments: tuple) -> None:
    """Worker initialiser. Ctrl-C is the parent's to handle: it stops handing out work."""
    global _worker, _failure  # noqa: PLW0603  (a process pool has no other place for the replica)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    try:
        _worker = build(*arguments)
    except Exception as error:  # raised by the first piece of work: from here the pool would only say "broken"
        _failure = error


def _end_with_parent() -> None:
    """A parent that was killed cannot tell its workers, which would wait for work, and hold their models, forever."""
    parent_process().join()
    os._exit(1)


def _work(item: Any) -> Any:
    if _failure is not None:
        raise _failure
    return _worker(item)

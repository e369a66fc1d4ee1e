"""Ordered work over processes: same results, same order, errors come through."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from artiagent.parallel import ordered_map


class Scale:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, value: int) -> tuple[int, int]:
        if value < 0:
            raise ValueError(f"negative value {value}")
        return value * self.factor, os.getpid()


@pytest.mark.parametrize("workers", [1, 2])
def test_order_is_kept(workers: int) -> None:
    found = list(ordered_map(Scale, (3,), iter(range(9)), workers))
    assert [value for value, _ in found] == [3 * v for v in range(9)]
    here = os.getpid() in {pid for _, pid in found}
    assert here == (workers == 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_come_through(workers: int) -> None:
    with pytest.raises(ValueError, match="negative value -1"):
        list(ordered_map(Scale, (1,), [1, -1, 2], workers))


class Broken:
    def __init__(self) -> None:
        raise FileNotFoundError("no weights here")


class Dying:
    def __call__(self, value: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_model_that_cannot_be_loaded_says_why(workers: int) -> None:
    with pytest.raises(FileNotFoundError, match="no weights here"):
        list(ordered_map(Broken, (), [1, 2], workers))


def test_a_killed_worker_is_explained() -> None:
    with pytest.raises(RuntimeError, match="worker process was killed.*Run again to resume"):
        list(ordered_map(Dying, (), [1], 2))


ENDLESS = """
import os, sys
sys.path.insert(0, {here!r})
from test_parallel import Scale
from artiagent.parallel import ordered_map
for value, worker in ordered_map(Scale, (1,), iter(int, 1), 2):
    print(worker, flush=True)
"""


def test_workers_do_not_outlive_a_killed_parent() -> None:
    code = ENDLESS.format(here=str(Path(__file__).parent))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        workers = {int(parent.stdout.readline()) for _ in range(20)}
        children = psutil.Process(parent.pid).children(recursive=True)
        assert workers <= {child.pid for child in children}
        parent.kill()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []


def test_nothing_to_do_loads_nothing() -> None:
    def explode() -> None:
        raise AssertionError("loaded")

    assert list(ordered_map(explode, (), [], 1)) == []

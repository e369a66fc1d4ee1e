"""Ordered work over processes: same results, same order, errors come through."""

import os

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


def test_nothing_to_do_loads_nothing() -> None:
    def explode() -> None:
        raise AssertionError("loaded")

    assert list(ordered_map(explode, (), [], 1)) == []

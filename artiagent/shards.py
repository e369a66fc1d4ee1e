"""A shard: one of the equal pieces that a stage's work is cut into, to be done by different processes or machines."""

from __future__ import annotations

import re
from typing import NamedTuple

PART = "part"  # name of what a shard of a stage returns
_LABEL = re.compile(r"(\d{5,})-of-(\d{5,})")


class _Shard(NamedTuple):
    index: int
    count: int


class Shard(_Shard):
    """Piece ``index`` of ``count``, 0 <= index < count. Raises ValueError for any other."""

    __slots__ = ()

    def __new__(cls, index: int, count: int) -> Shard:
        if not 0 <= index < count:
            raise ValueError(f"shard {index}/{count}: expected I/N with 0 <= I < N, e.g. 0/4, 1/4, 2/4 and 3/4")
        return super().__new__(cls, index, count)

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From ``I/N``. Raises ValueError saying what was expected."""
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise ValueError(f"shard {text!r}: expected I/N with 0 <= I < N, e.g. 0/4, 1/4, 2/4 and 3/4")
        return cls(int(index), int(count))

    @classmethod
    def from_label(cls, label: str) -> Shard | None:
        """The shard with that label; None for any other text."""
        match = _LABEL.fullmatch(label)
        if match is None or not (found := (int(match[1]), int(match[2])))[0] < found[1]:
            return None
        return cls(*found) if cls(*found).label == label else None

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def label(self) -> str:
        """For file names; they sort in the order of the shards."""
        return f"{self.index:05d}-of-{self.count:05d}"

    def part(self, total: int) -> range:
        """The shard's share of ``range(total)``: contiguous, shares in order, sizes differing by at most one."""
        return range(total * self.index // self.count, total * (self.index + 1) // self.count)

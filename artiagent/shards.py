"""A shard: one of the equal pieces that a stage's work is cut into, to be done by different processes or machines."""

from __future__ import annotations

from typing import NamedTuple


class Shard(NamedTuple):
    """Piece ``index`` of ``count``, 0 <= index < count."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From ``I/N``. Raises ValueError saying what was expected."""
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise ValueError(f"shard {text!r}: expected I/N with 0 <= I < N, e.g. 0/4, 1/4, 2/4 and 3/4")
        return cls(int(index), int(count))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def label(self) -> str:
        """For file names; they sort in the order of the shards."""
        return f"{self.index:05d}-of-{self.count:05d}"

    def part(self, total: int) -> range:
        """The shard's share of ``range(total)``: contiguous, shares in order, sizes differing by at most one."""
        return range(total * self.index // self.count, total * (self.index + 1) // self.count)

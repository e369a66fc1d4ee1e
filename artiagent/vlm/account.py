"""What all calls to a server came to: how many, how they ended, what they cost and what they may have cost.

Knows counts and prices. Does not know requests, answers' texts or servers.
"""

from __future__ import annotations

import threading
from collections import Counter

COUNTS = ("calls", "requests", "retries", "cached", "coalesced", "failed", "timeouts", "possibly_paid")


class Account:
    """Safe for threads.

    Args:
        price_in, price_out: per million tokens of question and answer.
    """

    def __init__(self, price_in: float, price_out: float) -> None:
        self.price_in, self.price_out = price_in, price_out
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter(dict.fromkeys((*COUNTS, "tokens_in", "tokens_out"), 0))
        self._possible = [0, 0]

    def note(self, **counts: int) -> None:
        with self._lock:
            self._counts.update(counts)

    def note_possible(self, tokens_in: int, tokens_out: int, **counts: int) -> None:
        """A request without a whole answer: the server may have charged up to so many tokens."""
        with self._lock:
            self._counts.update(counts, possibly_paid=1)
            self._possible[0] += tokens_in
            self._possible[1] += tokens_out

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6

    def spent(self) -> dict[str, float | int]:
        """JSON-ready. `cost` is what answers reported; `cost_possible` what requests without an answer may add at most.

        `calls` are questions, `requests` are POSTs; `cached` and `coalesced` calls needed none of their own.
        """
        with self._lock:
            counts, possible = dict(self._counts), list(self._possible)
        cost = self.cost(counts["tokens_in"], counts["tokens_out"])
        return {**counts, "cost": round(cost, 6), "cost_possible": round(self.cost(*possible), 6)}

"""How fast and how often a server may be asked: rates, waits between attempts, Retry-After.

Knows clocks and numbers. Does not know HTTP, requests or answers; nothing here sleeps.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST_WAIT = 120.0  # seconds; a server that asks for more is asked again after this much


class TokenBucket:
    """A rate per minute, by reservation: whoever takes is told how long to wait, in the order of the calls.

    An amount may exceed what is there: it is taken at once and those who follow wait until the debt is paid, so that an
    amount above the rate itself passes too. In any minute at most ``per_minute``, a second's worth and one amount go.

    Args:
        per_minute: requests or tokens.
        clock: seconds, monotonic.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = per_minute / 60
        self._clock, self._at = clock, clock()
        self._level = self.rate

    def take(self, amount: float) -> float:
        """Reserve; returns the seconds to wait before going ahead."""
        self._refill()
        wait = max(0.0, -self._level / self.rate)
        self._level -= amount
        return wait

    def correct(self, amount: float) -> None:
        """What was taken turned out larger (or smaller, negative) by ``amount``."""
        self._level -= amount

    def _refill(self) -> None:
        now = self._clock()
        self._level = min(self.rate, self._level + (now - self._at) * self.rate)
        self._at = now


def backoff(base: float, failures: int) -> float:
    """Seconds before the next attempt after so many failed ones (>= 1): full jitter below ``base``, doubled."""
    return random.uniform(0, min(LONGEST_WAIT, base * 2.0 ** min(failures - 1, 30)))


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks for, 0 to `LONGEST_WAIT`; None where it is absent or unreadable.

    Args:
        value: seconds, or an HTTP date.
        now: aware; None: the clock's.
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = _until(value, now or datetime.now(UTC))
    return None if math.isnan(seconds) else min(max(seconds, 0.0), LONGEST_WAIT)


def _until(date: str, now: datetime) -> float:
    try:
        moment = parsedate_to_datetime(date)
    except ValueError:
        return math.nan
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds()

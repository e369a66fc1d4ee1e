from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artiagent.vlm.limits import LONGEST_WAIT, TokenBucket, backoff, retry_after

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


@given(
    per_minute=st.floats(1, 6000),
    takes=st.lists(st.tuples(st.floats(0, 20), st.floats(0.1, 500)), min_size=1, max_size=60),
)
def test_no_minute_exceeds_the_rate_by_more_than_a_second_and_one_amount(per_minute, takes) -> None:
    now = 0.0
    bucket = TokenBucket(per_minute, clock=lambda: now)
    starts = []
    for pause, amount in takes:
        now += pause
        starts.append((now + bucket.take(amount), amount))
    assert [at for at, _ in starts] == sorted(at for at, _ in starts)  # first come, first served
    largest = max(amount for _, amount in takes)
    for begin, _ in starts:
        inside = sum(amount for at, amount in starts if begin <= at < begin + 60)
        assert inside <= per_minute * 61 / 60 + largest + 1e-6


def test_a_steady_stream_gets_the_whole_rate() -> None:
    now = 0.0
    bucket = TokenBucket(120, clock=lambda: now)
    for _ in range(240):
        now += bucket.take(1)
    assert now == pytest.approx(119, abs=1)


def test_what_was_estimated_too_high_is_given_back() -> None:
    bucket = TokenBucket(60, clock=lambda: 0.0)
    bucket.take(100)
    bucket.correct(-90)
    assert bucket.take(1) == pytest.approx(9)  # 10 taken, 1 was there


def test_backoff_is_jittered_below_a_doubling_limit() -> None:
    waits = [[backoff(0.5, failures) for _ in range(300)] for failures in (1, 2, 4, 100)]
    for drawn, limit in zip(waits, (0.5, 1.0, 4.0, LONGEST_WAIT), strict=True):
        assert 0 <= min(drawn) < 0.1 * limit and 0.9 * limit < max(drawn) <= limit


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None), ("", None), ("soon", None), ("nan", None), ("7", 7.0), ("0.5", 0.5), ("-3", 0.0),
        ("99999", LONGEST_WAIT), ("inf", LONGEST_WAIT),
        (format_datetime(NOW + timedelta(seconds=30), usegmt=True), 30.0),
        (format_datetime((NOW + timedelta(seconds=30)).astimezone(timezone(timedelta(hours=2)))), 30.0),
        (format_datetime(NOW - timedelta(days=1), usegmt=True), 0.0),
        (format_datetime(NOW + timedelta(days=1), usegmt=True), LONGEST_WAIT),
    ],
)  # fmt: skip
def test_retry_after_in_seconds_and_as_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds

"""Simulated clusters whose answer is known: by hand, or in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest

from artiagent.scale.simulation import Cluster, Step, critical_path, simulate

HOUR = 3600.0
RATE = -math.log(0.9)  # of 10 % an hour


def step(name: str, seconds: list[float], after: tuple[str, ...] = (), runs: int = 1, **options) -> Step:
    setup = np.full(runs, options.pop("setup", 0.0))
    return Step(name, after, np.tile(seconds, (runs, 1)), setup, options.pop("pool", "gpu"), **options)


def cluster(gpus: int, runs: int = 1, provision: float = 0.0, **options) -> Cluster:
    nodes = options.pop("nodes", {"gpu": gpus})
    return Cluster(gpus, nodes, np.full(runs, provision), **options)


def test_one_gpu_takes_the_sum_of_all():
    steps = [step("a", [10.0, 20.0, 30.0], gpus=1, setup=2), step("b", [5.0], ("a",), gpus=1, setup=2)]
    outcome = simulate(steps, cluster(1, provision=100, idle=50), seed=0)
    assert outcome.seconds[0] == 100 + 3 * 2 + 60 + 2 + 5  # one node, from zero once
    assert outcome.paid["a"][0] == 166
    assert outcome.paid["b"][0] == 7 + 50  # and idle at the end
    assert outcome.worked["a"][0] == 60


def test_many_gpus_take_the_longest_shard_and_its_start():
    outcome = simulate([step("a", [10.0, 20.0, 30.0], gpus=1, setup=2)], cluster(8, provision=100, idle=7), seed=0)
    assert outcome.seconds[0] == 100 + 2 + 30
    assert outcome.paid["a"][0] == 3 * (100 + 2 + 7) + 60


def test_fewer_gpus_than_shards_take_waves():
    steps = [
        step("first", [60.0] * 10, gpus=1, setup=5),
        step("join", [3.0], ("first",), pool="cpu", setup=1),
        step("second", [40.0] * 4, ("join",), gpus=1, setup=5),
    ]
    outcome = simulate(steps, cluster(4, nodes={"gpu": 4, "cpu": 1}, idle=1e6), seed=0)
    assert outcome.seconds[0] == math.ceil(10 / 4) * 65 + 4 + 45
    assert next(iter(outcome.paths)) == ("first", "join", "second")


def test_a_node_that_idled_too_long_starts_from_zero_again():
    steps = [step("a", [10.0], gpus=1), step("b", [60.0], ("a",), pool="cpu"), step("c", [10.0], ("b",), gpus=1)]
    nodes = {"gpu": 1, "cpu": 1}
    warm, cold = (simulate(steps, cluster(1, provision=100, idle=idle, nodes=nodes), seed=0) for idle in (160.0, 159.0))
    assert warm.seconds[0] == 110 + 160 + 10
    assert cold.seconds[0] == 110 + 160 + 110
    assert warm.paid["a"][0] == 110 + 160
    assert cold.paid["a"][0] == 110 + 159


def test_gpus_are_one_quota_over_all_pools():
    steps = [step("small", [10.0] * 8, gpus=1), step("large", [10.0], gpus=8, pool="eight")]
    together = simulate(steps, cluster(16, nodes={"gpu": 8, "eight": 1}), seed=0)
    in_turn = simulate(steps, cluster(8, nodes={"gpu": 8, "eight": 1}), seed=0)
    assert (together.seconds[0], in_turn.seconds[0]) == (10, 20)


def test_a_step_larger_than_the_quota_says_what_to_give():
    with pytest.raises(ValueError, match=r"stage 'finetune' needs 8 GPUs at once, there are 4: give --gpus at least 8"):
        simulate([step("finetune", [1.0], gpus=8)], cluster(4), seed=0)


def test_p95_of_a_shard_that_goes_on_after_each_interruption():
    """Everything is kept, so an interruption costs a start of s: time = T + s (N + 1), N Poisson with a mean of about
    r T = .527. P(N = 0) = .59, P(N <= 1) = .90, P(N <= 2) = .98: the p80 is that of one, the p95 of two."""
    runs, work, start = 4000, 5 * HOUR, 60.0
    steps = [step("a", [work], runs=runs, gpus=1, setup=start, spot=True, checkpoint=0)]
    outcome = simulate(steps, cluster(1, runs, taken=RATE, retries=20), seed=1)
    p50, p80, p95 = np.percentile(outcome.seconds, [50, 80, 95])
    assert p50 == pytest.approx(work + start)
    assert work + start < p80 <= work + 2 * start  # an interruption within the start costs a part of it
    assert work + 2 * start < p95 <= work + 3 * start
    calm = np.mean(outcome.interruptions["a"] == 0)
    assert calm == pytest.approx(math.exp(-RATE * (5 + 1 / 60)), abs=0.025)
    assert np.mean(outcome.interruptions["a"]) == pytest.approx(RATE * np.mean(outcome.seconds) / HOUR, rel=0.06)


def test_p95_of_a_shard_that_starts_from_zero():
    """Time = T + the sum of G exponentials cut off at T, G geometric; its distribution by convolution on a grid."""
    runs, hours = 4000, 5.0
    steps = [step("a", [hours * HOUR], runs=runs, gpus=1, spot=True)]
    outcome = simulate(steps, cluster(1, runs, taken=RATE, retries=200), seed=2)
    for share in (0.5, 0.8, 0.95):
        found = np.quantile(outcome.seconds / HOUR, share)
        assert found == pytest.approx(from_zero_quantile(hours, share), rel=0.05)
    # E = (exp(r T) - 1) / r
    assert np.mean(outcome.seconds) / HOUR == pytest.approx(math.expm1(RATE * hours) / RATE, rel=0.03)
    assert np.mean(outcome.worked["a"]) == hours * HOUR


def from_zero_quantile(hours: float, share: float, bin_hours: float = 0.01) -> float:
    """Quantile of the hours until an undisturbed stretch of ``hours``."""
    edges = np.arange(0, hours + bin_hours / 2, bin_hours)
    lost = -np.diff(np.exp(-RATE * edges))  # P(taken in this bin)
    total = np.zeros(int(40 * hours / bin_hours))
    times = np.zeros_like(total)
    times[0] = 1.0
    while times.sum() > 1e-6:  # what has been lost so far, before another attempt
        total += times * math.exp(-RATE * hours)
        times = np.convolve(times, lost)[: len(total)]
    return hours + np.searchsorted(np.cumsum(total), share) * bin_hours + 0.0


def test_a_run_fails_when_a_shard_has_no_retries_left():
    runs, hours = 4000, 5.0
    steps = [step("a", [hours * HOUR], runs=runs, gpus=1, spot=True)]
    outcome = simulate(steps, cluster(1, runs, taken=RATE, retries=2), seed=3)
    chance = (1 - math.exp(-RATE * hours)) ** 3
    assert outcome.failed["a"] / runs == pytest.approx(chance, abs=0.02)
    assert np.isnan(outcome.seconds).sum() == outcome.failed["a"]


def test_only_spot_nodes_are_taken():
    steps = [step("a", [100 * HOUR], runs=50, gpus=1)]
    outcome = simulate(steps, cluster(1, 50, taken=10.0), seed=0)
    assert np.all(outcome.seconds == 100 * HOUR)


def test_work_since_the_last_mirrored_chunk_is_lost_at_the_deadline():
    steps = [step("a", [100.0], gpus=1, setup=5, checkpoint=30, deadline=70)]
    outcome = simulate(steps, cluster(1, retries=1, provision=0, idle=1000), seed=0)
    assert outcome.seconds[0] == 70 + 5 + 40  # 65 worked, 60 kept; the node stays
    assert outcome.worked["a"][0] == 100
    assert outcome.interruptions["a"][0] == 1
    assert simulate(steps, cluster(1, retries=0), seed=0).failed == {"a": 1}


def test_equal_seeds_give_equal_outcomes():
    steps = [step("a", [HOUR] * 8, runs=20, gpus=1, spot=True, checkpoint=60)]
    one, two, other = (simulate(steps, cluster(4, 20, taken=1.0, retries=9), seed=seed) for seed in (5, 5, 6))
    assert np.array_equal(one.seconds, two.seconds, equal_nan=True)
    assert not np.array_equal(one.seconds, other.seconds, equal_nan=True)


def test_the_critical_path_goes_back_along_what_ended_last():
    steps = [step("a", [1]), step("b", [1], ("a",)), step("c", [1], ("a",)), step("d", [1], ("b", "c"))]
    assert critical_path(steps, {"a": 1, "b": 5, "c": 3, "d": 9}) == ("a", "b", "d")

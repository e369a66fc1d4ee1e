"""The fitted curve: known parameters come back, an independent fit agrees, and the interval covers what it should."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit

from artiagent.studies.curve import bounds, fit_power_law

SIZES = (32, 64, 128, 256, 512, 1024)


def law(n: np.ndarray, excess: float, exponent: float, floor: float) -> np.ndarray:
    return floor + excess * (n / 32) ** -exponent


@given(st.floats(0.05, 0.5), st.floats(0.2, 1.8), st.floats(0, 0.3))
@settings(max_examples=60, deadline=None)
def test_known_parameters_come_back(excess: float, exponent: float, floor: float) -> None:
    errors = law(np.array(SIZES), excess, exponent, floor)[None]
    found = fit_power_law(SIZES, errors)
    assert found.exponent[0] == pytest.approx(exponent, abs=0.02)
    assert found.floor[0] == pytest.approx(floor, abs=0.02)
    assert found.at(SIZES)[0] == pytest.approx(errors[0], abs=0.003)
    assert found.at([4096])[0, 0] == pytest.approx(law(np.array([4096.0]), excess, exponent, floor)[0], abs=0.02)


def test_agrees_with_scipys_fit() -> None:
    rng, spread = np.random.default_rng(3), np.array([0.04, 0.03, 0.02, 0.02, 0.01, 0.01])
    for _ in range(10):
        errors = law(np.array(SIZES), 0.35, 0.6, 0.1) + rng.normal(0, spread)
        limits = ([0, 0.05, 0], [np.inf, 2, np.inf])
        theirs, _ = curve_fit(law, SIZES, errors, p0=(0.3, 0.5, 0.1), sigma=spread, bounds=limits)
        ours = fit_power_law(SIZES, errors[None], spread)

        def loss(values: np.ndarray, errors: np.ndarray = errors) -> float:
            return float((((values - errors) / spread) ** 2).sum())

        assert loss(ours.at(SIZES)[0]) <= loss(law(np.array(SIZES), *theirs)) + 0.05  # the step of the grid


def test_bounds_hold_and_rows_do_not_mix() -> None:
    rising, flat = [0.1, 0.2, 0.3, 0.35, 0.4, 0.45], [0.3] * 6
    steep = list(law(np.array(SIZES), 0.5, 1.5, 0.0))
    found = fit_power_law(SIZES, np.array([rising, flat, steep]))
    assert (found.excess >= 0).all() and (found.floor >= 0).all()
    assert found.at(SIZES)[0] == pytest.approx([np.mean(rising)] * 6)  # a law that cannot rise is flat
    assert found.at(SIZES)[1] == pytest.approx(flat, abs=1e-9)
    alone = fit_power_law(SIZES, np.array([steep]))
    assert (alone.exponent[0], alone.floor[0]) == (found.exponent[2], found.floor[2])


def test_the_interval_covers_the_truth() -> None:
    """At the largest size and one doubling beyond: of 200 noisy studies about 95 % should cover; the fit's bias and the
    noise of the interval itself leave a margin."""
    rng, spread = np.random.default_rng(0), np.full(6, 0.015)
    at = (1024, 2048)
    truth = law(np.array(at), 0.3, 0.7, 0.12)
    covered = np.zeros(2)
    for _ in range(200):
        seen = law(np.array(SIZES), 0.3, 0.7, 0.12) + rng.normal(0, spread)
        resampled = seen + rng.normal(0, spread, size=(200, 6))
        low, high = bounds(fit_power_law(SIZES, resampled, spread).at(at))
        covered += (low <= truth) & (truth <= high)
    assert (covered / 200 > 0.87).all()
    assert (covered / 200 < 1.0).any()


@pytest.mark.parametrize("sizes", [(32, 64), (32, 32, 64), (64, 32, 128)])
def test_sizes_that_allow_no_fit(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="3 rising sizes"):
        fit_power_law(sizes, np.zeros((1, len(sizes))))

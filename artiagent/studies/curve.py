"""How an error falls with the number of training pairs: error = floor + excess * (n / n0) ** -exponent.

Knows the fit and its interval from resampled errors. Does not know where the errors come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from artiagent.evaluation.bootstrap import LEVEL

EXPONENTS = np.linspace(0.05, 2.0, 196)  # the one parameter that does not enter linearly is tried out
LEAST_SPREAD = 1e-4


@dataclass(frozen=True)
class PowerLaw:
    """Fits of R resamples, each array [R]; ``start`` is n0, the smallest size."""

    start: float
    excess: np.ndarray  # above the floor at n0, >= 0
    exponent: np.ndarray
    floor: np.ndarray  # what no amount of such data removes, >= 0

    def at(self, sizes: Sequence[float]) -> np.ndarray:
        """Errors [R, k] at ``sizes`` [k]."""
        relative = np.asarray(sizes, dtype=float)[None, :] / self.start
        return self.floor[:, None] + self.excess[:, None] * relative ** -self.exponent[:, None]


def fit_power_law(sizes: Sequence[float], errors: np.ndarray, spread: np.ndarray | None = None) -> PowerLaw:
    """Least squares under excess >= 0 and floor >= 0, for every row of ``errors`` on its own.

    For a given exponent the other two follow in closed form; the best exponent is the best of a fine grid, so that no
    fit ends in a local minimum.

    Args:
        sizes: numbers of training pairs, rising, [k], k >= 3.
        errors: [R, k].
        spread: standard deviation of the error at each size [k], by which points are weighted; None: all alike.

    Raises ValueError for fewer than three sizes, or sizes that do not rise.
    """
    n = np.asarray(sizes, dtype=float)
    if len(n) < 3 or (np.diff(n) <= 0).any() or errors.ndim != 2 or errors.shape[1] != len(n):
        raise ValueError(f"sizes {list(sizes)}, errors {errors.shape}: expected 3 rising sizes or more, errors [R, k]")
    weights = np.ones(len(n)) if spread is None else 1 / np.maximum(spread, LEAST_SPREAD) ** 2
    weights = weights / weights.sum()
    best = np.full((4, len(errors)), np.inf)  # loss, excess, exponent, floor
    for exponent in EXPONENTS:
        shape = (n / n[0]) ** -exponent
        for excess, floor in _candidates(shape, errors, weights):
            residual = errors - floor[:, None] - excess[:, None] * shape
            loss = residual**2 @ weights
            better = (loss < best[0]) & (excess >= 0) & (floor >= 0)
            best[:, better] = np.stack([loss, excess, np.full_like(loss, exponent), floor])[:, better]
    return PowerLaw(float(n[0]), best[1], best[2], best[3])


def _candidates(shape: np.ndarray, errors: np.ndarray, weights: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(excess, floor): without bounds, with the floor at 0, and with the excess at 0; one of them is the optimum."""
    mean_shape, mean_error = weights @ shape, errors @ weights
    variance = weights @ (shape - mean_shape) ** 2
    slope = (errors - mean_error[:, None]) @ (weights * (shape - mean_shape)) / variance
    through_zero = errors @ (weights * shape) / (weights @ shape**2)
    zero = np.zeros(len(errors))
    return [(slope, mean_error - slope * mean_shape), (through_zero, zero), (zero, mean_error)]


def bounds(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval over the resamples (first axis)."""
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail], axis=0)
    return low, high

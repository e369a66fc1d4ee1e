"""Percentile bootstrap of any statistic of a set of images: images are resampled, the statistic is recomputed.

A statistic is a function of image weights ``[R, n]`` (how often each of n images was drawn in each of R resamples) and
returns ``[R]`` values; NaN marks a resample on which it is not defined. The plain value is the statistic at weights of
one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from artiagent.records import Interval

Statistic = Callable[[np.ndarray], np.ndarray]
LEVEL = 0.95
BLOCK = 250  # resamples that a statistic sees at a time: what it holds for them stays in the processor's cache


def draw_weights(n: int, resamples: int, seed: int) -> np.ndarray:
    """float32 [resamples, n]: multiplicity of each unit in each resample with replacement; rows add up to n."""
    if n < 1 or resamples < 1:
        raise ValueError(f"expected at least one unit and one resample, got n={n}, resamples={resamples}")
    rng = np.random.default_rng(seed)
    weights = np.empty((resamples, n), dtype=np.float32)
    for start in range(0, resamples, 1000):
        rows = min(1000, resamples - start)
        drawn = rng.integers(0, n, size=(rows, n)) + np.arange(rows)[:, None] * n
        weights[start : start + rows] = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
    return weights


def interval(statistic: Statistic, weights: np.ndarray, n: int | None = None) -> Interval:
    """Value with its 95 % percentile interval.

    Args:
        statistic: see the module.
        weights: of ``draw_weights``; the same for all statistics that will be compared.
        n: number of units behind the value, when the statistic looks at a part of them only.
    """
    value = float(statistic(np.ones((1, weights.shape[1]), dtype=np.float32))[0])
    blocks = (weights[start : start + BLOCK] for start in range(0, len(weights), BLOCK))
    drawn = np.concatenate([statistic(block) for block in blocks])
    return _summarise(value, drawn, weights.shape[1] if n is None else n)


def difference(first: Statistic, second: Statistic, weights: np.ndarray, n: int | None = None) -> Interval:
    """Paired bootstrap of ``first - second``: both are recomputed on the same resampled images."""
    return interval(lambda drawn: first(drawn) - second(drawn), weights, n)


def _summarise(value: float, drawn: np.ndarray, n: int) -> Interval:
    if np.isnan(value) or np.isnan(drawn).all():
        raise ValueError(f"the statistic is not defined on these {n} units (value {value}); leave it out instead")
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return Interval(value=value, low=float(low), high=float(high), n=n)

"""Intervals cover, differences are paired, and ten thousand resamples are quick."""

from __future__ import annotations

import time

import numpy as np
import pytest

from artiagent.evaluation.bootstrap import difference, draw_weights, interval
from artiagent.evaluation.metrics import auroc, macro_f1, mean_of


def test_weights_are_multiplicities_and_follow_the_seed() -> None:
    weights = draw_weights(7, 2500, seed=3)
    assert weights.shape == (2500, 7) and (weights.sum(1) == 7).all() and weights.max() > 2
    assert (weights == draw_weights(7, 2500, seed=3)).all()
    assert (weights != draw_weights(7, 2500, seed=4)).any()
    assert weights.mean(0) == pytest.approx(np.ones(7), abs=0.1)


def test_interval_of_a_mean_agrees_with_the_normal_approximation() -> None:
    values = np.random.default_rng(0).normal(size=400)
    found = interval(mean_of(values), draw_weights(400, 4000, 0))
    error = 1.96 * values.std() / 20
    assert found.value == pytest.approx(values.mean()) and found.n == 400
    assert found.low == pytest.approx(values.mean() - error, abs=0.02)
    assert found.high == pytest.approx(values.mean() + error, abs=0.02)


def test_a_metric_is_recomputed_not_averaged() -> None:
    """AUROC of a resample is not a mean of per-image values: compare with a slow loop over resampled arrays."""
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(1)
    truth = np.arange(40) % 2 == 0
    scores = truth + rng.normal(size=40)
    weights = draw_weights(40, 300, 0)
    slow = [roc_auc_score(np.repeat(truth, w), np.repeat(scores, w)) for w in weights.astype(int)]
    assert auroc(truth, scores)(weights) == pytest.approx(slow)


def test_paired_difference_is_narrower_than_two_intervals() -> None:
    rng = np.random.default_rng(2)
    common = rng.normal(size=200)
    better = common + 0.1 + 0.01 * rng.normal(size=200)
    weights = draw_weights(200, 2000, 0)
    paired = difference(mean_of(better), mean_of(common), weights)
    assert 0.09 < paired.low < paired.value < paired.high < 0.11
    alone = interval(mean_of(common), weights)
    assert paired.high - paired.low < (alone.high - alone.low) / 10


def test_resamples_without_a_class_are_left_out_and_undefined_statistics_refused() -> None:
    truth, scores = np.array([True, False, False]), np.array([0.9, 0.1, 0.2])
    found = interval(auroc(truth, scores), draw_weights(3, 500, 0))
    assert found.value == found.low == found.high == 1
    with pytest.raises(ValueError, match="not defined"):
        interval(mean_of(np.zeros(3), np.zeros(3, bool)), draw_weights(3, 100, 0))
    with pytest.raises(ValueError, match="at least one unit"):
        draw_weights(0, 10, 0)


def test_ten_thousand_resamples_of_a_thousand_images_take_seconds() -> None:
    rng = np.random.default_rng(0)
    truth, scores = rng.random(1000) < 0.5, rng.random(1000)
    start = time.process_time()
    weights = draw_weights(1000, 10_000, 0)
    for statistic in (macro_f1(truth, (scores > 0.5).astype(int)), auroc(truth, scores), mean_of(scores, truth)):
        interval(statistic, weights)
    assert time.process_time() - start < 10

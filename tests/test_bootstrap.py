"""Intervals of paired differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from stat_repro.reporting import bootstrap


def test_interval_of_a_mean_is_that_of_scipy() -> None:
    values = np.random.default_rng(3).gamma(1.5, size=300)
    sums = bootstrap.resampled_sums(values[:, None])[:, 0]
    ours = bootstrap.interval(sums / 300)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.05 * width)
    error = values.std() / math.sqrt(300)
    normal = values.mean() - 1.96 * error, values.mean() + 1.96 * error
    assert ours == pytest.approx(normal, abs=0.06 * width)


def test_resampled_sums_are_those_of_a_direct_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_ONCE", 35)  # five draws at a time
    values = np.random.default_rng(0).normal(size=(7, 2))
    got = bootstrap.resampled_sums(values, resamples=12, seed=5)
    generator = np.random.default_rng(5)
    drawn = np.concatenate([generator.integers(0, 7, size=(n, 7)) for n in (5, 5, 2)])
    assert got == pytest.approx(values[drawn].sum(axis=1))
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_ONCE", 1)  # no chunk smaller than one draw
    assert bootstrap.resampled_sums(values, resamples=3).shape == (3, 2)


def test_draws_are_the_same_for_all_columns_and_every_time() -> None:
    values = np.random.default_rng(0).normal(size=(50, 1))
    both = bootstrap.resampled_sums(np.hstack([values, 2 * values]), resamples=200)
    assert both[:, 1] == pytest.approx(2 * both[:, 0])
    again = bootstrap.resampled_sums(np.hstack([values, 2 * values]), resamples=200)
    assert np.array_equal(both, again)
    other = bootstrap.resampled_sums(values, resamples=200, seed=1)
    assert not np.array_equal(both[:, :1], other)


def test_intervals_cover_the_true_difference_as_often_as_they_say() -> None:
    """A thousand made-up studies of paired scores, each with its own examples."""
    generator = np.random.default_rng(11)
    shared = generator.normal(size=(100, 1000))
    first, second = (shared + 0.5 * generator.normal(size=shared.shape) for _ in range(2))
    difference = second + 0.3 - first
    sums = bootstrap.resampled_sums(difference, resamples=1000)
    ends = np.array([bootstrap.interval(column) for column in sums.T / 100])
    covered = float(np.mean((ends[:, 0] < 0.3) & (ends[:, 1] > 0.3)))
    assert 0.92 < covered < 0.97
    # Of independent examples the interval would be far wider.
    alone = (bootstrap.resampled_sums(first, 1000) / 100).std(axis=0).mean()
    assert (ends[:, 1] - ends[:, 0]).mean() < 0.75 * 2 * 1.96 * math.sqrt(2) * alone


def test_estimates_without_a_finite_value_have_no_interval() -> None:
    zero = np.zeros(4)
    found = bootstrap.estimate((0.0, 0.0), (zero, zero))
    assert math.isnan(found.value)
    assert math.isnan(found.low)
    assert not found.excludes(0.0)
    assert bootstrap.estimate((math.inf, 2.0), (zero, zero + 1)).value == math.inf


def test_the_last_bit_of_a_sum_is_not_kept() -> None:
    draws = np.full(4, 0.3), np.ones(4)
    found = bootstrap.estimate((0.1 + 0.2, 1.0), (draws[0] + 1e-16, draws[1]))
    assert found == bootstrap.Estimate(0.3, 0.3, 0.3)

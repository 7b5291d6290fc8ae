"""Paired percentile bootstrap over evaluated examples (Efron and Tibshirani 1993, chapter 13).

One draw of examples serves all columns that are resampled together, so that two methods are always
compared on the same examples. Arrays only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 10_000
SEED = 0
CONFIDENCE = 0.95
_DRAWS_AT_ONCE = 2_000_000  # numbers drawn per chunk; bounds the memory, not the result


@dataclass(frozen=True)
class Estimate:
    """A statistic of the evaluated examples with its interval.

    Attributes:
        value: On the examples as they are.
        low: Lower end of the interval; nan where an example's value is not finite.
        high: Upper end; likewise.
    """

    value: float
    low: float
    high: float

    def excludes(self, value: float) -> bool:
        """Whether the interval lies on one side of a value."""
        return self.low > value or self.high < value


def resampled_sums(values: Floats, resamples: int = RESAMPLES, seed: int = SEED) -> Floats:
    """Sums of every column over examples drawn with replacement, the same draw for all columns.

    Args:
        values: Finite, (N, K).
        resamples: Number of draws R.
        seed: Of the draws, which depend on nothing else but N.

    Returns:
        (R, K), each a sum over N drawn examples.
    """
    return np.concatenate([drawn @ values for drawn in _draws(len(values), resamples, seed)])


def interval(statistics: Floats, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The central part of resampled statistics (R) that has this share of them."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(statistics, [tail, 1 - tail])
    return float(low), float(high)


def estimate(sums: tuple[float, float], resampled: tuple[Floats, Floats]) -> Estimate:
    """A ratio of two sums over the examples; with N as the second one, a mean.

    Twelve digits are kept: the others depend on the order in which a machine adds up, and could
    decide how a value in the middle of two is rounded in a table.

    Args:
        sums: Numerator and denominator on the examples as they are.
        resampled: The same on the drawn ones, (R) each.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(np.float64(sums[0]) / np.float64(sums[1]))
        statistics = resampled[0] / resampled[1]
    if not (math.isfinite(value) and bool(np.isfinite(statistics).all())):
        return Estimate(value, math.nan, math.nan)
    return Estimate(*(float(f"{v:.12g}") for v in (value, *interval(statistics))))


def _draws(count: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often every example is drawn, (chunk, N) at a time; every row adds up to N."""
    generator = np.random.default_rng(seed)
    chunk = max(1, _DRAWS_AT_ONCE // count)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = generator.integers(0, count, size=(rows, count))
        drawn += np.arange(rows)[:, None] * count
        counts = np.bincount(drawn.ravel(), minlength=rows * count)
        yield counts.reshape(rows, count).astype(np.float64)

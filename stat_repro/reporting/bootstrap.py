"""Paired percentile bootstrap over evaluated examples (Efron and Tibshirani 1993, chapter 13).

One draw of examples serves all columns that are resampled together, so that two methods are always
compared on the same examples. Arrays only.

Sums are exact, and so the same on every machine: a float64 sum rounds after every addition, and
BLAS adds in an order that depends on processor and threads. Here values are first cut into parts of
few bits whose sums float64 holds without rounding (the splitting of Ozaki, Ogita, Oishi and Rump
2012, Numerical Algorithms 59), so that BLAS may add them in any order.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 10_000
SEED = 0
CONFIDENCE = 0.95
_SMALLEST_EXPONENT = -1074  # of float64
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
        seed: Seed of the draws, which depend on nothing else but N.

    Returns:
        (R, K), each a sum over N drawn examples.
    """
    parts, columns = _split(values)
    draws = _draws(len(values), resamples, seed)
    exact = np.concatenate([drawn @ parts for drawn in draws])
    sums = np.zeros((resamples, values.shape[1]))
    # The parts of a column come largest first, always in this order.
    for part, column in zip(exact.T, columns, strict=True):
        sums[:, column] += part
    return sums


def total(values: Floats) -> float:
    """Sum of values (N), rounded once; infinite or nan if one of them is."""
    return math.fsum(values) if np.isfinite(values).all() else float(sum(values.tolist()))


def interval(statistics: Floats) -> tuple[float, float]:
    """The central part of resampled statistics (R) that has the share `CONFIDENCE` of them."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(statistics, [tail, 1 - tail])
    return float(low), float(high)


def estimate(sums: tuple[float, float], resampled: tuple[Floats, Floats]) -> Estimate:
    """A ratio of two sums over the examples; with a weight of one each as the second, a mean.

    Twelve digits are kept: the others are what rounding left of a quotient, and could decide how a
    value in the middle of two is rounded in a table.

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


def _split(values: Floats) -> tuple[Floats, list[int]]:
    """Parts that add up to the values, and of which any N of a column have an exact sum.

    Returns:
        The parts (N, P), and the column of the values that each belongs to, P.
    """
    # N integers of at most 2^bits add up to at most 2^53, up to which float64 has all integers.
    bits = 53 - (len(values) - 1).bit_length()
    rest, parts, columns = values, [], []
    while len(left := np.flatnonzero(rest.any(axis=0))):
        exponents = np.frexp(np.abs(rest).max(axis=0))[1]
        units = np.ldexp(1.0, np.maximum(exponents - bits, _SMALLEST_EXPONENT))
        part = np.rint(rest / units) * units
        rest = rest - part
        parts.append(part[:, left])
        columns += left.tolist()
    return np.hstack(parts or [values[:, :0]]), columns


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

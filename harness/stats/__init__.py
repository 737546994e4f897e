"""Formulas: quantiles, intervals, minimum sample counts. Plain Python without scipy or state.

The tests check them against scipy and numpy. Each docstring gives the formula and its source.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MIN_LAUNCHES_FOR_INTERVAL = 3
"""With fewer than three launches a t interval is too wide to be useful."""

MIN_FOR_DEVIATION = 2

_TINY = 1e-300
_CONVERGED = 1e-15
_MAX_TERMS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate with its two-sided interval, in the unit of the input values."""

    estimate: float
    low: float
    high: float


MAX_FACTOR = 100.0
"""An end of a ratio's interval that is farther from the estimate says nothing: there is no interval."""


def quantile(values: Sequence[float], q: float) -> float:
    """Return the q-quantile by linear interpolation of order statistics.

    Type 7 of Hyndman & Fan, "Sample quantiles in statistical packages", The American Statistician
    50 (1996): h = (n - 1) q, x[floor h] + (h - floor h) (x[floor h + 1] - x[floor h]). The same as
    numpy's default and DuckDB's `quantile_cont`.

    Raises ValueError for no values, or q outside 0-1.
    """
    if not values:
        raise ValueError("a quantile needs at least one value")
    if not 0 <= q <= 1:
        raise ValueError(f"q is a share between 0 and 1, not {q}")
    ordered = sorted(values)
    at = (len(ordered) - 1) * q
    below = math.floor(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (at - below) * (ordered[above] - ordered[below])


def median(values: Sequence[float]) -> float:
    """Return the 0.5-quantile (the mean of the two middle values if the count is even)."""
    return quantile(values, 0.5)


def regularized_incomplete_beta(a: float, b: float, x: float) -> float:
    """Return I_x(a, b), the distribution function of Beta(a, b) at x.

    The continued fraction DLMF 8.17.22 by Lentz's method if it converges fast
    (x < (a + 1) / (a + b + 2)), else by I_x(a, b) = 1 - I_(1-x)(b, a). Relative error about 1e-13.
    """
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    if x > (a + 1) / (a + b + 2):
        return 1.0 - regularized_incomplete_beta(b, a, 1.0 - x)
    log_front = (
        math.lgamma(a + b)
        - math.lgamma(a)
        - math.lgamma(b)
        + a * math.log(x)
        + b * math.log1p(-x)
        - math.log(a)
    )
    return math.exp(log_front) * _beta_fraction(a, b, x)


def _beta_fraction(a: float, b: float, x: float) -> float:
    c, d, value = 1.0, 0.0, 1.0
    for term in range(_MAX_TERMS):
        m = term // 2
        if term == 0:
            numerator = 1.0
        elif term % 2 == 0:
            numerator = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            numerator = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1.0 + numerator * d
        d = 1.0 / (d if abs(d) > _TINY else _TINY)
        c = 1.0 + numerator / c
        c = c if abs(c) > _TINY else _TINY
        value *= c * d
        if abs(1.0 - c * d) < _CONVERGED:
            break
    # The first step added the fraction's leading 1.
    return value - 1.0


def t_cdf(t: float, df: float) -> float:
    """Return P(T <= t) of Student's t with `df` degrees of freedom (need not be an integer).

    1 - I_x(df/2, 1/2) / 2 for t >= 0 with x = df / (df + t^2): Abramowitz & Stegun 26.7.1.
    """
    tail = 0.5 * regularized_incomplete_beta(df / 2, 0.5, df / (df + t * t))
    return 1.0 - tail if t >= 0 else tail


@functools.lru_cache(maxsize=1024)
def t_quantile(p: float, df: float) -> float:
    """Return t with P(T <= t) = p, by bisection of the tail of :func:`t_cdf`.

    Raises ValueError for p outside the open interval 0-1 or df not above 0.
    """
    if not 0 < p < 1 or df <= 0:
        raise ValueError(f"t_quantile needs 0 < p < 1 and df > 0, not p={p}, df={df}")
    if p < 0.5:  # noqa: PLR2004 - the distribution is symmetric
        return -t_quantile(1.0 - p, df)
    tail, low, high = 1.0 - p, 0.0, 1.0
    while t_cdf(-high, df) > tail:
        low, high = high, high * 2
    while (middle := (low + high) / 2) not in (low, high):
        if t_cdf(-middle, df) > tail:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def median_interval(values: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """Return the median of the launches' values with its interval, which always contains it.

    From six values on it comes from order statistics, so it holds for any distribution: with ranks k
    and n + 1 - k from :func:`order_statistic_interval`, and between them and the next inner ranks by
    the interpolation of Hettmansperger & Sheather, Statistics & Probability Letters 4 (1986), because
    the ranks alone jump from 99 % to 93 %. Three to five values have no such ranks: there it is the t
    interval of the logarithms, exp(m +- t((1 + confidence) / 2, n - 1) s / sqrt(n)), which contains
    the median, since that is within s sqrt((n - 1) / n) of the mean. None under three values. How
    often it covers: docs/measurement.md.

    Raises ValueError if one of three to five values is not above 0.
    """
    n = len(values)
    if n < MIN_LAUNCHES_FOR_INTERVAL:
        return None
    ranks = order_statistic_interval(n, 0.5, confidence)
    if ranks is None:
        mean, deviation = _log_moments(values)
        half = t_quantile((1 + confidence) / 2, n - 1) * deviation / math.sqrt(n)
        low, high = math.exp(mean - half), math.exp(mean + half)
    else:
        ordered, rank = sorted(values), ranks[0]
        share = _inner_share(n, rank, confidence)
        low = _between(ordered[rank - 1], ordered[rank], share)
        high = _between(ordered[n - rank], ordered[n - rank - 1], share)
    middle = median(values)
    # Rounding must not move an end past the estimate.
    return Interval(estimate=middle, low=min(low, middle), high=max(high, middle))


@functools.lru_cache(maxsize=1024)
def _inner_share(n: int, rank: int, confidence: float) -> float:
    """Return how far an end moves from the outer rank to the next inner one, 0 to 1."""
    outer, inner = (1 - 2 * binomial_cdf(below, n, 0.5) for below in (rank - 1, rank))
    share = (outer - confidence) / (outer - inner)
    return (n - rank) * share / (rank + (n - 2 * rank) * share)


def _between(outer: float, inner: float, share: float) -> float:
    return outer + share * (inner - outer)


def ratio_interval(
    before: Sequence[float], after: Sequence[float], confidence: float = 0.95
) -> Interval | None:
    """Return the ratio of the medians, after / before, of two unpaired sets of launches.

    The interval is made of both :func:`median_interval` (the method of variance estimates recovery,
    Zou & Donner, Statistics in Medicine 27, 2008): on the log scale, its low end is below the ratio
    by sqrt((m2 - l2)^2 + (u1 - m1)^2), its high end above by sqrt((u2 - m2)^2 + (m1 - l1)^2). So it
    contains the ratio. None if either side has under three launches. Unpaired runs from different
    times include the drift between those times: use this for an overview, and a gate (A and B
    interleaved) for a verdict.

    Raises ValueError if a value is not above 0.
    """
    sides = [median_interval(values, confidence) for values in (before, after)]
    first, second = sides
    if first is None or second is None:
        return None
    smallest = min(*before, *after)
    if smallest <= 0:
        raise ValueError(f"a value on a ratio scale must be above 0, not {smallest}")
    down = math.hypot(math.log(second.estimate / second.low), math.log(first.high / first.estimate))
    up = math.hypot(math.log(second.high / second.estimate), math.log(first.estimate / first.low))
    ratio = second.estimate / first.estimate
    return Interval(estimate=ratio, low=ratio * math.exp(-down), high=ratio * math.exp(up))


def mean_interval(
    count: int, mean: float, squares: float, confidence: float = 0.95
) -> Interval | None:
    """Return the t interval of a mean from the count, the mean and the sum of squared deviations.

    mean +- t((1 + confidence) / 2, n - 1) sqrt(squares / (n - 1) / n). None under two values.
    """
    if count < MIN_FOR_DEVIATION:
        return None
    error = math.sqrt(squares / (count - 1) / count)
    half = t_quantile((1 + confidence) / 2, count - 1) * error
    return Interval(estimate=mean, low=mean - half, high=mean + half)


def share_interval(hits: int, count: int, confidence: float = 0.95) -> Interval:
    """Return the Wilson interval of a share: hits of count.

    (p + z^2/2n +- z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n), z the normal quantile. Its width
    is above 0 even if all or none hit. Source: Wilson, JASA 22 (1927); Brown, Cai & DasGupta,
    Statistical Science 16 (2001).

    Raises ValueError for no count, or hits outside 0..count.
    """
    if not 0 <= hits <= count or not count:
        raise ValueError(f"a share needs 0 <= hits <= count and count > 0, not {hits} of {count}")
    share = hits / count
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    middle = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    whole = 1 + z * z / count
    # Rounding must not move an end past the estimate.
    low, high = min(share, (middle - half) / whole), max(share, (middle + half) / whole)
    return Interval(estimate=share, low=max(0.0, low), high=min(1.0, high))


def _log_moments(values: Sequence[float]) -> tuple[float, float]:
    if min(values) <= 0:
        raise ValueError(f"a value on a ratio scale must be above 0, not {min(values)}")
    logs = [math.log(value) for value in values]
    mean = math.fsum(logs) / len(logs)
    squares = math.fsum((value - mean) ** 2 for value in logs)
    return mean, math.sqrt(squares / (len(logs) - 1))


def binomial_cdf(k: int, n: int, p: float) -> float:
    """Return P(X <= k) for X of Binomial(n, p): I_(1-p)(n - k, k + 1), DLMF 8.17.5."""
    if k < 0:
        return 0.0
    return 1.0 if k >= n else regularized_incomplete_beta(n - k, k + 1, 1.0 - p)


@functools.lru_cache(maxsize=1024)
def order_statistic_interval(n: int, p: float, confidence: float = 0.95) -> tuple[int, int] | None:
    """Return the ranks (1 is the smallest) of the order statistics that enclose the p-quantile.

    The number of samples below the p-quantile is Binomial(n, p), so X_(low) <= quantile <= X_(high)
    holds with at least `confidence`, each tail at most (1 - confidence) / 2, for any continuous
    distribution. None if n is too small for such a pair. Source: David & Nagaraja, Order
    Statistics (3rd ed.), 7.1.
    """
    tail = (1 - confidence) / 2
    # Low: the largest rank with P(X <= rank - 1) <= tail; high: the smallest with >= 1 - tail.
    low = _first_rank(n, lambda rank: binomial_cdf(rank - 1, n, p) > tail) - 1
    high = _first_rank(n, lambda rank: 1.0 - binomial_cdf(rank - 1, n, p) <= tail)
    return (low, high) if low >= 1 and high <= n else None


def _first_rank(n: int, holds: Callable[[int], bool]) -> int:
    """Return the first rank in 1..n for which a monotone condition holds, else n + 1."""
    low, high = 1, n + 1
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


def least_count(p: float, confidence: float = 0.95) -> int:
    """Return the smallest number of samples for which :func:`order_statistic_interval` exists.

    36 for p90 and 368 for p99 at 95 %: max(p, 1 - p)^n <= (1 - confidence) / 2.
    """
    tail = (1 - confidence) / 2
    count = math.ceil(math.log(tail) / math.log(max(p, 1 - p)))
    while order_statistic_interval(count, p, confidence) is None:
        count += 1
    return count

"""Formulas for comparing A and B from interleaved launches. Plain Python without state.

One pair is one block: a launch of A and an adjacent launch of B. x is a quantile of the launch
(:func:`launch_quantile`), and d = ln(x_B / x_A) the difference on the log scale, so 0 is "the
same" and ln 1.05 is "5 % slower". gate/verdicts.py derives the verdict from these numbers.

All functions raise ValueError for inputs without an answer (no values, NaN); none warns. The tests
check them against scipy, published examples and simulation.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Iterable, Sequence

from harness import stats
from harness.stats import Interval

SHARED_CPU = 0.9
"""Below this share of CPU time the host is shared, and other processes may slow half a launch."""

FLOORS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
"""Quantiles that can represent a disturbed launch: low, but not a single fast sample."""

QUARTER, HALF = 0.25, 0.5
QUANTILES = (*FLOORS, QUARTER, HALF)
"""All quantiles that can represent a launch."""

MIN_BELOW = 10
"""At least this many inferences of every launch are below its floor."""

UNREST = 1.05

MIN_FOR_SPREAD = 2
"""One pair has no spread, so there is no interval and no p."""

MAX_PAIRS_NEEDED = 10_000
"""A larger number of pairs is not practical, so it is not computed."""

_ROUNDING = 1e-12
"""A spread of logs below this is rounding; the differences are then constant."""


def floor_quantile(inferences: int) -> float:
    """Return the lowest of FLOORS below which a launch has MIN_BELOW inferences, else 0.25.

    With shorter inferences, more of them fit between two disturbances. So a lower quantile is still
    undisturbed and is not a single fast sample.
    """
    return next((q for q in FLOORS if q * inferences >= MIN_BELOW), QUARTER)


def launch_quantile(
    cpu_shares: Iterable[float | None],
    unrest: Iterable[float] = (),
    floor: float = FLOORS[0],
) -> float:
    """Return the quantile that represents a launch: 0.5, 0.25 or `floor`.

    `floor` if `unrest` (p50 over the floor, one number per launch) is above 1.05 in any launch.
    Another process on the second hardware thread of the core can slow a launch by a quarter without
    reducing its CPU share, so half of its samples may be disturbed but not its floor. Else 0.25 if
    the median of the known CPU shares is under 0.9, else 0.5. Pass *all* launches of both sides:
    both sides need the same quantile. Source: docs/gate-statistics.md.
    """
    if any(math.isfinite(value) and value > UNREST for value in unrest):
        return floor
    known = [share for share in cpu_shares if share is not None]
    return QUARTER if known and stats.median(known) < SHARED_CPU else HALF


def log_ratios(a: Sequence[float], b: Sequence[float]) -> list[float]:
    """Return d_i = ln(b_i / a_i), the differences that the other functions take.

    Raises ValueError if the sides differ in length, or naming the pair if a value is NaN, infinite
    or not above 0.
    """
    if len(a) != len(b):
        raise ValueError(f"pairs need as many values of A as of B, not {len(a)} and {len(b)}")
    for index, sides in enumerate(zip(a, b, strict=True)):
        for side, value in zip("AB", sides, strict=True):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"pair {index + 1} of {len(a)}: {side} is {value}, not above 0")
    return [math.log(y) - math.log(x) for x, y in zip(a, b, strict=True)]


def deviation(differences: Sequence[float]) -> float:
    """Return s = sqrt(sum (d - mean d)^2 / (n - 1)); exactly 0 if they differ only by rounding.

    Raises ValueError under two differences.
    """
    n = len(differences)
    if n < MIN_FOR_SPREAD:
        raise ValueError(f"a spread needs at least {MIN_FOR_SPREAD} pairs, not {n}")
    middle = mean(differences)
    spread = math.sqrt(math.fsum((value - middle) ** 2 for value in differences) / (n - 1))
    return spread if spread > _ROUNDING * max(1.0, abs(middle)) else 0.0


def mean(differences: Sequence[float]) -> float:
    """Return the arithmetic mean; its exp is the geometric mean of the ratios, R."""
    if not differences:
        raise ValueError("a mean needs at least one pair")
    total = math.fsum(differences)
    if not math.isfinite(total):
        raise ValueError("a difference is NaN or infinite")
    return total / len(differences)


def paired_interval(differences: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return mean d +- t((1 + confidence) / 2, n - 1) s / sqrt(n), on the scale of d.

    The interval of the paired t test ("Student", The probable error of a mean, Biometrika 6, 1908).
    The one-sided 95 % upper bound is the high end at confidence 0.90. The width is 0 if all
    differences are equal. Raises ValueError under two differences.
    """
    middle = mean(differences)
    half = half_width(differences, confidence)
    return Interval(estimate=middle, low=middle - half, high=middle + half)


def half_width(differences: Sequence[float], confidence: float = 0.95) -> float:
    """Return t((1 + confidence) / 2, n - 1) s / sqrt(n), half the width of the interval."""
    n = len(differences)
    return _t((1 + confidence) / 2, n - 1) * deviation(differences) / math.sqrt(n)


def paired_p(differences: Sequence[float]) -> float:
    """Return the one-sided p of the paired t test against "the mean is not above 0".

    P(T_(n-1) >= mean d / (s / sqrt(n))). For the other side, pass the negated differences. Without
    any spread the p is 0 for a mean above 0, else 1. Raises ValueError under two differences.
    """
    middle, spread = mean(differences), deviation(differences)
    if spread == 0:
        return 0.0 if middle > 0 else 1.0
    return stats.t_cdf(-middle / (spread / math.sqrt(len(differences))), len(differences) - 1)


def hodges_lehmann(differences: Sequence[float]) -> float:
    """Return the median of the n (n + 1) / 2 Walsh averages (d_i + d_j) / 2, i <= j.

    The estimate that belongs to Wilcoxon's signed rank test. Its breakdown point is 29 % of
    outliers, so it checks the mean. Source: Hodges & Lehmann, Estimates of location based on rank
    tests, Ann. Math. Stat. 34 (1963); Hollander & Wolfe, Nonparametric Statistical Methods, 3.2.
    """
    mean(differences)  # Raises for no differences and for NaN.
    return stats.median(
        [
            (first + second) / 2
            for index, first in enumerate(differences)
            for second in differences[index:]
        ]
    )


def equivalence_p(differences: Sequence[float], low: float, high: float) -> float:
    """Return the p of two one-sided t tests (TOST) against "the mean is outside low..high".

    max(P(T >= (mean - low) / se), P(T >= (high - mean) / se)); under 0.05 if and only if the 90 %
    interval is inside. Source: Schuirmann, J. Pharmacokinet. Biopharm. 15 (1987).
    """
    return max(
        paired_p([value - low for value in differences]),
        paired_p([high - value for value in differences]),
    )


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Return the adjusted p of each test, in the order given.

    adj p_(i) = min over j >= i of p_(j) m / j, at most 1, p_(1) <= ... <= p_(m). Rejecting
    adj p <= q keeps the expected share of false rejections at or under q; if all hypotheses hold,
    the probability of any rejection. Source: Benjamini & Hochberg, J. R. Stat. Soc. B 57 (1995).

    Raises ValueError if a p is not between 0 and 1.
    """
    for p in p_values:
        if not 0 <= p <= 1:
            raise ValueError(f"a p value must be between 0 and 1, not {p}")
    m = len(p_values)
    order = sorted(range(m), key=lambda index: p_values[index], reverse=True)
    adjusted, least = [1.0] * m, 1.0
    for place, index in enumerate(order):
        least = min(least, p_values[index] * m / (m - place))
        adjusted[index] = least
    return adjusted


def mcnemar_worse_p(only_a: int, only_b: int) -> float:
    """Return the exact one-sided p of McNemar's test against "B gets as many right as A".

    P(X <= only_b), X of Binomial(only_a + only_b, 1/2): if neither side is better, each gets half
    of the inputs right that only one side gets right. Source: McNemar, Psychometrika 12 (1947);
    exact form: Agresti, Categorical Data Analysis, 11.1.
    """
    _check_counts(only_a, only_b)
    return stats.binomial_cdf(only_b, only_a + only_b, 0.5)


def accuracy_drop(both: int, only_a: int, only_b: int, neither: int, z: float) -> Interval:
    """Return the accuracy of A minus that of B on the same inputs, with its interval.

    The estimate is (only_a - only_b) / n. The interval adds half an input to each of the four
    counts: d' +- z sqrt((a' + b') - (a' - b')^2 / n') / n', with a' = only_a + 1/2,
    b' = only_b + 1/2, n' = n + 2, d' = (a' - b') / n'. So its width is above 0 even if the two
    never disagree. Source: Agresti & Min, Simple improved confidence intervals for comparing
    matched proportions, Statistics in Medicine 24 (2005).

    Raises ValueError for negative counts or if all counts are 0.
    """
    _check_counts(both, only_a, only_b, neither)
    n = both + only_a + only_b + neither
    if not n:
        raise ValueError("an accuracy needs at least one input")
    more, less, total = only_a + 0.5, only_b + 0.5, n + 2
    middle = (more - less) / total
    half = z * math.sqrt((more + less) - (more - less) ** 2 / total) / total
    return Interval(estimate=(only_a - only_b) / n, low=middle - half, high=middle + half)


def pairs_for(spread: float, width: float, tail: float = 0.025) -> int | None:
    """Return the smallest number of pairs n with t(1 - tail, n - 1) spread / sqrt(n) <= width.

    The spread is assumed to be known, so in about half of all cases a few more pairs are needed.
    None if 10,000 pairs are not enough. Raises ValueError for a negative spread or a width not
    above 0.
    """
    if not (spread >= 0 and width > 0):
        raise ValueError(f"needs a spread >= 0 and a width > 0, not {spread} and {width}")

    if spread == 0:
        return MIN_FOR_SPREAD

    # n is never below that of the normal distribution and rarely far above: search upwards.
    ratio = width / spread
    n = max(MIN_FOR_SPREAD, math.ceil((statistics.NormalDist().inv_cdf(1 - tail) / ratio) ** 2))
    while n <= MAX_PAIRS_NEEDED:
        # t(1 - tail) <= ratio sqrt(n), by the tail, which is faster to compute than the quantile.
        if stats.t_cdf(-ratio * math.sqrt(n), n - 1) <= tail:
            return n
        n += 1
    return None


def _check_counts(*counts: int) -> None:
    if min(counts) < 0:
        raise ValueError(f"counts must not be negative: {counts}")


@functools.lru_cache(maxsize=4096)
def _t(p: float, df: int) -> float:
    """Return a t quantile, cached: a gate needs the same few quantiles thousands of times."""
    if df < 1:
        raise ValueError(f"a spread needs at least {MIN_FOR_SPREAD} pairs, not {df + 1}")
    return stats.t_quantile(p, df)

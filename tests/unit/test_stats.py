from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from harness import stats

finite = st.floats(min_value=1e-3, max_value=1e9)


@settings(deadline=None)
@given(st.lists(finite, min_size=1, max_size=50), st.floats(min_value=0, max_value=1))
def test_quantile_is_numpys(values: list[float], q: float) -> None:
    assert stats.quantile(values, q) == pytest.approx(np.quantile(values, q), rel=1e-12)


def test_quantile_refuses_what_has_none() -> None:
    with pytest.raises(ValueError, match="at least one"):
        stats.quantile([], 0.5)
    with pytest.raises(ValueError, match="between 0 and 1"):
        stats.quantile([1.0], 50)


@pytest.mark.parametrize("df", [1, 2, 3.7, 4, 9, 19, 100, 5000])
@pytest.mark.parametrize("p", [0.001, 0.025, 0.05, 0.3, 0.5, 0.8, 0.95, 0.975, 0.9999])
def test_t_quantile_is_scipys(p: float, df: float) -> None:
    assert stats.t_quantile(p, df) == pytest.approx(scipy_stats.t.ppf(p, df), rel=1e-9, abs=1e-12)


@settings(deadline=None)
@given(st.integers(1, 3000), st.floats(0.01, 0.99), st.data())
def test_binomial_cdf_is_scipys(n: int, p: float, data: st.DataObject) -> None:
    k = data.draw(st.integers(-1, n))
    assert stats.binomial_cdf(k, n, p) == pytest.approx(
        scipy_stats.binom.cdf(k, n, p), rel=1e-8, abs=1e-12
    )


@settings(deadline=None)
@given(st.lists(finite, min_size=3, max_size=20))
def test_geometric_interval_is_the_t_interval_of_logs(medians: list[float]) -> None:
    got = stats.geometric_interval(medians)
    assert got is not None
    logs = np.log(medians)
    half = scipy_stats.t.ppf(0.975, len(logs) - 1) * scipy_stats.sem(logs)
    assert got.estimate == pytest.approx(math.exp(logs.mean()), rel=1e-9)
    assert math.log(got.high / got.low) == pytest.approx(2 * half, rel=1e-6, abs=1e-9)


def test_an_interval_needs_three_launches() -> None:
    assert stats.geometric_interval([1.0, 2.0]) is None
    assert stats.ratio_interval([1.0, 2.0, 3.0], [1.0, 2.0]) is None


def test_constant_medians_have_an_interval_of_no_width() -> None:
    got = stats.geometric_interval([5.0] * 4)
    assert got == stats.Interval(estimate=pytest.approx(5), low=pytest.approx(5), high=got.high)
    ratio = stats.ratio_interval([5.0] * 4, [10.0] * 3)
    assert ratio is not None
    assert (ratio.low, ratio.high) == (pytest.approx(2), pytest.approx(2))


def test_a_median_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="ratio scale"):
        stats.geometric_interval([0.0, 1.0, 1.0])


def test_ratio_interval_is_welch() -> None:
    rng = np.random.default_rng(3)
    before, after = rng.lognormal(0, 0.05, 6), rng.lognormal(0.1, 0.02, 9)
    got = stats.ratio_interval(list(before), list(after))
    assert got is not None
    theirs = scipy_stats.ttest_ind(
        np.log(after), np.log(before), equal_var=False
    ).confidence_interval(0.95)
    assert (math.log(got.low), math.log(got.high)) == pytest.approx((theirs.low, theirs.high))


def test_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(11)
    hits = 0
    for _ in range(400):
        got = stats.geometric_interval(list(rng.lognormal(0, 0.06, 5)))
        assert got is not None
        hits += got.low <= 1 <= got.high
    assert hits / 400 == pytest.approx(0.95, abs=0.03)


def test_least_counts_of_the_protocol() -> None:
    assert stats.least_count(0.9) == 36
    assert stats.least_count(0.99) == 368
    assert stats.order_statistic_interval(35, 0.9) is None
    assert stats.order_statistic_interval(367, 0.99) is None


@pytest.mark.parametrize(("n", "p"), [(6, 0.5), (36, 0.9), (100, 0.5), (368, 0.99), (10**6, 0.99)])
def test_order_statistics_have_the_promised_coverage(n: int, p: float) -> None:
    ranks = stats.order_statistic_interval(n, p)
    assert ranks is not None
    low, high = ranks
    below = scipy_stats.binom(n, p)
    assert below.cdf(low - 1) <= 0.025 < below.cdf(low)
    assert below.sf(high - 1) <= 0.025 < below.sf(high - 2)

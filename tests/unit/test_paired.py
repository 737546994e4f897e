from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from harness.stats import paired

differences = st.lists(st.floats(-2, 2, allow_subnormal=False), min_size=2, max_size=25)

# "Student" 1908, the data set `sleep` of R: extra hours of sleep with two drugs, ten patients.
SLEEP_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SLEEP_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
SLEEP = [one - two for one, two in zip(SLEEP_1, SLEEP_2, strict=True)]

# Hollander & Wolfe, example 3.1: Hamilton depression scale before and after a tranquilliser.
DEPRESSION_BEFORE = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
DEPRESSION_AFTER = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]

# Benjamini & Hochberg 1995, section 4.1: fifteen end points of a trial of thrombolysis.
THROMBOLYSIS = [
    *(0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344),
    *(0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0000),
]


def test_the_interval_and_p_of_students_sleep_data() -> None:
    # R: t.test(extra ~ group, paired) gives t = -4.0621, df = 9, p-value = 0.002833.
    got = paired.paired_interval(SLEEP)
    assert got.estimate == pytest.approx(-1.58)
    assert (got.low, got.high) == (
        pytest.approx(-2.4598858, abs=1e-6),
        pytest.approx(-0.7001142, abs=1e-6),
    )
    assert 2 * paired.paired_p([-value for value in SLEEP]) == pytest.approx(0.002833, abs=1e-6)
    assert paired.paired_p(SLEEP) == pytest.approx(1 - 0.002833 / 2, abs=1e-6)


def test_hodges_lehmann_of_hollander_and_wolfe() -> None:
    changes = [y - x for x, y in zip(DEPRESSION_BEFORE, DEPRESSION_AFTER, strict=True)]
    assert paired.hodges_lehmann(changes) == pytest.approx(-0.46, abs=1e-9)


def test_hodges_lehmann_is_robust_to_outliers() -> None:
    assert paired.hodges_lehmann([0.0, 0.01, -0.01, 0.0, 0.02, -0.02, 5.0]) < 0.02


def test_benjamini_hochberg_of_the_paper_rejects_four() -> None:
    adjusted = paired.benjamini_hochberg(THROMBOLYSIS)
    assert sum(p <= 0.05 for p in adjusted) == 4
    # Bonferroni keeps three: the difference is what the paper is about.
    assert sum(p * 15 <= 0.05 for p in THROMBOLYSIS) == 3


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_benjamini_hochberg_is_scipys(p_values: list[float]) -> None:
    theirs = scipy_stats.false_discovery_control(p_values, method="bh")
    assert paired.benjamini_hochberg(p_values) == pytest.approx(list(theirs), abs=1e-12)


def test_benjamini_hochberg_of_no_tests_is_none() -> None:
    assert paired.benjamini_hochberg([]) == []


def two_sided(only_a: int, only_b: int) -> float:
    """The two-sided p, which tables publish: twice that of the side with fewer."""
    return min(1.0, 2 * paired.mcnemar_worse_p(max(only_a, only_b), min(only_a, only_b)))


def test_mcnemar_of_published_tables() -> None:
    # Discordant 6 and 16: exact p = 0.053 (Fagerland et al., BMC Med. Res. Methodol. 13, 2013).
    assert two_sided(6, 16) == pytest.approx(0.0525, abs=5e-5)
    # Agresti, Categorical Data Analysis, infarction and diabetes: 37 and 16 discordant pairs.
    assert two_sided(37, 16) == pytest.approx(scipy_stats.binomtest(16, 53, 0.5).pvalue)
    assert two_sided(37, 16) == pytest.approx(0.0055, abs=1e-4)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_binomial_test(only_a: int, only_b: int) -> None:
    assume(only_a + only_b > 0)
    n = only_a + only_b
    assert two_sided(only_a, only_b) == pytest.approx(scipy_stats.binomtest(only_b, n, 0.5).pvalue)
    assert paired.mcnemar_worse_p(only_a, only_b) == pytest.approx(
        scipy_stats.binomtest(only_b, n, 0.5, alternative="less").pvalue
    )


def test_mcnemar_without_a_disagreement_gives_p_1() -> None:
    assert two_sided(0, 0) == 1.0
    with pytest.raises(ValueError, match="must not be negative"):
        paired.mcnemar_worse_p(-1, 3)


@given(differences)
def test_the_t_test_is_scipys(values: list[float]) -> None:
    assume(statistics.stdev(values) > 1e-6)
    theirs = scipy_stats.ttest_1samp(values, 0.0, alternative="greater")
    assert paired.paired_p(values) == pytest.approx(theirs.pvalue, rel=1e-6, abs=1e-12)
    both = scipy_stats.ttest_1samp(values, 0.0).confidence_interval(0.9)
    got = paired.paired_interval(values, 0.9)
    assert (got.low, got.high) == pytest.approx((both.low, both.high), rel=1e-6, abs=1e-9)


@given(differences, st.floats(0.01, 1))
def test_two_one_sided_tests_are_the_90_percent_interval(values: list[float], bound: float) -> None:
    assume(statistics.stdev(values) > 1e-6)
    interval = paired.paired_interval(values, 0.90)
    assume(min(abs(interval.low + bound), abs(interval.high - bound)) > 1e-9)
    inside = -bound < interval.low and interval.high < bound
    assert (paired.equivalence_p(values, -bound, bound) < 0.05) == inside


@given(differences)
def test_hodges_lehmann_changes_sign_with_the_values(values: list[float]) -> None:
    center, negated = paired.hodges_lehmann(values), paired.hodges_lehmann([-v for v in values])
    assert center == pytest.approx(-negated, abs=1e-12)
    assert min(values) <= center <= max(values)


@given(st.floats(0.001, 0.2), st.floats(0.005, 0.05))
def test_pairs_for_is_the_first_that_is_enough(spread: float, width: float) -> None:
    n = paired.pairs_for(spread, width)
    assert n is not None
    assert scipy_stats.t.ppf(0.975, n - 1) * spread / math.sqrt(n) <= width * (1 + 1e-9)
    if n > 2:
        assert scipy_stats.t.ppf(0.975, n - 2) * spread / math.sqrt(n - 1) >= width * (1 - 1e-9)


def test_pairs_for_an_impossible_request() -> None:
    assert paired.pairs_for(0.0, 0.015) == 2
    assert paired.pairs_for(10.0, 0.015) is None
    with pytest.raises(ValueError, match="width > 0"):
        paired.pairs_for(0.1, 0.0)
    with pytest.raises(ValueError, match="width > 0"):
        paired.pairs_for(math.nan, 0.1)


def test_the_quantile_of_a_shared_host_is_one_for_both_sides() -> None:
    assert paired.launch_quantile([1.0, 0.99, 0.5]) == 0.5
    assert paired.launch_quantile([0.8, 0.7, None, 1.0]) == 0.25
    assert paired.launch_quantile([None, None]) == 0.5
    assert paired.launch_quantile([0.9]) == 0.5


def test_one_pair_has_no_spread() -> None:
    for formula in (paired.paired_interval, paired.paired_p, paired.half_width, paired.deviation):
        with pytest.raises(ValueError, match="at least 2 pairs"):
            formula([0.1])
    assert paired.hodges_lehmann([0.1]) == 0.1


def test_no_spread_at_all_is_certain_and_rounding_is_no_spread() -> None:
    equal = paired.log_ratios([0.1, 0.3, 0.7], [0.11, 0.33, 0.77])
    assert paired.paired_p(equal) == 0.0
    assert paired.paired_p([-value for value in equal]) == 1.0
    interval = paired.paired_interval(equal)
    assert interval.low == interval.high == pytest.approx(math.log(1.1))
    assert paired.paired_p([0.0, 0.0]) == 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -1.0])
def test_a_value_without_a_logarithm_is_named(bad: float) -> None:
    with pytest.raises(ValueError, match="pair 2 of 2: B is"):
        paired.log_ratios([1.0, 1.0], [1.0, bad])
    with pytest.raises(ValueError, match="as many values"):
        paired.log_ratios([1.0], [])


def test_nan_is_refused_everywhere() -> None:
    for formula in (paired.paired_interval, paired.paired_p, paired.hodges_lehmann, paired.mean):
        with pytest.raises(ValueError, match="NaN"):
            formula([0.1, math.nan, 0.2])
    with pytest.raises(ValueError, match="between 0 and 1"):
        paired.benjamini_hochberg([0.1, math.nan])


@pytest.mark.parametrize("n", [6, 10, 20])
def test_the_interval_has_its_nominal_coverage(n: int) -> None:
    rng = np.random.default_rng(n)
    draws = rng.normal(0.03, 0.06, (4000, n))
    hits = sum(
        interval.low <= 0.03 <= interval.high
        for interval in map(paired.paired_interval, draws.tolist())
    )
    # Three binomial standard deviations of 4,000 draws are 1.03 %.
    assert hits / 4000 == pytest.approx(0.95, abs=0.0104)


def test_accuracy_drop_has_its_coverage_and_a_width() -> None:
    never = paired.accuracy_drop(90, 0, 0, 10, 1.96)
    assert never.estimate == 0
    assert never.low < 0 < never.high
    rng = np.random.default_rng(5)
    draws = rng.multinomial(600, [0.85, 0.04, 0.02, 0.09], 3000)
    intervals = [paired.accuracy_drop(*map(int, row), 1.959964) for row in draws]
    assert np.mean([one.low <= 0.02 <= one.high for one in intervals]) > 0.94
    with pytest.raises(ValueError, match="at least one input"):
        paired.accuracy_drop(0, 0, 0, 0, 1.96)


def test_accuracy_drop_is_walds_interval_with_half_an_input_more_in_each_count() -> None:
    counts = np.array([9, 37, 16, 82])
    got = paired.accuracy_drop(*map(int, counts), 1.959964)
    assert got.estimate == pytest.approx(21 / 144)
    # Variance of a contrast of multinomial shares: (c' diag(p) c - (c' p)^2) / n.
    shares = (counts + 0.5) / 146
    contrast = np.array([0, 1, -1, 0])
    half = 1.959964 * math.sqrt((contrast**2 @ shares - (contrast @ shares) ** 2) / 146)
    middle = float(contrast @ shares)
    assert (got.low, got.high) == (pytest.approx(middle - half), pytest.approx(middle + half))


def test_an_unsteady_machine_is_judged_by_its_floor_at_any_cpu_share() -> None:
    assert paired.launch_quantile([0.99, 0.99], [1.24, 1.0, 1.0], 0.01) == 0.01
    assert paired.launch_quantile([0.99, 0.99], [1.04, 1.01, 1.0], 0.01) == 0.5
    assert paired.launch_quantile([0.6, 0.6], [1.24, 1.24], 0.05) == 0.05
    assert paired.launch_quantile([0.6, 0.6], [float("nan"), 1.01]) == 0.25
    assert paired.launch_quantile([], []) == 0.5


@pytest.mark.parametrize(
    ("inferences", "floor"),
    [
        (20_000, 0.001),
        (9_999, 0.002),
        (2_000, 0.005),
        (1_999, 0.01),
        (300, 0.05),
        (100, 0.1),
        (99, 0.25),
        (0, 0.25),
    ],
)
def test_a_floor_has_ten_inferences_below_it_or_is_the_quarter(
    inferences: int, floor: float
) -> None:
    assert paired.floor_quantile(inferences) == floor

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from harness.analysis.gate.findings import NOISY_DEVICE
from harness.analysis.gate.noise import DeviceNoise
from harness.analysis.gate.verdicts import (
    CONSTANT,
    HOT,
    SKEWED,
    TOO_NOISY,
    UNCONFIRMED,
    Accuracy,
    Comparison,
    Exact,
    Judged,
    Key,
    Pair,
    Verdict,
    confirm,
    exit_code,
    judge,
    pairs_to_confirm,
)
from harness.stats import Interval
from harness.types import Direction

KEY = Key(model="kws", recipe="int8", device="bench-pi", threads=1)


def pairs(*ratios: float, discarded: dict[int, str] | None = None) -> tuple[Pair, ...]:
    return tuple(
        Pair(block=block, a=2e6, b=2e6 * ratio, discarded=(discarded or {}).get(block))
        for block, ratio in enumerate(ratios)
    )


def spread(ratio: float, relative: float, n: int = 10) -> tuple[Pair, ...]:
    # n ratios whose logs have that mean, alternating so that they have a spread.
    return pairs(*(ratio * math.exp(relative if i % 2 else -relative) for i in range(n)))


def comparison(found: tuple[Pair, ...], **fields: object) -> Comparison:
    return replace(Comparison(key=KEY, metric="latency", pairs=found), **fields)


def one(row: Comparison | Exact | Accuracy) -> Judged:
    (judged,) = judge([row])
    return judged


# --- the verdicts and their order ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "noise", "verdict"),
    [
        (1.10, 0.010, Verdict.REGRESSION),
        (1.045, 0.010, Verdict.REGRESSION),  # Upper bound 1.0515: the margin is not shown.
        (1.035, 0.010, Verdict.SLOWER_WITHIN_MARGIN),
        (1.022, 0.002, Verdict.SLOWER_WITHIN_MARGIN),  # EQUIVALENT as well: the warning is first.
        (1.019, 0.002, Verdict.EQUIVALENT),  # Significantly slower, but below min_effect.
        (1.000, 0.010, Verdict.EQUIVALENT),
        (1.000, 0.060, Verdict.PASS),  # 1.035: within 5 %, not within 3 %.
        (0.978, 0.002, Verdict.IMPROVED),  # EQUIVALENT as well.
        (0.900, 0.010, Verdict.IMPROVED),
        (1.000, 0.120, Verdict.INCONCLUSIVE),
        (1.060, 0.120, Verdict.INCONCLUSIVE),
    ],
)
def test_verdicts_and_their_order(ratio: float, noise: float, verdict: Verdict) -> None:
    judged = one(comparison(spread(ratio, noise)))
    assert judged.verdict is verdict
    assert judged.ratio is not None
    assert judged.ratio.estimate == pytest.approx(ratio)
    assert judged.ratio.low < ratio < judged.ratio.high
    assert judged.hodges_lehmann == pytest.approx(ratio, rel=0.02)
    assert judged.pairs == 10
    assert (judged.pairs_needed is not None) == (verdict is Verdict.INCONCLUSIVE)
    assert "10 pairs" in judged.reason


def test_the_reason_has_the_numbers() -> None:
    assert one(comparison(spread(1.1, 0.01))).reason.startswith("slower: +10.0% (95 % interval +9.")
    assert "about 14 pairs would decide" in one(comparison(spread(1.0, 0.09))).reason
    quick = one(comparison(spread(0.9, 0.01)))
    assert quick.reason.startswith("faster: -10.0%")
    large = one(replace(comparison(spread(1.1, 0.01)), metric="peak_rss"))
    assert large.reason.startswith("larger: +10.0%")


def test_not_significant_is_not_pass() -> None:
    judged = one(comparison(spread(1.03, 0.08)))
    assert judged.p_adjusted is not None
    assert judged.p_adjusted > 0.05
    assert judged.verdict is Verdict.INCONCLUSIVE


def test_p_is_adjusted_over_all_rows_of_the_gate() -> None:
    suspect = comparison(spread(1.06, 0.06))
    alone = one(suspect)
    assert alone.verdict is Verdict.REGRESSION
    quiet = [comparison(spread(1.0, 0.01)) for _ in range(40)]
    among = judge([*quiet, suspect])[-1]
    assert alone.p_adjusted is not None
    assert among.p_adjusted == pytest.approx(alone.p_adjusted * 41)
    assert among.verdict is Verdict.INCONCLUSIVE
    assert among.pairs_needed is not None
    assert among.pairs_needed > 10


def test_exact_rows_do_not_make_measured_ones_more_lenient() -> None:
    suspect = comparison(spread(1.06, 0.06))
    quiet = [comparison(spread(1.0, 0.01)) for _ in range(40)]
    sizes = [Exact(key=KEY, metric="size", a=100, b=200) for _ in range(40)]
    assert judge([*sizes, *quiet, suspect])[-1] == judge([*quiet, suspect])[-1]


def test_the_thresholds_are_parameters() -> None:
    row = comparison(spread(1.035, 0.01))
    assert judge([row], margin=0.03)[0].verdict is Verdict.REGRESSION
    assert judge([row], margin=0.06, min_effect=0.04)[0].verdict is Verdict.PASS
    with pytest.raises(ValueError, match="min_effect < margin"):
        judge([row], margin=0.01)


# --- evidence that carries no verdict ------------------------------------------------------------


def test_one_pair_is_inconclusive() -> None:
    judged = one(comparison(pairs(1.5)))
    assert (judged.verdict, judged.ratio) == (Verdict.INCONCLUSIVE, None)
    assert judged.reason == "only 1 of at least 6 pairs"


def test_an_interval_takes_the_pairs_of_a_verdict() -> None:
    two = one(comparison(pairs(1e-3, 1e3)))
    assert two.ratio == Interval(estimate=pytest.approx(1), low=0, high=math.inf)
    assert one(comparison(spread(1.1, 0.01, n=4))).ratio == Interval(
        estimate=pytest.approx(1.1), low=0, high=math.inf
    )


def test_pairs_that_bound_nothing_have_no_interval_and_keep_their_verdict() -> None:
    wild = one(comparison(pairs(*[1e-9, 1e9] * 3)))
    assert wild.verdict is Verdict.INCONCLUSIVE
    assert wild.ratio == Interval(estimate=pytest.approx(1), low=0, high=math.inf)
    assert "(the pairs scatter too much for an interval), 6 pairs; " in wild.reason


def test_no_pair_at_all_is_inconclusive() -> None:
    assert one(comparison(())).reason == "only 0 of at least 6 pairs"


def test_a_stored_nan_is_named_and_never_dropped() -> None:
    good, bad = comparison(spread(1.1, 0.01)), comparison((*spread(1.1, 0.01), *pairs(math.nan)))
    first, second = judge([good, bad])
    assert first.verdict is Verdict.REGRESSION
    assert second.verdict is Verdict.INCONCLUSIVE
    assert "pair 11 of 11: B is nan" in second.reason


def test_constant_samples_are_certain_and_labelled() -> None:
    same = one(comparison(pairs(*[1.0] * 6)))
    assert (same.verdict, same.labels) == (Verdict.EQUIVALENT, (CONSTANT,))
    slow = one(comparison(pairs(*[1.1] * 6)))
    assert (slow.verdict, slow.p_adjusted) == (Verdict.REGRESSION, 0.0)


def test_a_device_lost_half_way_keeps_the_evidence() -> None:
    judged = one(comparison(spread(1.2, 0.01), cut_short="bench-pi was lost after block 10"))
    assert judged.verdict is Verdict.INCONCLUSIVE
    assert judged.ratio is not None
    assert judged.reason == "bench-pi was lost after block 10; 10 pairs were kept"


def test_a_fifth_of_the_blocks_may_be_dropped_and_no_more() -> None:
    hot = "thermal status 2"
    ratios = [1.1 * math.exp(0.01 * (-1) ** i) for i in range(10)]
    two = one(comparison(pairs(*ratios, discarded={0: hot, 5: hot})))
    assert (two.verdict, two.pairs, two.discarded) == (Verdict.REGRESSION, 8, 2)
    assert "8 pairs, 2 dropped" in two.reason
    three = one(comparison(pairs(*ratios, discarded={0: hot, 5: hot, 7: "12 degC warmer"})))
    assert three.verdict is Verdict.INCONCLUSIVE
    assert three.reason == ("3 of 10 blocks dropped, more than 20%; most often: thermal status 2")


def test_a_device_too_noisy_by_its_selftest_is_refused() -> None:
    noisy = DeviceNoise(half_width=0.041)
    judged = one(comparison(spread(1.06, 0.01), noise=noisy))
    assert (judged.verdict, judged.labels) == (Verdict.INCONCLUSIVE, (TOO_NOISY,))
    assert "+-4.1% with 20 pairs" in judged.reason
    fit = comparison(spread(1.2, 0.01), noise=DeviceNoise(half_width=0.029))
    assert (one(fit).verdict, one(fit).labels) == (Verdict.REGRESSION, ())
    unfit = comparison(spread(1.06, 0.01), noise=replace(noisy, unfit="31 days old"))
    assert one(unfit).verdict is Verdict.REGRESSION


@pytest.mark.parametrize(("ratio", "verdict"), [(1.2, "REGRESSION"), (0.8, "IMPROVED")])
def test_a_difference_far_outside_the_noise_is_not_overruled(ratio: float, verdict: str) -> None:
    judged = one(comparison(spread(ratio, 0.01), noise=DeviceNoise(half_width=0.041)))
    assert (judged.verdict, judged.labels) == (verdict, (NOISY_DEVICE,))
    closer = one(comparison(spread(ratio, 0.01), noise=DeviceNoise(half_width=0.12)))
    assert (closer.verdict, closer.labels) == ("INCONCLUSIVE", (TOO_NOISY,))


def test_a_row_that_stays_wide_is_labelled_too_noisy() -> None:
    assert one(comparison(spread(1.02, 0.12, n=20))).labels == (TOO_NOISY,)
    assert one(comparison(spread(1.02, 0.12, n=10))).labels == ()
    # A verdict that was reached all the same is not taken back.
    assert one(comparison(spread(1.5, 0.12, n=20))).verdict is Verdict.REGRESSION


def test_labels_are_kept_and_a_few_extreme_pairs_are_labelled() -> None:
    assert one(comparison(spread(1.1, 0.01), labels=(HOT,))).labels == (HOT,)
    wild = pairs(*[1.0 + 0.001 * i for i in range(18)], 2.5, 2.6)
    assert one(comparison(wild)).labels == (SKEWED, TOO_NOISY)


def test_pairs_needed_are_enough() -> None:
    judged = one(comparison(spread(1.0, 0.09)))
    assert judged.verdict is Verdict.INCONCLUSIVE
    assert judged.pairs_needed == 14
    assert one(comparison(spread(1.0, 0.09, n=14))).verdict is Verdict.PASS
    hopeless = one(comparison(spread(1.0, 5.0)))
    assert hopeless.pairs_needed is None
    assert "more than 10,000 pairs" in hopeless.reason


# --- numbers without noise, and accuracy ---------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        (1000, 1000, Verdict.EQUIVALENT),
        (1000, 1001, Verdict.EQUIVALENT),
        (1000, 1020, Verdict.SLOWER_WITHIN_MARGIN),
        (1000, 1049, Verdict.SLOWER_WITHIN_MARGIN),
        (1000, 1050, Verdict.REGRESSION),
        (1000, 950, Verdict.IMPROVED),
        (0, 0, Verdict.EQUIVALENT),
        (0, 10, Verdict.REGRESSION),
        (10, 0, Verdict.IMPROVED),
        (math.nan, 10, Verdict.INCONCLUSIVE),
        (-1, 10, Verdict.INCONCLUSIVE),
    ],
)
def test_exact_numbers(a: float, b: float, verdict: Verdict) -> None:
    judged = one(Exact(key=KEY, metric="size", a=a, b=b))
    assert judged.verdict is verdict
    assert judged.p_adjusted is None
    assert judged.confirmed == (verdict is Verdict.REGRESSION)


def test_the_reason_of_an_exact_row_has_both_sides() -> None:
    judged = one(Exact(key=KEY, metric="size", a=53_936, b=60_000))
    assert judged.reason == "larger: 53,936 to 60,000 (+11.2%), the margin is +5.0%"
    assert one(Exact(key=KEY, metric="arena", a=0, b=10)).ratio is None


@pytest.mark.parametrize(
    ("better", "b", "verdict", "reason"),
    [
        (
            "higher",
            0.8,
            Verdict.REGRESSION,
            "less accurate: 0.9 to 0.8 (-11.1%), the margin is -4.8%",
        ),
        ("higher", 0.95, Verdict.IMPROVED, "more accurate: 0.9 to 0.95 (+5.6%)"),
        ("lower", 0.8, Verdict.IMPROVED, "more accurate: 0.9 to 0.8 (-11.1%)"),
        ("lower", 1.0, Verdict.REGRESSION, "less accurate: 0.9 to 1 (+11.1%), the margin is +5.0%"),
    ],
)
def test_an_exact_number_has_a_direction(
    better: Direction, b: float, verdict: Verdict, reason: str
) -> None:
    judged = one(Exact(key=KEY, metric="accuracy", a=0.9, b=b, better=better))
    assert judged.verdict is verdict
    assert judged.reason == reason
    # The ratio is B over A, whichever is better.
    assert judged.ratio is not None
    assert judged.ratio.estimate == pytest.approx(b / 0.9)
    assert judged.drop is None


def test_all_of_a_metric_that_is_better_higher_may_be_lost() -> None:
    assert one(Exact(key=KEY, metric="accuracy", a=0.9, b=0, better="higher")).verdict is (
        Verdict.REGRESSION
    )


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        ((540, 3, 2, 55), Verdict.PASS),
        ((540, 0, 0, 60), Verdict.PASS),
        ((500, 40, 5, 55), Verdict.REGRESSION),
        ((9500, 60, 20, 420), Verdict.SLOWER_WITHIN_MARGIN),
        ((500, 5, 40, 55), Verdict.IMPROVED),
        ((40, 3, 2, 5), Verdict.INCONCLUSIVE),
        ((0, 0, 0, 0), Verdict.INCONCLUSIVE),
    ],
)
def test_accuracy_is_paired(counts: tuple[int, int, int, int], verdict: Verdict) -> None:
    both, only_a, only_b, neither = counts
    row = Accuracy(key=KEY, both=both, only_a=only_a, only_b=only_b, neither=neither)
    judged = one(row)
    assert judged.verdict is verdict
    assert judged.ratio is None
    assert judged.confirmed == (verdict is Verdict.REGRESSION)
    if sum(counts):
        assert judged.drop is not None
        assert judged.drop.estimate == pytest.approx((only_a - only_b) / sum(counts))


@pytest.mark.parametrize("counts", [(500, 3, 5, 32), (500, 12, 1, 27), (500, 0, 20, 20)])
def test_an_interval_is_printed_from_low_to_high(counts: tuple[int, int, int, int]) -> None:
    both, only_a, only_b, neither = counts
    row = Accuracy(key=KEY, both=both, only_a=only_a, only_b=only_b, neither=neither)
    reason = one(row).reason
    low, high = map(float, re.findall(r"interval (\S+) points to (\S+) points", reason)[0])
    assert low < 100 * (only_b - only_a) / sum(counts) < high
    assert "upper bound" not in reason


def test_the_reason_of_an_accuracy_row_is_in_points() -> None:
    judged = one(Accuracy(key=KEY, both=500, only_a=40, only_b=5, neither=55))
    assert judged.reason.startswith("less accurate: -5.83 points (95 % interval ")
    assert "600 inputs" in judged.reason


# --- confirmation and the answer -----------------------------------------------------------------


def test_a_regression_needs_as_many_fresh_pairs_as_it_used_and_at_least_ten() -> None:
    assert pairs_to_confirm(one(comparison(spread(1.1, 0.01, n=6)))) == 10
    assert pairs_to_confirm(one(comparison(spread(1.1, 0.01, n=20)))) == 20
    assert pairs_to_confirm(one(comparison(spread(1.1, 0.01, n=17)))) == 18


def test_fresh_pairs_confirm() -> None:
    first = [one(comparison(spread(1.10, 0.01))), one(comparison(spread(1.0, 0.01)))]
    assert exit_code(first) == 2
    slow, same = confirm(first, [comparison(spread(1.08, 0.01))])
    assert (slow.verdict, slow.confirmed) == (Verdict.REGRESSION, True)
    assert slow.ratio == first[0].ratio
    assert slow.fresh is not None
    assert slow.fresh.ratio is not None
    assert slow.fresh.ratio.estimate == pytest.approx(1.08)
    assert same == first[1]
    assert exit_code([slow, same]) == 1


@pytest.mark.parametrize(
    ("fresh", "why"),
    [
        ([comparison(spread(1.00, 0.01))], "fresh pairs alone give EQUIVALENT"),
        ([comparison(spread(1.01, 0.001))], "fresh pairs alone give EQUIVALENT"),
        ([comparison(spread(1.10, 0.01, n=6))], "only 6 of 10 fresh pairs"),
        ([], "only 0 of 10 fresh pairs"),
        (
            [comparison(spread(1.10, 0.01), cut_short="device lost")],
            "fresh pairs alone give INCONCLUSIVE: device lost",
        ),
        ([replace(comparison(spread(1.10, 0.01)), metric="load")], "only 0 of 10 fresh pairs"),
    ],
)
def test_a_regression_that_fresh_pairs_do_not_show_is_unconfirmed(
    fresh: list[Comparison], why: str
) -> None:
    (judged,) = confirm([one(comparison(spread(1.10, 0.01)))], fresh)
    assert judged.verdict is Verdict.INCONCLUSIVE
    assert judged.labels == (UNCONFIRMED,)
    assert why in judged.reason
    assert exit_code([judged]) == 2


def test_significantly_slower_fresh_pairs_confirm_at_any_margin() -> None:
    (judged,) = confirm([one(comparison(spread(1.10, 0.01)))], [comparison(spread(1.03, 0.001))])
    assert (judged.verdict, judged.confirmed) == (Verdict.REGRESSION, True)
    assert judged.fresh is not None
    assert judged.fresh.verdict is Verdict.SLOWER_WITHIN_MARGIN


def test_two_fresh_rows_with_the_same_key_are_refused() -> None:
    row = comparison(spread(1.1, 0.01))
    with pytest.raises(ValueError, match="same key and metric"):
        confirm([one(row)], [row, row])


def test_exit_codes() -> None:
    red = one(Exact(key=KEY, metric="size", a=1, b=2))
    unclear, good = one(comparison(())), one(comparison(spread(1.0, 0.01)))
    warning = one(comparison(spread(1.035, 0.01)))
    assert warning.verdict is Verdict.SLOWER_WITHIN_MARGIN
    assert exit_code([]) == 0
    assert exit_code([good, warning]) == 0
    assert exit_code([good], away=["pixel"]) == 4
    assert exit_code([good, unclear], away=["pixel"]) == 2
    assert exit_code([good, unclear, red], away=["pixel"]) == 1
    assert exit_code([], away=["pixel"]) == 4


def test_the_text_of_a_key() -> None:
    assert str(KEY) == "kws int8 on bench-pi, 1 thread"
    assert str(Key(model="m", device="d", threads=2)) == "m on d, 2 threads"

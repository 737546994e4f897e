from __future__ import annotations

import math

import numpy as np
import pytest

from harness.analysis.gate.verdicts import Pair, discard_reason, needs_more
from harness.types import Covariates

COOL = Covariates(temperature_c=45.0, frequency_mhz=2400.0, throttled=0, thermal_status=0)
QUIET = (COOL, COOL)


def pairs(count: int, noise: float, dropped: int = 0) -> list[Pair]:
    return [
        Pair(
            block=block,
            a=1.0,
            b=math.exp(noise * (-1) ** block),
            discarded="thermal status 1" if block < dropped else None,
        )
        for block in range(count)
    ]


# --- when there are enough pairs -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "more"),
    [
        ([], True),
        (pairs(5, 0.0), True),
        (pairs(6, 0.001), False),
        (pairs(6, 0.05), True),
        (pairs(7, 0.001), True),  # A block without its mirror.
        (pairs(8, 0.001), False),
        (pairs(18, 0.20), True),
        (pairs(20, 0.20), False),
        (pairs(7, 0.001, dropped=1), True),
        (pairs(8, 0.001, dropped=1), False),
        (pairs(8, 0.001, dropped=2), True),  # A quarter dropped: may still become a fifth.
        (pairs(10, 0.001, dropped=2), False),
        (pairs(12, 0.001, dropped=5), False),  # Beyond a fifth of 20, whatever comes.
    ],
)
def test_six_then_two_until_narrow(found: list[Pair], *, more: bool) -> None:
    assert needs_more(found) is more


def test_a_device_that_throttles_in_every_block_ends_the_gate() -> None:
    found: list[Pair] = []
    while needs_more(found):
        found.append(Pair(block=len(found), a=1.0, b=1.0, discarded="thermal status 2"))
    assert len(found) == 5


def test_the_stop_rule_depends_on_the_width_not_the_difference() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.03, 20)
    for shift in (0.0, 0.5):
        found = [Pair(block=i, a=1.0, b=math.exp(shift + one)) for i, one in enumerate(noise)]
        answers = [needs_more(found[:n]) for n in range(21)]
        same = [needs_more([Pair(block=p.block, a=1, b=p.b) for p in found[:n]]) for n in range(21)]
        assert answers == same
    assert not needs_more([*pairs(6, 0.1), Pair(block=6, a=1.0, b=math.nan)])


def test_the_plan_may_allow_more_or_fewer_pairs() -> None:
    assert not needs_more(pairs(4, 0.2), max_pairs=4)
    assert needs_more(pairs(20, 0.2), max_pairs=40)
    assert needs_more(pairs(6, 0.01), half_width=0.001)


# --- which blocks count ---------------------------------------------------------------------------


def test_a_quiet_block_counts_and_so_does_one_without_sensors() -> None:
    assert discard_reason([QUIET, QUIET], pinned_mhz=2400) is None
    blind = (Covariates(), Covariates())
    assert discard_reason([blind, blind], pinned_mhz=2400) is None
    assert discard_reason([]) is None


@pytest.mark.parametrize(
    ("after", "why"),
    [
        (Covariates(throttled=0x50005), "new bits 0x50005"),
        (Covariates(throttled=0x40000), "new bits 0x40000"),
        (Covariates(throttled=0x1), "throttled or under voltage"),
        (Covariates(thermal_status=1), "thermal status 1"),
        (Covariates(frequency_mhz=2250.0), "frequency 2325 of 2400 MHz pinned"),
        (Covariates(temperature_c=55.5), "10 degC warmer"),
    ],
)
def test_covariates_that_drop_a_block(after: Covariates, why: str) -> None:
    reason = discard_reason([QUIET, (COOL, after)], pinned_mhz=2400)
    assert reason is not None
    assert why in reason


@pytest.mark.parametrize(
    "after",
    [
        Covariates(frequency_mhz=2400 * 0.981),
        Covariates(temperature_c=55.0),
        Covariates(thermal_status=0),
        Covariates(load_1m=7.0),
    ],
)
def test_covariates_that_drop_no_block(after: Covariates) -> None:
    assert discard_reason([(after, after), QUIET], pinned_mhz=2400) is None


def test_frequency_matters_only_if_it_was_pinned() -> None:
    slow = Covariates(frequency_mhz=600.0)
    assert discard_reason([(slow, slow)]) is None
    assert discard_reason([(slow, slow)], pinned_mhz=2400) is not None


def test_throttling_bits_of_an_earlier_block_count_only_while_they_last() -> None:
    still = Covariates(throttled=0x40004)
    over = Covariates(throttled=0x40000)
    assert discard_reason([(still, still)], reference=COOL) is not None
    assert discard_reason([(over, over)], reference=COOL) is None
    # On a plateau (soak) the device is throttled from the start: nothing is new.
    assert discard_reason([(still, still)], reference=still) is None
    assert discard_reason([(still, still)]) is None

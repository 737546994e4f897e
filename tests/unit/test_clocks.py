"""Mapping a device's clock to the host's, on simulated clocks whose truth is known to the nanosecond."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from math import floor

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.devices.clocks import (
    MAX_DRIFT_PPM,
    STEPPED,
    DeviceClock,
    LaunchStamps,
    agree,
    drift_ppm,
    reading,
    window,
)
from harness.protocols import Clocked
from harness.testing import FakeDialect
from harness.types import Clock, Device, Dose, Exchange, LaunchOrder, TimeWindow

SECOND = 1_000_000_000
YEAR = 31_557_600 * SECOND


@dataclass(frozen=True)
class SimulatedClock:
    """A device's monotonic clock as a function of the host's: offset, changing rate, one step."""

    offset_ns: int = 0
    drift_ppm: tuple[Fraction, ...] = ()
    """One rate per second of host time, the last one for ever."""
    step_at_ns: int | None = None
    step_ns: int = 0

    def offset_at(self, host_ns: int) -> Fraction:
        drifted, left = Fraction(0), host_ns
        for number, rate in enumerate(self.drift_ppm):
            passed = left if number == len(self.drift_ppm) - 1 else min(left, SECOND)
            drifted += passed * rate / 1_000_000
            left -= passed
        stepped = self.step_at_ns is not None and host_ns >= self.step_at_ns
        return self.offset_ns + drifted + (self.step_ns if stepped else 0)

    def __call__(self, host_ns: int) -> int:
        """Return what the device's clock shows, cut to whole nanoseconds."""
        return floor(host_ns + self.offset_at(host_ns))


def exchange(clock: SimulatedClock, sent: int, there: int, work: int, back: int) -> Exchange:
    return Exchange(
        sent_ns=sent,
        arrived_ns=clock(sent + there),
        answered_ns=clock(sent + there + work),
        received_ns=sent + there + work + back,
    )


RATES = st.fractions(-MAX_DRIFT_PPM, MAX_DRIFT_PPM, max_denominator=1000)
OFFSETS = st.integers(-10 * YEAR, 10 * YEAR)
CLOCKS = st.builds(
    SimulatedClock, offset_ns=OFFSETS, drift_ppm=st.lists(RATES, max_size=4).map(tuple)
)
DELAYS = st.integers(0, SECOND) | st.integers(0, 100_000)
MESSAGES = st.lists(st.tuples(DELAYS, DELAYS, DELAYS), min_size=1, max_size=5)


def read(clock: SimulatedClock, at: int, messages: list[tuple[int, int, int]]) -> Clock:
    exchanges = []
    for there, work, back in messages:
        exchanges.append(exchange(clock, at, there, work, back))
        at = exchanges[-1].received_ns
    found = reading(exchanges)
    assert found is not None
    return found


@given(CLOCKS, st.integers(0, 5 * SECOND), MESSAGES)
@settings(deadline=None)
@example(SimulatedClock(offset_ns=10 * YEAR + 1), 3, [(7, 0, 0)])
@example(SimulatedClock(offset_ns=-10 * YEAR, drift_ppm=(Fraction(-500),)), 1, [(0, 0, SECOND)])
def test_a_reading_is_never_further_off_than_it_says(
    clock: SimulatedClock, at: int, messages: list[tuple[int, int, int]]
) -> None:
    found = read(clock, at, messages)
    assert abs(found.offset_ns - clock.offset_at(found.at_host_ns)) <= found.uncertainty_ns
    assert found.exchanges == len(messages)
    least = min(there + back for there, _, back in messages)
    assert found.round_trip_ns <= least + 5 + 3 * SECOND * MAX_DRIFT_PPM // 1_000_000
    assert found.uncertainty_ns <= found.round_trip_ns // 2 + 3 * SECOND // 1000


def test_the_smallest_round_trip_counts_and_years_are_exact() -> None:
    clock = SimulatedClock(offset_ns=7 * YEAR + 1)
    found = read(clock, 11, [(900, 50, 100), (200, 10**6, 200), (400, 0, 100)])
    assert found.round_trip_ns == 400
    assert found.offset_ns == 7 * YEAR + 1
    assert found.at_ns - found.at_host_ns == found.offset_ns
    assert 200 < found.uncertainty_ns < 200 + 600


def test_an_exchange_in_which_the_clock_stepped_is_left_out() -> None:
    good = exchange(SimulatedClock(), 0, 100, 10, 100)
    longer = replace(good, answered_ns=good.arrived_ns + SECOND)
    backwards = replace(good, answered_ns=good.arrived_ns - 1)
    assert reading([longer, backwards]) is None
    assert reading([]) is None
    found = reading([longer, good, backwards])
    assert found is not None
    assert (found.round_trip_ns, found.exchanges) == (200, 3)


# --- a launch ------------------------------------------------------------------------------------

PARTS = st.tuples(*[st.integers(0, 3 * SECOND)] * 5)
"""Until the launch is asked for, until its timed part, that part, until the answer, until the reading."""


@dataclass(frozen=True)
class Made:
    """A simulated launch: what was seen of it, and the truth on the host's clock."""

    stamps: LaunchStamps
    start: int
    end: int
    before: Clock
    after: Clock

    def errors(self, found: TimeWindow) -> int:
        return max(abs(found.start_host_ns - self.start), abs(found.end_host_ns - self.end))


def make(
    clock: SimulatedClock, parts: tuple[int, ...], messages: list[tuple[int, int, int]]
) -> Made:
    before = read(clock, 0, messages)
    sent = sum(map(sum, messages)) + parts[0]
    start = sent + parts[1]
    end = start + parts[2]
    received = end + parts[3]
    return Made(
        stamps=LaunchStamps(
            sent_ns=sent,
            received_ns=received,
            start_ns=clock(start),
            end_ns=clock(end),
            process_start_ns=clock(sent),
            process_end_ns=clock(received),
        ),
        start=start,
        end=end,
        before=before,
        after=read(clock, received + parts[4], messages),
    )


@given(CLOCKS, PARTS, MESSAGES, st.sampled_from(["both", "before", "after", "neither"]))
@settings(deadline=None, max_examples=300)
def test_a_window_is_never_further_off_than_it_says(
    clock: SimulatedClock, parts: tuple[int, ...], messages: list[tuple[int, int, int]], used: str
) -> None:
    made = make(clock, parts, messages)
    clocks = {
        "both": (made.before, made.after),
        "before": (made.before,),
        "after": (made.after,),
        "neither": (),
    }[used]
    found = window(made.stamps, clocks)
    assert found is not None
    assert not found.stepped
    assert made.errors(found) <= found.uncertainty_ns
    sent, received = made.stamps.sent_ns, made.stamps.received_ns
    assert sent <= found.start_host_ns <= found.end_host_ns <= received
    assert found.uncertainty_ns <= received - sent
    assert (found.start_ns, found.end_ns) == (clock(made.start), clock(made.end))
    assert found.clocks == clocks


STEPS = st.integers(-10, 10).map(lambda power: (10 ** abs(power)) * (1 if power > 0 else -1))


@given(CLOCKS, PARTS, MESSAGES, STEPS, st.floats(0, 1))
@settings(deadline=None, max_examples=300)
def test_one_step_is_flagged_and_covered_or_smaller_than_what_is_unknown_anyway(
    clock: SimulatedClock,
    parts: tuple[int, ...],
    messages: list[tuple[int, int, int]],
    step: int,
    share: float,
) -> None:
    still = make(clock, parts, messages)
    first, last = sum(map(sum, messages)), still.stamps.received_ns + parts[4]
    stepping = replace(clock, step_at_ns=int(first + share * (last - first)) + 1, step_ns=step)
    made = make(stepping, parts, messages)
    found = window(made.stamps, (made.before, made.after))
    if found is None:
        assert step < 0
        return
    sent, received = made.stamps.sent_ns, made.stamps.received_ns
    assert sent <= found.start_host_ns <= found.end_host_ns <= received
    if found.stepped:
        assert made.errors(found) <= found.uncertainty_ns
        return
    passed = made.after.at_host_ns - made.before.at_host_ns
    unknown = made.before.uncertainty_ns + made.after.uncertainty_ns
    assert abs(step) <= 2 * unknown + passed * MAX_DRIFT_PPM * 2 // 1_000_000 + 10
    assert made.errors(found) <= found.uncertainty_ns + abs(step)


def test_a_step_larger_than_what_drift_explains_is_flagged_and_both_readings_are_covered() -> None:
    messages = [(20_000, 10_000, 30_000)]
    parts = (1000, SECOND, SECOND, 1000, 1000)
    whole = make(SimulatedClock(offset_ns=YEAR), parts, messages)
    calm = window(whole.stamps, (whole.before, whole.after))
    assert calm is not None
    assert not calm.stepped
    stepping = SimulatedClock(offset_ns=YEAR, step_at_ns=2 * SECOND, step_ns=10_000_000)
    made = make(stepping, parts, messages)
    assert not agree(made.before, made.after)
    found = window(made.stamps, (made.before, made.after))
    assert found is not None
    assert found.stepped
    assert calm.uncertainty_ns < 600_000
    assert 5_000_000 <= found.uncertainty_ns < 11_000_000
    assert made.errors(found) <= found.uncertainty_ns


def test_a_constant_drift_is_followed_far_closer_than_the_worst_that_could_be() -> None:
    clock = SimulatedClock(offset_ns=-3 * YEAR, drift_ppm=(Fraction(200),))
    made = make(clock, (0, 100 * SECOND, 400 * SECOND, 100 * SECOND, 0), [(10_000, 5_000, 10_000)])
    found = window(made.stamps, (made.before, made.after))
    assert found is not None
    assert not found.stepped
    assert made.errors(found) < 1_000
    assert made.errors(found) <= found.uncertainty_ns < 100 * SECOND * 2 * MAX_DRIFT_PPM / 1e6
    drift = drift_ppm(made.before, made.after)
    assert drift == pytest.approx(200, abs=0.5)
    assert drift_ppm(made.before, made.before) is None


def test_the_device_worked_for_longer_than_the_host_waited() -> None:
    stamps = LaunchStamps(sent_ns=0, received_ns=SECOND, start_ns=YEAR, end_ns=YEAR + 2 * SECOND)
    found = window(stamps)
    assert found is not None
    assert found.stepped
    assert 0 <= found.start_host_ns <= found.end_host_ns <= SECOND
    assert found.uncertainty_ns >= SECOND // 2


def test_a_launch_outside_of_its_own_command_and_answer_has_their_uncertainty() -> None:
    made = make(SimulatedClock(), (0, SECOND, SECOND, 0, 0), [(10, 10, 10)])
    moved = replace(made.stamps, start_ns=made.stamps.start_ns + 9 * SECOND, end_ns=11 * SECOND,
                    process_start_ns=None, process_end_ns=None)  # fmt: skip
    found = window(moved, (made.before, made.after))
    assert found is not None
    assert found.stepped
    assert found.uncertainty_ns >= SECOND
    assert found.end_host_ns <= made.stamps.received_ns


@pytest.mark.parametrize("late", ["start_ns", "process_start_ns"])
def test_times_in_no_order_are_no_window(late: str) -> None:
    made = make(SimulatedClock(), (0, 10, SECOND, 10, 0), [(10, 10, 10)])
    assert window(replace(made.stamps, **{late: 3 * SECOND})) is None


# --- when to ask ---------------------------------------------------------------------------------


class SimulatedLink:
    """Exchanges with a simulated device in simulated time."""

    def __init__(self, clock: Callable[[int], int], delay_ns: int = 30_000) -> None:
        self.now = 5 * SECOND
        self.asked = 0
        self.clock = clock
        self.delay_ns = delay_ns

    def device_ns(self) -> int:
        return self.clock(self.now)

    def host_ns(self) -> int:
        return self.now

    def spend(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)

    def exchange(self) -> Exchange:
        self.asked += 1
        sent = self.now
        arrived = self.clock(sent + self.delay_ns)
        self.now += 2 * self.delay_ns
        return Exchange(sent_ns=sent, arrived_ns=arrived, answered_ns=arrived, received_ns=self.now)

    def launch(self, clock: DeviceClock, seconds: float = 1.0) -> tuple[TimeWindow, int]:
        clock.before_launch()
        asked = self.asked
        sent = self.now
        self.spend(0.2)
        start = self.now
        self.spend(seconds)
        stamps = LaunchStamps(
            sent_ns=sent, start_ns=self.clock(start), end_ns=self.device_ns(), received_ns=self.now
        )
        assert self.asked == asked
        clock.after_launch()
        found = clock.window(stamps)
        assert found is not None
        return found, abs(found.start_host_ns - start)


def test_fifty_exchanges_once_then_ten_after_each_launch() -> None:
    link = SimulatedLink(SimulatedClock(offset_ns=YEAR))
    clock = DeviceClock(link.exchange, link.host_ns)
    counts = []
    for idle in (0, 0, 11, 0):
        link.spend(idle)
        asked = link.asked
        link.launch(clock)
        counts.append(link.asked - asked)
    assert counts == [60, 10, 20, 10]


def test_a_slow_link_is_asked_for_as_long_as_the_budget_lasts() -> None:
    link = SimulatedLink(SimulatedClock(), delay_ns=SECOND // 20)
    clock = DeviceClock(link.exchange, link.host_ns)
    link.launch(clock)
    assert link.asked == 3 + 1
    assert link.launch(clock)[0].uncertainty_ns < SECOND // 10
    assert link.asked == 3 + 1 + 1


@pytest.mark.parametrize("ppm", [-200, 200])
def test_the_drift_is_known_after_some_launches(ppm: int) -> None:
    link = SimulatedLink(SimulatedClock(offset_ns=-YEAR, drift_ppm=(Fraction(ppm),)))
    clock = DeviceClock(link.exchange, link.host_ns)
    windows = []
    for _ in range(20):
        found, error = link.launch(clock)
        assert not found.stepped
        assert error <= found.uncertainty_ns
        windows.append(found)
    assert windows[0].clocks[0].drift_ppm is None
    assert windows[-1].clocks[-1].drift_ppm == pytest.approx(ppm, abs=1)


def test_after_a_step_the_drift_is_that_of_the_clock_since() -> None:
    link = SimulatedLink(
        SimulatedClock(
            offset_ns=YEAR,
            drift_ppm=(Fraction(100),),
            step_at_ns=25 * SECOND,
            step_ns=3 * SECOND,
        )
    )
    clock = DeviceClock(link.exchange, link.host_ns)
    windows = []
    while link.now < 60 * SECOND:
        found, error = link.launch(clock, seconds=1.3)
        assert error <= found.uncertainty_ns
        windows.append(found)
    assert [found.stepped for found in windows].count(True) == 1
    assert windows[-1].clocks[-1].drift_ppm == pytest.approx(100, abs=1)


def test_a_device_that_cannot_say_is_mapped_by_the_launch_itself() -> None:
    link = SimulatedLink(SimulatedClock(offset_ns=YEAR))
    clock = DeviceClock(link.exchange, link.host_ns)
    clock.stop_asking()
    found, error = link.launch(clock)
    assert link.asked == 0
    assert found.clocks == ()
    assert error <= found.uncertainty_ns <= SECOND // 8
    assert not found.stepped


# --- the fake ------------------------------------------------------------------------------------

DEVICE = Device(name="d", profile="fake", address="fake:")
ORDER = LaunchOrder(
    cell_id="c",
    kind="timed",
    block=0,
    position=0,
    variant_digest="0" * 64,
    target="xnnpack",
    threads=1,
    dose=Dose(min_inferences=100),
)


def test_a_fake_has_windows_in_real_or_simulated_time() -> None:
    dialect = FakeDialect(DEVICE)
    assert isinstance(dialect, Clocked)
    real = dialect.launch(ORDER).window
    assert real is not None
    assert 0 <= real.start_host_ns - real.start_ns + real.uncertainty_ns < SECOND
    assert dialect.launch(replace(ORDER, kind="memory")).window is None

    link = SimulatedLink(SimulatedClock(offset_ns=YEAR, step_at_ns=7 * SECOND, step_ns=SECOND))
    slow = FakeDialect(
        DEVICE,
        latency_ns=1e7,
        device_ns=link.device_ns,
        host_ns=link.host_ns,
        spend=link.spend,
    )
    flags = []
    for _ in range(3):
        launch = slow.launch(ORDER)
        assert launch.window is not None
        assert launch.window.stepped == (STEPPED in launch.flags)
        flags.append(launch.window.stepped)
        start, end = launch.window.start_host_ns, launch.window.end_host_ns
        assert abs(end - start - SECOND) <= 2 * launch.window.uncertainty_ns
    assert flags == [False, True, False]

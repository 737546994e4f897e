"""Map a device's monotonic clock to the host's, with an uncertainty.

A monotonic clock counts from the boot of its machine, so two clocks may be years apart. They also drift.
One exchange has four timestamps: the host sends (t0), the device receives (t1) and answers (t2), the
host receives (t3). The offset (device minus host) is ((t1 - t0) + (t2 - t3)) / 2. Its error is at most
half of the round trip (t3 - t0) - (t2 - t1), however the two directions share it (RFC 5905, section 8).
So the exchange with the smallest round trip is used.

Between two readings the mapping is a straight line. Its uncertainty assumes only that the rates of the
two clocks differ by at most 500 ppm: a quartz drifts by up to 100 ppm, and the kernel slews a clock that
NTP corrects by up to 500 ppm (adjtimex, MAXFREQ). Each reading then bounds every moment around it. A
launch's command and answer bound its moments too. The true time lies in the overlap of these bounds. If
they do not overlap, a clock stepped: the device was suspended (CLOCK_MONOTONIC then stops), or a virtual
machine was resumed. A step smaller than the uncertainty is not detected and causes an error of its size.

All times are integer nanoseconds: a float cannot hold years of them exactly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from harness.types import Clock, Exchange, TimeWindow

MAX_DRIFT_PPM = 500
"""The largest plausible difference between the rates of two clocks."""

STEPPED = "clock_stepped"
"""The flag of a launch during which the device's clock stepped."""

FULL_EXCHANGES = 50
SHORT_EXCHANGES = 10
_FULL_SECONDS = 0.2
_SHORT_SECONDS = 0.05
_MIN_FULL_EXCHANGES = 3
_FRESH_SECONDS = 10.0
"""An older reading is repeated before a launch."""

_KNOWN_PPM = 10.0
"""A drift is reported if its own error is at most this."""

_ROUNDING_NS = 4
"""Every timestamp, and every half of a sum of two, is truncated to whole nanoseconds."""

_MILLION = 1_000_000
_Bounds = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchStamps:
    """The times of one launch on both clocks, before one clock is mapped to the other."""

    sent_ns: int
    """On the host's clock: just before the request was sent."""
    received_ns: int
    """On the host's clock: just after the answer was received."""
    start_ns: int
    """On the device's clock: before the first timed inference."""
    end_ns: int
    """On the device's clock: after the last timed inference."""
    process_start_ns: int | None = None
    process_end_ns: int | None = None


def reading(exchanges: Sequence[Exchange]) -> Clock | None:
    """Read the clock from the exchange with the smallest round trip; None if none is consistent.

    If a clock stepped during an exchange, the device may seem to work for longer than the host
    waited. Such an exchange is ignored.
    """
    trips = [(_round_trip_ns(one), one) for one in exchanges if _is_possible(one)]
    if not trips:
        return None
    round_trip, best = min(trips, key=lambda pair: pair[0])
    outbound, inbound = best.arrived_ns - best.sent_ns, best.answered_ns - best.received_ns
    uncertainty = -(-round_trip // 2) + _drift_ns(best.received_ns - best.sent_ns) + _ROUNDING_NS
    return Clock(
        at_host_ns=(best.sent_ns + best.received_ns) // 2,
        offset_ns=(outbound + inbound) // 2,
        uncertainty_ns=uncertainty,
        round_trip_ns=round_trip,
        exchanges=len(exchanges),
    )


def agree(earlier: Clock, later: Clock) -> bool:
    """Return whether two readings differ by at most their uncertainties and the plausible drift."""
    passed = abs(later.at_host_ns - earlier.at_host_ns)
    limit = earlier.uncertainty_ns + later.uncertainty_ns + _drift_ns(passed)
    return abs(later.offset_ns - earlier.offset_ns) <= limit


def drift_ppm(earlier: Clock, later: Clock) -> float | None:
    """Return how much faster the device's clock runs, ppm; None until it is known to 10 ppm."""
    passed = later.at_host_ns - earlier.at_host_ns
    error = earlier.uncertainty_ns + later.uncertainty_ns
    if passed <= 0 or error * _MILLION > _KNOWN_PPM * passed:
        return None
    return (later.offset_ns - earlier.offset_ns) * _MILLION / passed


def window(stamps: LaunchStamps, clocks: Sequence[Clock] = ()) -> TimeWindow | None:
    """Map a launch's timed part to the host's clock.

    `clocks` are the readings before and after the launch: two, one or none. Without readings the
    launch itself is the exchange, and the uncertainty is half of the time outside the timed part.
    Returns None if the device's own times are out of order: then its clock stepped.
    """
    stages = (stamps.process_start_ns, stamps.start_ns, stamps.end_ns, stamps.process_end_ns)
    times = [at_ns for at_ns in stages if at_ns is not None]
    if times != sorted(times):
        return None
    starts, ends, stepped = _bounds(stamps, clocks)
    start, end = (
        min(max(_estimate(at, bounds, () if stepped else clocks), bounds[0]), bounds[1])
        for at, bounds in ((stamps.start_ns, starts), (stamps.end_ns, ends))
    )
    return TimeWindow(
        start_ns=stamps.start_ns,
        end_ns=stamps.end_ns,
        start_host_ns=start,
        end_host_ns=end,
        uncertainty_ns=max(start - starts[0], starts[1] - start, end - ends[0], ends[1] - end),
        process_start_ns=stamps.process_start_ns,
        process_end_ns=stamps.process_end_ns,
        stepped=stepped,
        clocks=tuple(clocks),
    )


class DeviceClock:
    """The readings of one device's clock over one connection.

    A dialect calls `before_launch`, makes the launch, then calls `after_launch` and `window`. Only
    `before_launch` and `after_launch` read the clock, so it is never read during a launch. Not
    thread-safe.
    """

    def __init__(
        self, exchange: Callable[[], Exchange], host_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """Read nothing yet.

        `exchange` makes one exchange with the device (protocols.Clocked). `host_ns` reads the host's
        clock, the one of its timestamps.
        """
        self._exchange = exchange
        self._host_ns = host_ns
        self._is_enabled = True
        self._base: Clock | None = None
        self._last: Clock | None = None
        self._used: tuple[Clock, ...] = ()

    def before_launch(self) -> None:
        """Read the clock unless it was read in the last ten seconds; raises what `exchange` raises.

        The first reading takes 50 exchanges or 0.2 s, later ones 10 exchanges or 0.05 s.
        """
        last = self._last
        if last is None:
            self._read(FULL_EXCHANGES, _MIN_FULL_EXCHANGES, _FULL_SECONDS)
        elif self._host_ns() - last.at_host_ns > _FRESH_SECONDS * 1e9:
            self._read(SHORT_EXCHANGES, 1, _SHORT_SECONDS)
        self._used = () if self._last is None else (self._last,)

    def after_launch(self) -> None:
        """Read the clock again: 10 exchanges or 0.05 s; raises what `exchange` raises."""
        found = self._read(SHORT_EXCHANGES, 1, _SHORT_SECONDS)
        if found is not None:
            self._used += (found,)

    def stop_asking(self) -> None:
        """Stop reading: later launches are mapped by their own command and answer."""
        self._is_enabled, self._used = False, ()

    def window(self, stamps: LaunchStamps) -> TimeWindow | None:
        """Map the last launch; see the function `window`."""
        return window(stamps, self._used)

    def _read(self, maximum: int, minimum: int, seconds: float) -> Clock | None:
        if not self._is_enabled:
            return None
        deadline = self._host_ns() + int(seconds * 1e9)
        exchanges: list[Exchange] = []
        while len(exchanges) < minimum or (len(exchanges) < maximum and self._host_ns() < deadline):
            exchanges.append(self._exchange())
        found = reading(exchanges)
        if found is None:
            return None
        if self._base is None or self._last is None or not agree(self._last, found):
            self._base = found
        self._last = replace(found, drift_ppm=drift_ppm(self._base, found))
        return self._last


def _drift_ns(nanoseconds: int) -> int:
    """Return how far two clocks may drift apart in this time at most, rounded up."""
    return -(-nanoseconds * MAX_DRIFT_PPM // (_MILLION - MAX_DRIFT_PPM))


def _round_trip_ns(one: Exchange) -> int:
    return max(0, (one.received_ns - one.sent_ns) - (one.answered_ns - one.arrived_ns))


def _is_possible(one: Exchange) -> bool:
    waited, worked = one.received_ns - one.sent_ns, one.answered_ns - one.arrived_ns
    return waited >= 0 and 0 <= worked <= waited + _drift_ns(waited)


def _bounds(stamps: LaunchStamps, clocks: Sequence[Clock]) -> tuple[_Bounds, _Bounds, bool]:
    """Return the bounds of the timed part's start and end in host time, and whether a clock stepped."""
    sent, received = stamps.sent_ns, stamps.received_ns
    length = stamps.end_ns - stamps.start_ns
    shortest = max(0, length - _drift_ns(length))
    around = (sent, received)
    started, ended = (
        [_around(at, clock) for clock in clocks] for at in (stamps.start_ns, stamps.end_ns)
    )
    starts = _overlap([*started, (sent, received - shortest)])
    ends = _overlap([*ended, (sent + shortest, received)])
    fits = all(agree(one, other) for one, other in pairwise(clocks))
    if fits and starts is not None and ends is not None:
        return starts, ends, False
    if fits:
        # The readings agree but contradict the command and the answer: only the last two are certain.
        return around, around, True
    # The clock stepped once between the readings: each moment is before or after the step.
    first, last = (_overlap([_hull(some), around]) or around for some in (started, ended))
    return first, last, True


def _around(at_ns: int, clock: Clock) -> _Bounds:
    """Return the bounds of a moment on the device's clock in host time, by one reading."""
    slack = clock.uncertainty_ns + _drift_ns(abs(at_ns - clock.at_ns))
    return at_ns - clock.offset_ns - slack, at_ns - clock.offset_ns + slack


def _overlap(every: Sequence[_Bounds]) -> _Bounds | None:
    low, high = max(one[0] for one in every), min(one[1] for one in every)
    return (low, high) if low <= high else None


def _hull(every: Sequence[_Bounds]) -> _Bounds:
    return min(one[0] for one in every), max(one[1] for one in every)


def _estimate(at_ns: int, bounds: _Bounds, clocks: Sequence[Clock]) -> int:
    """Return the likeliest host time: on the line between the readings, else midway between bounds."""
    if not clocks:
        return (bounds[0] + bounds[1]) // 2
    first, last = clocks[0], clocks[-1]
    passed = last.at_ns - first.at_ns
    if passed <= 0:
        return at_ns - first.offset_ns
    host = last.at_host_ns - first.at_host_ns
    return first.at_host_ns + (at_ns - first.at_ns) * host // passed

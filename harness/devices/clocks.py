"""Map a device's monotonic clock to the host's, and say how far that may be off.

A monotonic clock counts from its own machine's boot, so two of them are years apart, and they drift.
One exchange has four timestamps: the host sends (t0), the device receives (t1) and answers (t2), the
host receives (t3). The offset (device minus host) is ((t1 - t0) + (t2 - t3)) / 2. Whatever part of the
round trip (t3 - t0) - (t2 - t1) either way took, the error is at most half of it (RFC 5905, section
8), so the exchange with the smallest round trip counts.

Between two readings the mapping is a straight line. Its stated uncertainty supposes only that the
two clocks' rates differ by at most 500 ppm: a quartz drifts by up to 100 ppm, and the kernel slews a
clock that NTP corrects by up to 500 (adjtimex, MAXFREQ). Each reading then bounds every moment around
it, a launch's command and answer bound it too, and the truth is where these bounds overlap. Where they
do not, a clock stepped: a suspended device (CLOCK_MONOTONIC stands still meanwhile), a resumed virtual
machine. A step that is smaller than the uncertainty goes unnoticed and is an error of its own size.

All times are integer nanoseconds: a float has no room for years of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from harness.types import Clock, Exchange, TimeWindow

MAX_DRIFT_PPM = 500
"""How much the rates of two clocks may plausibly differ."""

STEPPED = "clock_stepped"
"""The flag of a launch during which the device's clock stepped."""

FULL_EXCHANGES = 50
SHORT_EXCHANGES = 10
_FULL_SECONDS = 0.2
_SHORT_SECONDS = 0.05
_MIN_FULL_EXCHANGES = 3
_FRESH_SECONDS = 10.0
"""A reading that is older is made again before a launch."""

_KNOWN_PPM = 10.0
"""A drift is stated when its own error is at most this."""

_ROUNDING_NS = 4
"""Every stamp is cut to whole nanoseconds, and so are the halves of their sums."""

_MILLION = 1_000_000
_Bounds = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchStamps:
    """What both clocks showed around one launch, before one is mapped to the other."""

    sent_ns: int
    """On the host's clock: just before the launch was asked for."""
    received_ns: int
    """On the host's clock: just after its answer came."""
    start_ns: int
    """On the device's clock: before the first timed inference."""
    end_ns: int
    """On the device's clock: after the last one."""
    process_start_ns: int | None = None
    process_end_ns: int | None = None


def reading(exchanges: Sequence[Exchange]) -> Clock | None:
    """Read the clock from the exchange with the smallest round trip; None where none holds together.

    An exchange during which a clock stepped may say that the device worked for longer than the host
    waited; it is left out.
    """
    trips = [(_round_trip_ns(one), one) for one in exchanges if _is_possible(one)]
    if not trips:
        return None
    round_trip, best = min(trips, key=lambda pair: pair[0])
    there, back = best.arrived_ns - best.sent_ns, best.answered_ns - best.received_ns
    uncertainty = -(-round_trip // 2) + _drift_ns(best.received_ns - best.sent_ns) + _ROUNDING_NS
    return Clock(
        at_host_ns=(best.sent_ns + best.received_ns) // 2,
        offset_ns=(there + back) // 2,
        uncertainty_ns=uncertainty,
        round_trip_ns=round_trip,
        exchanges=len(exchanges),
    )


def agree(earlier: Clock, later: Clock) -> bool:
    """Whether two readings differ by no more than their uncertainties and the plausible drift."""
    passed = abs(later.at_host_ns - earlier.at_host_ns)
    most = earlier.uncertainty_ns + later.uncertainty_ns + _drift_ns(passed)
    return abs(later.offset_ns - earlier.offset_ns) <= most


def drift_ppm(earlier: Clock, later: Clock) -> float | None:
    """Return how much faster the device's clock runs, ppm; None while it is not known to 10 ppm."""
    passed = later.at_host_ns - earlier.at_host_ns
    error = earlier.uncertainty_ns + later.uncertainty_ns
    if passed <= 0 or error * _MILLION > _KNOWN_PPM * passed:
        return None
    return (later.offset_ns - earlier.offset_ns) * _MILLION / passed


def window(stamps: LaunchStamps, clocks: Sequence[Clock] = ()) -> TimeWindow | None:
    """Map a launch's timed part to the host's clock.

    `clocks` are the readings before and after the launch: two, one or none. Without any, the launch
    itself is the exchange, and the uncertainty is half of the time outside the timed part. Returns
    None if the device's own times are out of order, which is a fault of its clock.
    """
    places = (stamps.process_start_ns, stamps.start_ns, stamps.end_ns, stamps.process_end_ns)
    times = [place for place in places if place is not None]
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
    """The readings of one device's clock over one connection: when to ask, and what to use.

    For a dialect: `before_launch`, the launch, `after_launch`, `window`. It asks only in the first
    two, so never while a launch is under way. Not for two threads at once.
    """

    def __init__(
        self, exchange: Callable[[], Exchange], host_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """`exchange` asks the device once (protocols.Clocked); nothing is asked yet.

        `host_ns` is the host's clock of its stamps.
        """
        self._exchange = exchange
        self._host_ns = host_ns
        self._asks = True
        self._base: Clock | None = None
        self._last: Clock | None = None
        self._used: tuple[Clock, ...] = ()

    def before_launch(self) -> None:
        """Read the clock where it was not read in the last ten seconds; raises what `exchange` does.

        The first time 50 exchanges or 0.2 s, later 10 or 0.05 s.
        """
        last = self._last
        if last is None:
            self._read(FULL_EXCHANGES, _MIN_FULL_EXCHANGES, _FULL_SECONDS)
        elif self._host_ns() - last.at_host_ns > _FRESH_SECONDS * 1e9:
            self._read(SHORT_EXCHANGES, 1, _SHORT_SECONDS)
        self._used = () if self._last is None else (self._last,)

    def after_launch(self) -> None:
        """Read the clock again: 10 exchanges or 0.05 s; raises what `exchange` does."""
        found = self._read(SHORT_EXCHANGES, 1, _SHORT_SECONDS)
        if found is not None:
            self._used += (found,)

    def stop_asking(self) -> None:
        """Ask no more: launches are mapped by their own command and answer."""
        self._asks, self._used = False, ()

    def window(self, stamps: LaunchStamps) -> TimeWindow | None:
        """Map the launch that was just made; see the function of this name."""
        return window(stamps, self._used)

    def _read(self, most: int, least: int, seconds: float) -> Clock | None:
        if not self._asks:
            return None
        deadline = self._host_ns() + int(seconds * 1e9)
        exchanges: list[Exchange] = []
        while len(exchanges) < least or (len(exchanges) < most and self._host_ns() < deadline):
            exchanges.append(self._exchange())
        found = reading(exchanges)
        if found is None:
            return None
        if self._base is None or self._last is None or not agree(self._last, found):
            self._base = found
        self._last = replace(found, drift_ppm=drift_ppm(self._base, found))
        return self._last


def _drift_ns(nanoseconds: int) -> int:
    """Return the most that two clocks may drift apart meanwhile, rounded up."""
    return -(-nanoseconds * MAX_DRIFT_PPM // (_MILLION - MAX_DRIFT_PPM))


def _round_trip_ns(one: Exchange) -> int:
    return max(0, (one.received_ns - one.sent_ns) - (one.answered_ns - one.arrived_ns))


def _is_possible(one: Exchange) -> bool:
    waited, worked = one.received_ns - one.sent_ns, one.answered_ns - one.arrived_ns
    return waited >= 0 and 0 <= worked <= waited + _drift_ns(waited)


def _bounds(stamps: LaunchStamps, clocks: Sequence[Clock]) -> tuple[_Bounds, _Bounds, bool]:
    """Return between which host times the timed part began, and ended; and whether a clock stepped."""
    sent, received = stamps.sent_ns, stamps.received_ns
    length = stamps.end_ns - stamps.start_ns
    least = max(0, length - _drift_ns(length))
    around = (sent, received)
    started, ended = (
        [_around(at, clock) for clock in clocks] for at in (stamps.start_ns, stamps.end_ns)
    )
    starts = _overlap([*started, (sent, received - least)])
    ends = _overlap([*ended, (sent + least, received)])
    fits = all(agree(one, other) for one, other in pairwise(clocks))
    if fits and starts is not None and ends is not None:
        return starts, ends, False
    if fits:
        # The readings agree but contradict the command and the answer: only these two are sure.
        return around, around, True
    # One step between the readings: each moment is on one of its sides.
    first, last = (_overlap([_hull(some), around]) or around for some in (started, ended))
    return first, last, True


def _around(at_ns: int, clock: Clock) -> _Bounds:
    """Return between which host times a moment of the device's clock was, by one reading."""
    slack = clock.uncertainty_ns + _drift_ns(abs(at_ns - clock.at_ns))
    return at_ns - clock.offset_ns - slack, at_ns - clock.offset_ns + slack


def _overlap(every: Sequence[_Bounds]) -> _Bounds | None:
    low, high = max(one[0] for one in every), min(one[1] for one in every)
    return (low, high) if low <= high else None


def _hull(every: Sequence[_Bounds]) -> _Bounds:
    return min(one[0] for one in every), max(one[1] for one in every)


def _estimate(at_ns: int, bounds: _Bounds, clocks: Sequence[Clock]) -> int:
    """Return the likeliest host time: on the line between the readings, else mid-bounds."""
    if not clocks:
        return (bounds[0] + bounds[1]) // 2
    first, last = clocks[0], clocks[-1]
    passed = last.at_ns - first.at_ns
    if passed <= 0:
        return at_ns - first.offset_ns
    host = last.at_host_ns - first.at_host_ns
    return first.at_host_ns + (at_ns - first.at_ns) * host // passed

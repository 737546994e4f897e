"""Whether a device was slowed down, under voltage or hot during a launch, by its state before and after.

A run flags its launches by this, and a gate drops blocks by it (harness.measure.pairs).
Sources: Raspberry Pi documentation, "vcgencmd"; the kernel's documentation of cpufreq and of thermal
cooling devices; Android's `dumpsys thermalservice`.
"""

from __future__ import annotations

import functools
import operator
import statistics
from collections.abc import Sequence

from harness.types import Covariates

THROTTLED, UNDER_VOLTAGE, HOT = "throttled", "under_voltage", "hot"
STATE_FLAGS = (THROTTLED, UNDER_VOLTAGE, HOT)

UNDER_VOLTAGE_BIT = 0x1
CURRENT_BITS = 0x0000F
SINCE_BOOT_BITS = 0xF0000
SINCE_BOOT_SHIFT = 16
"""`vcgencmd get_throttled`: under-voltage, frequency capped, throttled, soft temperature limit; 16 bits
higher the same since boot."""

PINNED_SHARE = 0.98
MIN_SECONDS = 0.1
"""A shorter time in state is not used: the kernel counts in ticks of 10 ms."""


def flags(
    before: Covariates,
    after: Covariates,
    *,
    pinned_mhz: float | None = None,
    hot_celsius: float | None = None,
) -> tuple[str, ...]:
    """Return the flags of a launch: `throttled`, `under_voltage`, `hot`, or none of them.

    `pinned_mhz` is the frequency that the governor holds, `hot_celsius` the profile's limit. A state
    that the device does not report flags nothing.
    """
    bits = bits_seen(before, after)
    slowed = (
        bits & ~UNDER_VOLTAGE_BIT
        or thermal_status(before, after)
        or is_cooled_down(before, after)
        or is_below_pinned(before, after, pinned_mhz)
    )
    celsius = [one.temperature_c for one in (before, after) if one.temperature_c is not None]
    found = {
        THROTTLED: bool(slowed),
        UNDER_VOLTAGE: bool(bits & UNDER_VOLTAGE_BIT),
        HOT: hot_celsius is not None and max(celsius, default=0.0) >= hot_celsius,
    }
    return tuple(flag for flag in STATE_FLAGS if found[flag])


def bits_seen(*readings: Covariates) -> int:
    """Return the bits (0-3) that were current in any reading, or set since the first one."""
    found = new_bits(readings, known=0)
    return (found & CURRENT_BITS) | ((found & SINCE_BOOT_BITS) >> SINCE_BOOT_SHIFT)


def new_bits(readings: Sequence[Covariates], known: int | None = None) -> int:
    """Return the bits of `vcgencmd get_throttled` that are new in these readings, at their places.

    A current bit (0-3) is new if `known` (by default the first reading) does not have it, a since-boot
    bit (16-19) if the first reading does not have it.
    """
    bits = [one.throttled for one in readings if one.throttled is not None]
    if not bits:
        return 0
    union = functools.reduce(operator.or_, bits)
    current = union & CURRENT_BITS & ~(bits[0] if known is None else known)
    return current | (union & SINCE_BOOT_BITS & ~bits[0])


def thermal_status(*readings: Covariates) -> int:
    """Return the highest Android thermal status; 0 without one."""
    return max((one.thermal_status for one in readings if one.thermal_status), default=0)


def is_cooled_down(before: Covariates, after: Covariates) -> bool:
    """Return whether the kernel slowed the processor: a cooling state above 0, or a lower limit.

    A limit that was there before the launch may be the user's own, so only a change counts.
    """
    if any((one.cooling or 0) > 0 for one in (before, after)):
        return True
    limits = before.max_mhz, after.max_mhz
    return limits[0] is not None and limits[1] is not None and limits[1] < limits[0]


def is_below_pinned(before: Covariates, after: Covariates, pinned_mhz: float | None) -> bool:
    """Return whether the median frequency of a launch is under 98 % of the pinned one."""
    speed = median_mhz(before, after)
    return bool(pinned_mhz and speed is not None and speed < PINNED_SHARE * pinned_mhz)


def median_mhz(before: Covariates, after: Covariates) -> float | None:
    """Return the median frequency of a launch, by the kernel's time in state if it is long enough.

    Otherwise by the two readings; None without one.
    """
    spent = _seconds_between(before, after)
    total = sum(spent.values())
    if total >= MIN_SECONDS:
        passed = 0.0
        for mhz, seconds in sorted(spent.items()):
            passed += seconds
            if 2 * passed >= total:
                return mhz
    speeds = [one.frequency_mhz for one in (before, after) if one.frequency_mhz is not None]
    return statistics.median(speeds) if speeds else None


def _seconds_between(before: Covariates, after: Covariates) -> dict[float, float]:
    """Return the seconds of a launch at each frequency, MHz; empty if the kernel does not count them."""
    then, now = before.seconds_at_mhz, after.seconds_at_mhz
    if not then or not now:
        return {}
    return {
        float(mhz): max(0.0, seconds - then.get(mhz, 0.0))
        for mhz, seconds in now.items()
        if mhz.isdigit()
    }

"""When a launch may start: cooled to near the idle temperature, or on a plateau of heat.

docs/measurement.md, step 1. What a device cannot tell is not waited for.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence

from harness.protocols import Commands, Transport
from harness.types import ThermalPolicy

HOT_START = "hot_start"
SOAK_WINDOW_SECONDS = 60.0
SOAK_SLOPE = 0.01
"""A minute, on the log scale."""

MAX_SOAK_SECONDS = 600.0
_LEAST_POINTS = 8
_POLL_SECONDS = 1.0
_READ_SECONDS = 10.0
_PLAUSIBLE_MILLIDEGREES = range(1, 200_000)
_MILLIDEGREES = re.compile(r"-?[0-9]{1,9}")
_READ = "cat /sys/class/thermal/thermal_zone*/temp 2>/dev/null"


def celsius(transport: Transport) -> float | None:
    """Read the hottest thermal zone of a Linux device, degC; None where it has none.

    None too where the transport runs no commands. Far cheaper than asking the agent, which would
    warm the processor up.
    """
    if not isinstance(transport, Commands):
        return None
    reply = transport.run(["sh", "-c", _READ], _READ_SECONDS)
    words = reply.stdout.decode("ascii", "replace").split()
    found = [int(word) for word in words if _MILLIDEGREES.fullmatch(word)]
    return max((milli / 1000 for milli in found if milli in _PLAUSIBLE_MILLIDEGREES), default=None)


class Cooling:
    """Waits until a device has cooled to within `within_celsius` of its idle temperature."""

    def __init__(
        self,
        read: Callable[[], float | None],
        policy: ThermalPolicy,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Take the temperature now as the idle one: make it before anything is launched."""
        self._read = read
        self._policy = policy
        self._clock = clock
        self._sleep = sleep
        self.idle = read() if policy.gate else None

    def wait(self, until: float = math.inf) -> tuple[str, ...]:
        """Wait, at most as long as the policy says or `until`; the flags the launch gets."""
        if self.idle is None:
            return ()
        deadline = min(until, self._clock() + self._policy.max_wait_seconds)
        while True:
            now = self._read()
            if now is None:
                return ()
            # A device that was not idle when it was first read.
            self.idle = min(self.idle, now)
            if now <= self.idle + self._policy.within_celsius:
                return ()
            if self._clock() >= deadline:
                return (HOT_START,)
            self._sleep(_POLL_SECONDS)


def on_plateau(points: Sequence[tuple[float, float]]) -> bool:
    """Say whether (seconds, latency) have settled: less than 1 % a minute over the last minute.

    The slope is the least-squares line through ln latency. Under eight points, or less than a
    minute of them, nothing has settled.
    """
    if not points or points[-1][0] - points[0][0] < SOAK_WINDOW_SECONDS:
        return False
    last = [point for point in points if point[0] >= points[-1][0] - SOAK_WINDOW_SECONDS]
    if len(last) < _LEAST_POINTS:
        return False
    minutes = [seconds / 60 for seconds, _ in last]
    logs = [math.log(value) for _, value in last]
    middle = math.fsum(minutes) / len(last)
    level = math.fsum(logs) / len(last)
    above = math.fsum((x - middle) * (y - level) for x, y in zip(minutes, logs, strict=True))
    below = math.fsum((x - middle) ** 2 for x in minutes)
    return abs(above / below) < SOAK_SLOPE

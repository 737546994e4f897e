"""When a launch may start: near the idle temperature, or at a constant high temperature.

See docs/measurement.md, step 1. A device that reports no temperature is not waited for.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence

from harness.devices import android
from harness.errors import AgentError
from harness.protocols import Commands, Transport
from harness.types import ThermalPolicy

HOT_START = "hot_start"
SOAK_WINDOW_SECONDS = 60.0
SOAK_SLOPE = 0.01
"""Per minute, on the log scale."""

MAX_SOAK_SECONDS = 600.0
_MIN_POINTS = 8
_POLL_SECONDS = 1.0
_READ_SECONDS = 10.0
_PLAUSIBLE_MILLIDEGREES = range(1, 200_000)
_MILLIDEGREES = re.compile(r"-?[0-9]{1,9}")
_ANDROID = "edge-harness-thermalservice"
_READ = f"""cat /sys/class/thermal/thermal_zone*/temp 2>/dev/null
[ -x /system/bin/dumpsys ] || exit 0
echo {_ANDROID}; /system/bin/dumpsys thermalservice 2>/dev/null"""


def celsius(transport: Transport) -> float | None:
    """Read the hottest thermal zone of a Linux device, or an Android phone's processor, degC.

    A phone's zones are mostly unreadable and of unknown parts, so its service is asked by type of
    sensor. Returns None if the device has no thermal zone or the transport runs no commands. Much cheaper
    than a request to the agent, which would heat the processor.
    """
    if not isinstance(transport, Commands):
        return None
    try:
        reply = transport.run(["sh", "-c", _READ], _READ_SECONDS)
    except AgentError:
        # A sensor that does not answer in time is no reason to fail a launch.
        return None
    zones, _, service = reply.stdout.decode("ascii", "replace").partition(_ANDROID)
    phone = android.thermal(service).processor_celsius
    if phone is not None:
        return phone
    texts = zones.split()
    found = [int(text) for text in texts if _MILLIDEGREES.fullmatch(text)]
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
        """Read the idle temperature now; create this object before the first launch."""
        self._read = read
        self._policy = policy
        self._clock = clock
        self._sleep = sleep
        self.idle = read() if policy.gate else None

    def wait(self, until: float = math.inf) -> tuple[str, ...]:
        """Wait, at most as long as the policy allows or `until`; return the launch's flags."""
        if self.idle is None:
            return ()
        deadline = min(until, self._clock() + self._policy.max_wait_seconds)
        while True:
            now = self._read()
            if now is None:
                return ()
            # The device may not have been idle at the first reading.
            self.idle = min(self.idle, now)
            if now <= self.idle + self._policy.within_celsius:
                return ()
            if self._clock() >= deadline:
                return (HOT_START,)
            self._sleep(_POLL_SECONDS)


def on_plateau(points: Sequence[tuple[float, float]]) -> bool:
    """Whether (seconds, latency) have settled: slope under 1 % per minute over the last minute.

    The slope is that of the least-squares line through ln latency. False with fewer than eight
    points, or with points of less than a minute.
    """
    if not points or points[-1][0] - points[0][0] < SOAK_WINDOW_SECONDS:
        return False
    last = [point for point in points if point[0] >= points[-1][0] - SOAK_WINDOW_SECONDS]
    if len(last) < _MIN_POINTS:
        return False
    minutes = [seconds / 60 for seconds, _ in last]
    logs = [math.log(value) for _, value in last]
    middle = math.fsum(minutes) / len(last)
    level = math.fsum(logs) / len(last)
    above = math.fsum((x - middle) * (y - level) for x, y in zip(minutes, logs, strict=True))
    below = math.fsum((x - middle) ** 2 for x in minutes)
    return abs(above / below) < SOAK_SLOPE

"""Lines about files on their way to a device: a slow link is not silence."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from harness.events import Pushing
from harness.records.table.display import clean

EVERY_SECONDS = 10.0
_FIRST_AFTER_SECONDS = 2.0
"""A push that is over sooner gets no line."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_AGENT = re.compile(r"[0-9a-f]{64}\.zip")
_SHORT = 12
_MINUTE = 60
_MEGA = 1e6


class PushLines:
    """Makes a line of a Pushing event, at most every ten seconds per device."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Use a clock in seconds."""
        self._clock = clock
        self._due: dict[str, tuple[str, float]] = {}

    def line(self, event: Pushing) -> str | None:
        """Return the line; None if it is not time for one."""
        now, file = self._clock(), event.progress.name
        known, due = self._due.get(event.device, ("", 0.0))
        if known != file:
            # A file after another one: the time of the last line still counts.
            due = max(due if known else 0.0, now + _FIRST_AFTER_SECONDS)
        elif now >= due:
            self._due[event.device] = file, now + EVERY_SECONDS
            return f"{clean(event.device)}: {text(event)}"
        self._due[event.device] = file, due
        return None


def text(event: Pushing) -> str:
    """Return what is sent, how far it is, how fast, and the time left."""
    progress = event.progress
    name = _DIGEST.sub(lambda found: found[0][:_SHORT], clean(progress.name))
    if _AGENT.fullmatch(progress.name):
        name = "the agent"
    scale, unit = (_MEGA, "MB") if progress.file_bytes >= _MEGA else (1e3, "kB")
    arrived, size = progress.arrived_bytes / scale, progress.file_bytes / scale
    left = progress.seconds_left
    speed = f"{progress.bytes_per_second / 1e3:.1f} kB/s"
    rest = "nothing moves" if left is None else f"{speed}, {_duration(left)} left"
    return f"sending {name}: {arrived:.1f} of {size:.1f} {unit}, {rest}"


def _duration(seconds: float) -> str:
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    return f"{seconds / _MINUTE:.0f} min"

"""Watch a transfer: end it if it is too slow, and report how far it is."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

MIN_BYTES_PER_SECOND = 1_000.0
"""A link must move as much, on average over STALL_SECONDS; 10 kbit/s are 1,250."""

STALL_SECONDS = 60.0

_SPEED_SECONDS = 10.0
"""The speed that is reported is that of these last seconds."""

_LOOK_SECONDS = 0.5


class SpeedFloor:
    """The speed of something that moves, and whether that is too slow."""

    def __init__(self) -> None:
        """The time starts now, with nothing moved."""
        self._points: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])

    def is_too_slow(self, moved: int) -> bool:
        """Note the bytes moved so far; returns whether the speed is under the limit."""
        now = time.monotonic()
        self._points.append((now, moved))
        while now - self._points[1][0] >= STALL_SECONDS:
            self._points.popleft()
        return now - self._points[0][0] >= STALL_SECONDS and (
            self.bytes_per_second(STALL_SECONDS) < MIN_BYTES_PER_SECOND
        )

    def bytes_per_second(self, seconds: float = _SPEED_SECONDS) -> float:
        """Return the speed over the last seconds; 0 if nothing moved."""
        last, moved = self._points[-1]
        first = next(point for point in self._points if point[0] >= last - seconds - _LOOK_SECONDS)
        return (moved - first[1]) / (last - first[0]) if last > first[0] else 0.0

    @property
    def reason(self) -> str:
        """The text for an error."""
        speed = self.bytes_per_second(STALL_SECONDS)
        return (
            f"the link is too slow: {speed:.0f} bytes/s arrived over the last {STALL_SECONDS:.0f} s, "
            f"at least {MIN_BYTES_PER_SECOND:.0f} are needed"
        )


class TransferWatch(threading.Thread):
    """A thread that watches one transfer during a `with` block.

    with TransferWatch(moved=lambda: arrived, end=channel.close, report=show) as watch:
        ...
    """

    def __init__(
        self,
        *,
        moved: Callable[[], int],
        end: Callable[[], object] = lambda: None,
        report: Callable[[int, float], object] = lambda _moved, _speed: None,
    ) -> None:
        """`moved` returns the bytes that have arrived. `end` is called if they are too few.

        `report` gets the bytes that have arrived and the present bytes per second.
        """
        super().__init__(name="ssh-transfer", daemon=True)
        self.too_slow: str | None = None
        """Why the transfer was ended; None if it was not."""
        self._moved = moved
        self._end_transfer = end
        self._report = report
        self._floor = SpeedFloor()
        self._is_over = threading.Event()

    def run(self) -> None:
        """Look at the transfer until the block ends."""
        while not self._is_over.wait(min(_LOOK_SECONDS, STALL_SECONDS / 4)):
            moved = self._moved()
            if self._floor.is_too_slow(moved):
                self.too_slow = self._floor.reason
                self._end_transfer()
                return
            self._report(moved, self._floor.bytes_per_second())

    def __enter__(self) -> Self:
        """Start to watch."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop to watch."""
        self._is_over.set()
        self.join(2.0)

"""Signs of progress from a job to its controller, so that long work over the user's data may go on.

A job has a deadline. With the user's own data, whose amount the user chose, the deadline is for each
sample: `data.samples` calls `start`, and whatever finishes a sample calls `beat`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
_EVERY_SECONDS = 1.0


class Beats:
    """Calls `send` at most once a second while a job makes progress on the user's data."""

    def __init__(self) -> None:
        """Send nothing: this process is no worker, or its job has no data of the user's."""
        self.send: Callable[[], None] | None = None
        self._is_started = False
        self._last = 0.0

    def reset(self) -> None:
        """Begin a job: no sign of progress counts until `start`."""
        self._is_started = False

    def start(self) -> None:
        """Let each sample from now on count, because the data is the user's own."""
        self._is_started = True

    def beat(self) -> None:
        """Report that a sample is done."""
        now = time.monotonic()
        if self.send is not None and self._is_started and now - self._last >= _EVERY_SECONDS:
            self._last = now
            self.send()

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items, and report each when the next is wanted."""
        for item in items:
            yield item
            self.beat()


BEATS = Beats()
"""The beats of this process."""

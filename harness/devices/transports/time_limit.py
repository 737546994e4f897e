"""A time limit on what a library waits for, kept by another thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

_LAST_SECONDS = 2.0
"""How long an end that is under way may take when the block is left."""


class TimeLimit:
    """Calls `end` when the time is over, whatever the thread in the block waits for.

    with TimeLimit(15.0, connection.close) as guard:
        ...
    """

    def __init__(self, seconds: float, end: Callable[[], None]) -> None:
        """The time starts when the block is entered."""
        self.seconds = seconds
        self.over = False
        """Whether the time is over."""
        self._end_it = end
        self._timer = threading.Timer(max(seconds, 0.0), self._end)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        """Start the time."""
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the time."""
        self._timer.cancel()
        self._timer.join(_LAST_SECONDS)

    def _end(self) -> None:
        self.over = True
        self._end_it()

"""How much of the data sent over a connection has arrived, and how much may be on its way.

Whatever is sent queues in the buffers of this host and of the routers. On a slow link these hold
minutes of data, and the answer to a keepalive waits behind it: the link looks dead while it works.
So no more is sent than the link moves in about a second. A keepalive follows every piece, and since
SSH keeps the order, its answer proves that everything before it has arrived.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

MIN_WINDOW_BYTES, MAX_WINDOW_BYTES = 4 << 10, 2 << 20
"""Limits of the data on its way. The largest is also the window of an OpenSSH server."""

_MIN_PIECE_BYTES, _MAX_PIECE_BYTES = 1 << 10, 32 << 10
"""Limits of a packet's data; an SSH packet has at most 32 KiB."""

_PIECES = 4
"""Pieces per window, so that answers come steadily."""

_QUICK_SECONDS, _LATE_SECONDS = 0.5, 2.0
"""Beyond the round trip of an empty link: an answer this quick doubles the window, one this late
halves it."""


class _Ping(NamedTuple):
    mark: int
    """The bytes that had been sent before it."""
    at: float
    is_alone: bool
    """Whether everything before it had arrived."""


class Pace:
    """Counts what the server has confirmed; used by the senders, the pulse and paramiko's thread."""

    def __init__(self, send_ping: Callable[[], None]) -> None:
        """`send_ping` sends a keepalive that wants an answer, after all that was sent before."""
        self._send_ping = send_ping
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._pings: deque[_Ping] = deque()
        self._sent = self._confirmed = self._pinged = 0
        self._changed_at = 0
        """What had been sent when the window was last changed."""
        self._window = MIN_WINDOW_BYTES
        self._has_waited = False
        self._round_trip: float | None = None
        """Of a ping on an empty link: the shortest so far."""

    def _set_window(self, size: int) -> None:
        """Change the window, at most once per round trip: later answers are of the old one."""
        if self._confirmed >= self._changed_at:
            self._window, self._changed_at = size, self._sent
            self._has_waited = False

    @property
    def confirmed_bytes(self) -> int:
        """The data that has arrived, of all that was counted by `sent`."""
        return self._confirmed

    @property
    def unconfirmed_bytes(self) -> int:
        """The data that may still be on its way."""
        return self._sent - self._confirmed

    @property
    def is_waiting(self) -> bool:
        """Whether the answer to a ping is outstanding."""
        return bool(self._pings)

    @property
    def piece_bytes(self) -> int:
        """The most data to send at once."""
        return min(max(self._window // _PIECES, _MIN_PIECE_BYTES), _MAX_PIECE_BYTES)

    def wait_for_room(self, size: int, seconds: float) -> bool:
        """Wait at most `seconds` until `size` more bytes may be sent; returns whether they may."""
        with self._changed:
            if self._has_room(size):
                return True
            self._has_waited = True
            return self._changed.wait_for(lambda: self._has_room(size), seconds)

    def _has_room(self, size: int) -> bool:
        on_their_way = self._sent - self._confirmed
        return not on_their_way or on_their_way + size <= self._window

    def sent(self, size: int) -> None:
        """Count data that was sent, and send a ping after it if it is time."""
        with self._changed:
            self._sent += size
            due = self._sent - self._pinged >= self._window // _PIECES
        if due:
            self.ping()

    def ping(self) -> None:
        """Send a ping; its answer confirms all that was sent before it."""
        with self._sending:
            with self._changed:
                self._pinged = self._sent
                is_alone = self._sent == self._confirmed and not self._pings
                self._pings.append(_Ping(self._sent, time.monotonic(), is_alone))
            self._send_ping()

    def answered(self) -> None:
        """Note the answer to the oldest ping; an answer to none is ignored."""
        with self._changed:
            if not self._pings:
                return
            ping = self._pings.popleft()
            self._confirmed = ping.mark
            seconds = time.monotonic() - ping.at
            if ping.is_alone:
                self._round_trip = min(seconds, self._round_trip or seconds)
            seconds -= self._round_trip or 0.0
            if seconds > _LATE_SECONDS:
                self._set_window(max(self._window // 2, MIN_WINDOW_BYTES))
            elif self._has_waited and seconds < _QUICK_SECONDS:
                self._set_window(min(self._window * 2, MAX_WINDOW_BYTES))
            self._changed.notify_all()

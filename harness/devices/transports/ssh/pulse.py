"""Detect a dead link: ping the server every few seconds, and end the connection after silence.

TCP alone takes 15 minutes to notice a pulled cable, and paramiko's own keepalive does not check for an
answer. This also detects a frozen server, and a dead link behind a jump host. A link that has become
slow is not dead: as long as data that was sent before still leaves this host, the answer may be late.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
import termios
import threading
import time
from typing import Any

import paramiko

from harness.devices.transports.ssh.bounds import pace_of

PING_SECONDS = 2.5
SILENCE_SECONDS = 8.0
"""With PING_SECONDS this detects a dead link within 10 s."""

_UNSENT_REQUEST = getattr(termios, "TIOCOUTQ", None)
"""Asks a socket how many bytes the other end has not acknowledged (tcp(7), SIOCOUTQ)."""

STUCK_SECONDS = 60.0
"""A server that accepts no data for this long is dropped, even if it still sends."""

MAX_PRE_LOGIN_BYTES = 1 << 20
"""Limit on data before the login: banners and the key exchange take some KB."""


class WatchedSocket:
    """A socket (or jump channel) that keeps the time at which data last moved."""

    def __init__(self, sock: Any) -> None:  # noqa: ANN401 - a socket, a channel or a proxy command
        """Wrap `sock`; silence counts only after `watch`."""
        self._sock = sock
        self._moved_at = time.monotonic()
        self._unsent = 0
        self._stuck_since: float | None = None
        self._watching = False
        self._pre_login_left = MAX_PRE_LOGIN_BYTES

    def watch(self) -> None:
        """From now on, SILENCE_SECONDS in which nothing moves end the stream."""
        self._moved_at = time.monotonic()
        self._watching = True

    def recv(self, size: int) -> bytes:
        """Receive; paramiko calls this at least ten times a second."""
        try:
            data: bytes = self._sock.recv(size)
        except TimeoutError:
            self._check_silence()
            raise
        self._moved_at = time.monotonic()
        if not self._watching:
            self._pre_login_left -= len(data)
            if self._pre_login_left < 0:
                message = f"more than {MAX_PRE_LOGIN_BYTES} bytes before the login"
                raise ConnectionResetError(errno.ECONNRESET, message)
        return data

    def send(self, data: bytes) -> int:
        """Send; paramiko retries while the buffer is full, and silence counts meanwhile."""
        try:
            sent: int = self._sock.send(data)
        except TimeoutError:
            self._check_silence()
            self._stuck_since = self._stuck_since or time.monotonic()
            if time.monotonic() - self._stuck_since > STUCK_SECONDS:
                message = f"the server accepted no data for {STUCK_SECONDS:.0f} s"
                raise ConnectionResetError(errno.ECONNRESET, message) from None
            raise
        self._stuck_since = None
        return sent

    def settimeout(self, seconds: float | None) -> None:
        """Pass on the timeout."""
        self._sock.settimeout(seconds)

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def getpeername(self) -> Any:  # noqa: ANN401 - as the wrapped object has it
        """Return the address of the server."""
        return self._sock.getpeername()

    @property
    def _closed(self) -> bool:
        """Paramiko reads this attribute of every socket that it closes."""
        closed: bool = self._sock._closed  # noqa: SLF001 - as paramiko itself does
        return closed

    def unsent(self) -> int:
        """Return the bytes that the next host has not acknowledged; 0 if that is not known."""
        if isinstance(self._sock, paramiko.Channel):
            outer: Any = self._sock.get_transport().sock
            return outer.unsent() if isinstance(outer, WatchedSocket) else 0
        if _UNSENT_REQUEST is None or not isinstance(self._sock, socket.socket):
            return 0
        try:
            answer = fcntl.ioctl(self._sock.fileno(), _UNSENT_REQUEST, struct.pack("i", 0))
        except OSError:
            return 0
        return int(struct.unpack("i", answer)[0])

    def _check_silence(self) -> None:
        # Only a backlog that shrinks and does not end counts: a frozen host acknowledges a ping, too.
        before, self._unsent = self._unsent, self.unsent()
        if 0 < self._unsent < before:
            self._moved_at = time.monotonic()
        if self._watching and time.monotonic() - self._moved_at > SILENCE_SECONDS:
            message = f"no data for {SILENCE_SECONDS:.0f} s; the link or the host is dead"
            # With an errno: paramiko reads the errno of every OSError.
            raise ConnectionResetError(errno.ECONNRESET, message)


class Pulse(threading.Thread):
    """A thread that pings the server until the connection ends."""

    def __init__(self, transport: paramiko.Transport) -> None:
        """Start pinging."""
        super().__init__(name="ssh-pulse", daemon=True)
        self._transport = transport
        self._pace = pace_of(transport)
        self._stopping = threading.Event()
        sock: Any = transport.sock
        sock.watch()
        self.start()

    def run(self) -> None:
        """Ping, unless an answer is outstanding; pause; repeat."""
        while self._transport.is_active():
            if not self._pace.is_waiting:
                self._pace.ping()
            if self._stopping.wait(PING_SECONDS):
                return

    def end(self) -> None:
        """Stop pinging; call it after the transport is closed."""
        self._stopping.set()
        self.join(2.0)

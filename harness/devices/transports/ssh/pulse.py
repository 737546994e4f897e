"""Notice a dead link: the far end is asked every few seconds, and silence ends the connection.

TCP alone takes 15 minutes to tell that a cable was pulled, and paramiko's own keepalive does not
look for an answer. A frozen server and a dead link behind a jump host are noticed as well.
"""

from __future__ import annotations

import errno
import socket
import threading
import time
from typing import Any

import paramiko

PING_SECONDS = 2.5
SILENCE_SECONDS = 8.0
"""With PING_SECONDS this gives notice of a dead link within 10 s."""

STUCK_SECONDS = 60.0
"""A far end that takes nothing for so long is given up, however much it says itself."""

STRANGER_BYTES = 1 << 20
"""What a server may say before it let us in: banners and the exchange of keys take some KB."""


class HeardSocket:
    """A socket (or jump channel) that knows when it last heard from the far end."""

    def __init__(self, sock: Any) -> None:  # noqa: ANN401 - a socket, a channel or a proxy command
        """Wrap `sock`; silence counts only after `watch`."""
        self._sock = sock
        self._heard = time.monotonic()
        self._stuck_since: float | None = None
        self._watching = False
        self._stranger_left = STRANGER_BYTES

    def watch(self) -> None:
        """From now on, SILENCE_SECONDS without a byte is the end of the stream."""
        self._heard = time.monotonic()
        self._watching = True

    def recv(self, size: int) -> bytes:
        """Receive; paramiko calls this at least ten times a second."""
        try:
            data: bytes = self._sock.recv(size)
        except TimeoutError:
            self._judge()
            raise
        self._heard = time.monotonic()
        if not self._watching:
            self._stranger_left -= len(data)
            if self._stranger_left < 0:
                message = f"more than {STRANGER_BYTES} bytes before the login"
                raise ConnectionResetError(errno.ECONNRESET, message)
        return data

    def send(self, data: bytes) -> int:
        """Send; a full buffer is waited for by paramiko, and silence counts meanwhile."""
        try:
            sent: int = self._sock.send(data)
        except TimeoutError:
            self._judge()
            self._stuck_since = self._stuck_since or time.monotonic()
            if time.monotonic() - self._stuck_since > STUCK_SECONDS:
                message = f"nothing was taken for {STUCK_SECONDS:.0f} s"
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
        """Name the far end."""
        return self._sock.getpeername()

    @property
    def _closed(self) -> bool:
        """Paramiko reads this of every socket it closes."""
        closed: bool = self._sock._closed  # noqa: SLF001 - as paramiko itself does
        return closed

    def _judge(self) -> None:
        if self._watching and time.monotonic() - self._heard > SILENCE_SECONDS:
            message = f"nothing heard for {SILENCE_SECONDS:.0f} s; the link or the host is dead"
            # With a number: paramiko looks one up in every OSError it meets.
            raise ConnectionResetError(errno.ECONNRESET, message)


class Pulse(threading.Thread):
    """Asks the far end for a sign of life until the connection ends."""

    def __init__(self, transport: paramiko.Transport) -> None:
        """Start asking."""
        super().__init__(name="ssh-pulse", daemon=True)
        self._transport = transport
        self._stop_asking = threading.Event()
        sock: Any = transport.sock
        sock.watch()
        self.start()

    def run(self) -> None:
        """Ask, wait for the answer, rest, ask again."""
        while not self._stop_asking.wait(PING_SECONDS) and self._transport.is_active():
            try:
                self._transport.global_request("keepalive@openssh.com", wait=True)
            except (paramiko.SSHException, OSError, EOFError):
                return

    def end(self) -> None:
        """Stop asking; call it after the transport is closed."""
        self._stop_asking.set()
        self.join(2.0)


def open_socket(host: str, port: int, timeout_seconds: float) -> socket.socket:
    """Connect with TCP_NODELAY; without it an exec waits 40 ms for a delayed acknowledgement."""
    sock = socket.create_connection((host, port), timeout=timeout_seconds)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock

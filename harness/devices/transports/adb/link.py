"""One phone behind an adb server: open streams to it, and notice when it no longer answers.

An adb server lists a phone as `device` for minutes after the link to it died, and a stream to it
waits without end. So a thread opens and closes a stream of the phone's file service every few seconds, if
nothing else has shown that the phone is there; that starts no process on the phone. After a silence,
every stream of the link is ended.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from contextlib import suppress

from harness.devices.transports.adb.listing import Listed
from harness.devices.transports.adb.server import Server
from harness.errors import AgentSilent, TransportError, Unreachable

PING_SECONDS = 2.5
SILENCE_SECONDS = 7.0
"""With two periods of PING_SECONDS this finds a dead link within 12 s."""

OPEN_SECONDS = 15.0
"""How long a phone may take to start a service."""

_CHUNK = 1 << 18


class Link:
    """The connection to one phone."""

    def __init__(self, server: Server, phone: Listed, where: str) -> None:
        """Ping the phone, and then again and again; raises Unreachable if it does not answer."""
        self._server = server
        self._phone = phone
        self.where = where
        self._reason: str | None = None
        self._alive_at = time.monotonic()
        self._wires: set[Wire] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._ping()
        self._pulse = threading.Thread(target=self._watch, name="adb-pulse", daemon=True)
        self._pulse.start()

    @property
    def server(self) -> Server:
        """Return the adb server."""
        return self._server

    def ask(self, service: str) -> str:
        """Send a request about this phone to the server, such as `features`."""
        return self._server.ask(f"host-transport-id:{self._phone.transport}:{service}")

    def open(self, service: bytes, seconds: float = OPEN_SECONDS) -> Wire:
        """Open a service of the phone; raises Unreachable, and Refused with the phone's reason."""
        self.check()
        try:
            sock = self._server.stream(self._phone.transport, service, seconds)
        except Unreachable as error:
            raise Unreachable(f"{self.where}: {self._reason or error}") from error
        wire = Wire(sock, self)
        with self._lock:
            self._wires.add(wire)
        # It may have died meanwhile, before this stream was known.
        if self._reason or self._closed.is_set():
            wire.close()
            self.check()
        self.alive()
        return wire

    def check(self) -> None:
        """Raise Unreachable if the phone no longer answers."""
        if self._reason:
            raise Unreachable(f"{self.where}: {self._reason}")
        if self._closed.is_set():
            raise Unreachable(f"{self.where}: the connection was closed")

    def alive(self) -> None:
        """Note that the phone was heard of now."""
        self._alive_at = time.monotonic()

    def reason(self) -> str | None:
        """Return why the link is dead; None if it is not."""
        return self._reason

    def drop(self, wire: Wire) -> None:
        """Forget a stream that was closed."""
        with self._lock:
            self._wires.discard(wire)

    def close(self) -> None:
        """End every stream; never raises. The server stays connected to the phone."""
        self._closed.set()
        self._end_all()
        if self._pulse is not threading.current_thread():
            self._pulse.join(SILENCE_SECONDS + 1.0)

    def _watch(self) -> None:
        while not self._closed.wait(PING_SECONDS):
            asked = time.monotonic()
            if asked - self._alive_at < PING_SECONDS:
                continue
            try:
                self._ping()
            except TransportError as error:
                if self._closed.is_set():
                    return
                # A slow link that is busy with a file answers no ping, but it moves.
                if self._alive_at > asked:
                    continue
                self._reason = f"the phone no longer answers: {error}"
                self._end_all()
                return

    def _ping(self) -> None:
        self._server.stream(self._phone.transport, b"sync:", SILENCE_SECONDS).close()
        self.alive()

    def _end_all(self) -> None:
        with self._lock:
            wires = list(self._wires)
        for wire in wires:
            wire.end()


class Wire:
    """A stream to one service of a phone; every wait has a deadline (on time.monotonic())."""

    def __init__(self, sock: socket.socket, link: Link) -> None:
        """Use a socket that does not block."""
        self._sock = sock
        self._link = link
        self._is_closed = False

    def send_some(self, data: memoryview) -> int:
        """Send what fits; returns the number of bytes, 0 if the stream is full.

        Raises OSError if the stream is broken.
        """
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0

    def send(self, data: bytes | memoryview, deadline: float) -> None:
        """Send all of `data`; raises OSError, and AgentSilent after the deadline."""
        view = memoryview(data)
        while view:
            sent = self.send_some(view)
            view = view[sent:]
            if not sent:
                self.wait(deadline, writes=True)

    def wait(self, deadline: float, *, writes: bool = False) -> None:
        """Wait until there is something to read (or room to write); raises AgentSilent."""
        event = select.POLLOUT if writes else select.POLLIN
        if not self._is_ready(event, deadline - time.monotonic()):
            raise AgentSilent(f"{self._link.where}: no answer before the deadline")
        # Its buffers were full, and something has left them: the phone takes data.
        self._link.alive()

    def is_readable(self) -> bool:
        """Whether data, or the end, has arrived."""
        return self._is_ready(select.POLLIN, 0.0)

    def _is_ready(self, event: int, seconds: float) -> bool:
        descriptor = self._sock.fileno()
        if descriptor < 0:
            raise ConnectionAbortedError("the stream was closed")
        # Not select, which takes no descriptor over 1023.
        poll = select.poll()
        poll.register(descriptor, event)
        return bool(poll.poll(max(seconds, 0.0) * 1000))

    def receive(self, limit: int = _CHUNK) -> bytes | None:
        """Return what has arrived, b"" at the end, None if there is nothing yet; raises OSError."""
        try:
            data = self._sock.recv(limit)
        except BlockingIOError:
            return None
        if data:
            self._link.alive()
        return data

    def receive_exactly(self, size: int, deadline: float) -> bytes:
        """Return `size` bytes; raises OSError at an early end, and AgentSilent after the deadline."""
        found = bytearray()
        while len(found) < size:
            data = self.receive(min(size - len(found), _CHUNK))
            if data is None:
                self.wait(deadline)
            elif not data:
                raise ConnectionResetError("the stream ended early")
            else:
                found += data
        return bytes(found)

    def end(self) -> None:
        """End the stream from another thread; a thread that waits for it wakes up."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the stream; never raises."""
        if not self._is_closed:
            self._is_closed = True
            self._link.drop(self)
            with suppress(OSError):
                self._sock.close()

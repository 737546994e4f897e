"""A scripted adbd: what a phone may do that a real adbd does not do on demand.

    with scripted_adbd(banner=V1_BANNER, services={b"exec:": run_here}) as port: ...

A real adb server connects to it. A service is a function of the name and a :class:`Stream`; a service
that is not given is refused, and one that is None is never answered, as by a phone that hangs.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from queue import Queue

BANNER = b"device::ro.product.model=Scripted;features=shell_v2,stat_v2"
OLD_BANNER = b"device::ro.product.model=Scripted;features=cmd"
"""A phone before Android 7."""

_HEAD = struct.Struct("<6I")
_CNXN, _OPEN, _OKAY, _CLSE, _WRTE = (
    int.from_bytes(name, "little") for name in (b"CNXN", b"OPEN", b"OKAY", b"CLSE", b"WRTE")
)
_VERSION, _MAX = 0x01000001, 1 << 18


class Stream:
    """One stream to the host."""

    def __init__(self, device: _Device, number: int, peer: int) -> None:
        self._device, self._number, self._peer = device, number, peer
        self.incoming: Queue[bytes] = Queue()
        self.taken = threading.Semaphore(1)
        self._held = b""

    def write(self, data: bytes) -> None:
        """Send; waits until the host has taken what was sent before."""
        for start in range(0, len(data), _MAX):
            assert self.taken.acquire(timeout=20)
            self._device.send(_WRTE, self._number, self._peer, data[start : start + _MAX])

    def read(self, size: int) -> bytes:
        """Return `size` bytes; raises EOFError at the end."""
        while len(self._held) < size:
            more = self.incoming.get(timeout=60)
            if not more:
                raise EOFError
            self._held += more
        found, self._held = self._held[:size], self._held[size:]
        return found

    def close(self) -> None:
        """End the stream."""
        self._device.send(_CLSE, self._number, self._peer)


Service = Callable[[bytes, Stream], None]
Services = Mapping[bytes, Service | None]


class _Device:
    def __init__(self, sock: socket.socket, banner: bytes, services: Services) -> None:
        self._sock, self._banner, self._services = sock, banner, services
        self._streams: dict[int, Stream] = {}
        self._lock = threading.Lock()
        self._next = 0

    def send(self, command: int, first: int, second: int, data: bytes = b"") -> None:
        check = sum(data) & 0xFFFFFFFF
        head = _HEAD.pack(command, first, second, len(data), check, command ^ 0xFFFFFFFF)
        with self._lock, suppress(OSError):
            self._sock.sendall(head + data)

    def serve(self) -> None:
        with suppress(OSError, EOFError):
            while True:
                command, first, second, size, _, _ = _HEAD.unpack(self._exactly(_HEAD.size))
                data = self._exactly(size)
                if command == _CNXN:
                    self.send(_CNXN, _VERSION, _MAX, self._banner)
                elif command == _OPEN:
                    self._open(first, data.rstrip(b"\0"))
                elif (stream := self._streams.get(second)) is None:
                    continue
                elif command == _WRTE:
                    stream.incoming.put(data)
                    self.send(_OKAY, second, first)
                elif command == _OKAY:
                    stream.taken.release()
                elif command == _CLSE:
                    stream.incoming.put(b"")
        for stream in self._streams.values():
            stream.incoming.put(b"")

    def _open(self, peer: int, name: bytes) -> None:
        kind = next((one for one in self._services if name.startswith(one)), None)
        if kind is None:
            self.send(_CLSE, 0, peer)
            return
        service = self._services[kind]
        if service is None:
            return
        self._next += 1
        stream = self._streams[self._next] = Stream(self, self._next, peer)
        self.send(_OKAY, self._next, peer)
        threading.Thread(target=self._run, args=(service, name, stream), daemon=True).start()

    def _run(self, service: Service, name: bytes, stream: Stream) -> None:
        with suppress(EOFError, OSError):
            service(name, stream)
        stream.close()

    def _exactly(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            data = self._sock.recv(size - len(found))
            if not data:
                raise EOFError
            found += data
        return found


def wait_for_end(_: bytes, stream: Stream) -> None:
    """Answer nothing; the file service of a phone that is only pinged."""
    stream.read(1 << 30)


def run_here(name: bytes, stream: Stream) -> None:
    """Run the command of `exec:` on this machine, with one stream for all, as an old phone does."""
    command = name.partition(b":")[2].decode()
    process = subprocess.Popen(
        ["/bin/sh", "-c", command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "TMPDIR": tempfile.gettempdir()},
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        threading.Thread(target=_feed, args=(stream, process), daemon=True).start()
        while data := process.stdout.read1(1 << 16):
            stream.write(data)


def _feed(stream: Stream, process: subprocess.Popen[bytes]) -> None:
    with suppress(OSError, EOFError, ValueError):
        while True:
            assert process.stdin is not None
            process.stdin.write(stream.read(1))
            process.stdin.flush()


def answers(data: bytes) -> Service:
    """Make a service that sends these bytes and ends."""

    def service(_: bytes, stream: Stream) -> None:
        stream.write(data)

    return service


@contextmanager
def scripted_adbd(services: Services, banner: bytes = BANNER) -> Iterator[int]:
    """Run one on a port of loopback."""
    listening = socket.create_server(("127.0.0.1", 0))
    opened: list[socket.socket] = []

    def accept() -> None:
        with suppress(OSError):
            while True:
                sock, _ = listening.accept()
                opened.append(sock)
                device = _Device(sock, banner, services)
                threading.Thread(target=device.serve, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listening.getsockname()[1]
    finally:
        with suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        for sock in opened:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

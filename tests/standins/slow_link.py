"""A slow link: a TCP proxy on loopback that passes so many bytes a second each way.

    with SlowLink(server.port, bytes_per_second=12_500) as link:
        device = Device(..., address=f"ssh://user@127.0.0.1:{link.port}")

As a router does, it has a buffer per direction in which data queues.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

_SLICE_SECONDS = 0.05


class SlowLink:
    """Carries connections to a port of this machine; use it in a `with` block."""

    def __init__(self, port: int, bytes_per_second: float, buffer_bytes: int = 1 << 15) -> None:
        """Listen on a free port; `buffer_bytes` queue in each direction."""
        self.bytes_per_second = bytes_per_second
        """May be changed while connections are open; 0 is a dead link."""
        self.carried_bytes = 0
        """Towards the server, over all connections."""
        self._to = port
        self._buffer_bytes = buffer_bytes
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        """Start to accept connections."""
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Cut every connection."""
        self._ended.set()
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(5.0)

    def cut(self) -> None:
        """Break the open connections."""
        sockets, self._sockets = self._sockets, []
        for one in sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        self._listener.settimeout(_SLICE_SECONDS)
        while not self._ended.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            server = socket.socket()
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._buffer_bytes)
            server.connect(("127.0.0.1", self._to))
            self._sockets += [client, server]
            self._start(self._carry, client, server, True)
            self._start(self._carry, server, client, False)

    def _carry(self, source: socket.socket, target: socket.socket, counts: bool) -> None:
        with suppress(OSError):
            while not self._ended.is_set():
                while not self.bytes_per_second and not self._ended.wait(_SLICE_SECONDS):
                    pass
                data = source.recv(max(16, int(self.bytes_per_second * _SLICE_SECONDS)))
                if not data:
                    break
                rate = self.bytes_per_second
                if self._ended.wait(len(data) / rate if rate else _SLICE_SECONDS):
                    return
                target.sendall(data)
                self.carried_bytes += len(data) * counts
            target.shutdown(socket.SHUT_WR)

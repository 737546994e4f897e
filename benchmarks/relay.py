"""A TCP relay on loopback that counts what goes through it."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Self


class Relay:
    """Listens on a free port of 127.0.0.1 and passes every connection on.

    `sent` is the number of bytes that went from the clients to the server so far.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.sent = 0
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for each in [self._listener, *self._open]:
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed: nobody listens any more
                return
            server = socket.create_connection(self._target)
            self._open += [client, server]
            threading.Thread(target=self._pass, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, False), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:  # noqa: FBT001 - a thread's argument
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
                if counted:
                    self.sent += len(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:  # one end is gone, and with it the connection
            source.close()
            sink.close()

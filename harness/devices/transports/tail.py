"""What every transport keeps of a process's stderr, and how much output a command may have."""

from __future__ import annotations

TAIL_BYTES = 64 * 1024
"""Enough for a Python traceback and a runtime's log; a chatty process costs no more."""

OUTPUT_BYTES = 8 * 1024 * 1024
"""A command that writes more than this to stdout or stderr is ended: it is not an answer."""


class Tail:
    """The last bytes of a stream."""

    __slots__ = ("_bytes", "_limit")

    def __init__(self, limit: int = TAIL_BYTES) -> None:
        """Keep the last `limit` bytes."""
        self._bytes = bytearray()
        self._limit = limit

    def add(self, data: bytes) -> None:
        """Append, forgetting the oldest bytes."""
        self._bytes += data
        if len(self._bytes) > self._limit:
            del self._bytes[: len(self._bytes) - self._limit]

    def read(self) -> bytes:
        """Return what is kept."""
        return bytes(self._bytes)

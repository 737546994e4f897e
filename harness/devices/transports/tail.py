"""The end of a process's stderr, which every transport keeps, and the limit of a command's output."""

from __future__ import annotations

TAIL_BYTES = 64 * 1024
"""Enough for a Python traceback and a runtime's log; more output takes no more memory."""

OUTPUT_BYTES = 8 * 1024 * 1024
"""A command that writes more than this to stdout or stderr is killed."""


class Tail:
    """The last bytes of a stream."""

    __slots__ = ("_bytes", "_limit")

    def __init__(self, limit: int = TAIL_BYTES) -> None:
        """Keep the last `limit` bytes."""
        self._bytes = bytearray()
        self._limit = limit

    def add(self, data: bytes) -> None:
        """Append, and drop the oldest bytes over the limit."""
        self._bytes += data
        if len(self._bytes) > self._limit:
            del self._bytes[: len(self._bytes) - self._limit]

    def read(self) -> bytes:
        """Return the bytes that are kept."""
        return bytes(self._bytes)

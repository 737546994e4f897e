"""Limits on what a server may send: on every packet, window, answer and file transfer.

The device is not trusted. paramiko trusts the sizes that a server announces, keeps data beyond the
window, and waits for ever for the answer to a request. The classes here do not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, ClassVar, Self

import paramiko
from paramiko.common import MSG_CHANNEL_DATA, MSG_CHANNEL_EXTENDED_DATA
from paramiko.message import Message
from paramiko.packet import Packetizer

MAX_PACKET_BYTES = 1 << 18
"""Per SSH packet. We ask for 32 KiB; OpenSSH itself sends at most 256 KiB."""

MAX_SFTP_BYTES = 1 << 18
"""Per SFTP answer; we ask for at most 32 KiB per read."""

NONSENSE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""The exceptions of paramiko for invalid answers, besides its own errors."""


class BoundedPackets(Packetizer):
    """A packet reader that refuses an oversized packet before it reads it."""

    def read_all(self, n: int, check_rekey: bool = False) -> bytes:  # noqa: FBT001, FBT002 - paramiko's
        """Read `n` bytes; raises SSHException for more than MAX_PACKET_BYTES."""
        if n > MAX_PACKET_BYTES:
            raise paramiko.SSHException(f"a packet of {n} bytes")
        data: bytes = super().read_all(n, check_rekey)
        return data


def _bounded(take: Callable[[Any, Message], None]) -> Callable[[Any, Message], None]:
    """Wrap the handler of a channel's data: data beyond the window ends the connection."""

    def checked(channel: Any, message: Message) -> None:  # noqa: ANN401 - its buffers have no types
        unread = len(channel.in_buffer) + len(channel.in_stderr_buffer)
        if unread > channel.in_window_size + MAX_PACKET_BYTES:
            raise paramiko.SSHException("the server sends more than the channel's window")
        take(channel, message)

    return checked


class BoundedTransport(paramiko.Transport):
    """A transport that keeps at most a channel's window of unread data, and orders host keys."""

    _handlers: Any = paramiko.Transport._channel_handler_table  # type: ignore[attr-defined]  # noqa: SLF001 - no public access
    _channel_handler_table: ClassVar[dict[int, Any]] = {
        **_handlers,
        MSG_CHANNEL_DATA: _bounded(_handlers[MSG_CHANNEL_DATA]),
        MSG_CHANNEL_EXTENDED_DATA: _bounded(_handlers[MSG_CHANNEL_EXTENDED_DATA]),
    }

    host_key_algorithms: tuple[str, ...] = ()
    """The signature algorithms of host keys to offer, in this order; paramiko's own if empty."""

    @property
    def preferred_keys(self) -> tuple[str, ...]:
        """Return what the key exchange offers; paramiko puts certificates last, after every key."""
        return self.host_key_algorithms or tuple(super().preferred_keys)


class BoundedSftp(paramiko.SFTPClient):
    """An SFTP client that refuses an oversized answer before it reads it."""

    def _read_all(self, n: int) -> bytes:
        if n > MAX_SFTP_BYTES:
            raise paramiko.SFTPError(f"an answer of {n} bytes")
        data: bytes = super()._read_all(n)  # type: ignore[misc]
        return data


class TimeLimit:
    """A time limit that closes a channel when it passes, even if the server still sends.

    with TimeLimit(15.0, channel) as guard:
        channel.exec_command(command)
    """

    def __init__(self, seconds: float, channel: paramiko.Channel) -> None:
        """The time starts when the block is entered."""
        self.seconds = seconds
        self.over = False
        """Whether the time is over."""
        self._channel = channel
        self._timer = threading.Timer(seconds, self._end)
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

    def _end(self) -> None:
        self.over = True
        # The connection may be gone already; then there is nothing to close.
        with suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.close()

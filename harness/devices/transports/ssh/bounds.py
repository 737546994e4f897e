"""What a server may do to this end: every packet, window, answer and file transfer has a bound.

The device is not trusted. paramiko believes what a server says of sizes, keeps what was sent beyond
the window it gave, and waits for ever for the answer to a request; what is here does not.
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

MOST_PACKET_BYTES = 1 << 18
"""Of one SSH packet. We ask for 32 KiB; OpenSSH itself sends no more than 256 KiB."""

MOST_SFTP_BYTES = 1 << 18
"""Of one SFTP answer; we ask for at most 32 KiB a read."""

NONSENSE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What paramiko raises besides its own errors where an answer makes no sense."""


class BoundedPackets(Packetizer):
    """Refuses a packet of absurd length before it is read."""

    def read_all(self, n: int, check_rekey: bool = False) -> bytes:  # noqa: FBT001, FBT002 - paramiko's
        """Read `n` bytes; raises SSHException for more than MOST_PACKET_BYTES."""
        if n > MOST_PACKET_BYTES:
            raise paramiko.SSHException(f"a packet of {n} bytes")
        data: bytes = super().read_all(n, check_rekey)
        return data


def _kept(take: Callable[[Any, Message], None]) -> Callable[[Any, Message], None]:
    """Wrap the handler of a channel's data: what the server sends unasked ends the connection."""

    def checked(channel: Any, message: Message) -> None:  # noqa: ANN401 - its buffers have no types
        unread = len(channel.in_buffer) + len(channel.in_stderr_buffer)
        if unread > channel.in_window_size + MOST_PACKET_BYTES:
            raise paramiko.SSHException("the server sends more than it was given room for")
        take(channel, message)

    return checked


class BoundedTransport(paramiko.Transport):
    """Keeps no more than a channel's window of what was not read yet."""

    _handlers: Any = paramiko.Transport._channel_handler_table  # type: ignore[attr-defined]  # noqa: SLF001 - no public door
    _channel_handler_table: ClassVar[dict[int, Any]] = {
        **_handlers,
        MSG_CHANNEL_DATA: _kept(_handlers[MSG_CHANNEL_DATA]),
        MSG_CHANNEL_EXTENDED_DATA: _kept(_handlers[MSG_CHANNEL_EXTENDED_DATA]),
    }


class BoundedSftp(paramiko.SFTPClient):
    """Refuses an answer of absurd length before it is read."""

    def _read_all(self, n: int) -> bytes:
        if n > MOST_SFTP_BYTES:
            raise paramiko.SFTPError(f"an answer of {n} bytes")
        data: bytes = super()._read_all(n)  # type: ignore[misc]
        return data


class Within:
    """Closes a channel when this time is over, whatever the server sends meanwhile.

    with Within(15.0, channel) as guard:
        channel.exec_command(command)
    """

    def __init__(self, seconds: float, channel: paramiko.Channel) -> None:
        """Nothing happens before it is entered."""
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

"""Limits on what a server may send: on every packet, window, answer and file transfer.

The device is not trusted. paramiko trusts the sizes that a server announces, keeps data beyond the
window, and waits for ever for the answer to a request. The classes here do not.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

import paramiko
from paramiko.common import (
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EXTENDED_DATA,
    cMSG_GLOBAL_REQUEST,
)
from paramiko.message import Message
from paramiko.packet import Packetizer

from harness.devices.transports.ssh.pace import Pace
from harness.devices.transports.time_limit import TimeLimit

MAX_PACKET_BYTES = 1 << 18
"""Per SSH packet. We ask for 32 KiB; OpenSSH itself sends at most 256 KiB."""

MAX_SFTP_BYTES = 1 << 18
"""Per SFTP answer; we ask for at most 32 KiB per read."""

_ROOM_SECONDS = 0.5

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

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - paramiko's
        """Wrap a socket as paramiko's own class does."""
        super().__init__(*args, **options)
        self.pace = Pace(self._send_keepalive)

    host_key_algorithms: tuple[str, ...] = ()
    """The signature algorithms of host keys to offer, in this order; paramiko's own if empty."""

    @property
    def preferred_keys(self) -> tuple[str, ...]:
        """Return what the key exchange offers; paramiko puts certificates last, after every key."""
        return self.host_key_algorithms or tuple(super().preferred_keys)

    def _send_keepalive(self) -> None:
        message = Message()
        message.add_byte(cMSG_GLOBAL_REQUEST)
        message.add_string("keepalive@openssh.com")
        message.add_boolean(True)  # noqa: FBT003 - it wants an answer
        # If the connection is broken, its next use reports that.
        with suppress(paramiko.SSHException, OSError, EOFError):
            self._send_user_message(message)  # type: ignore[attr-defined]

    # A server that does not know the request answers that it failed.
    def _parse_request_success(self, message: Message) -> None:
        super()._parse_request_success(message)  # type: ignore[misc]
        self.pace.answered()

    def _parse_request_failure(self, message: Message) -> None:
        super()._parse_request_failure(message)  # type: ignore[misc]
        self.pace.answered()


def pace_of(transport: paramiko.Transport) -> Pace:
    """Return the pace of a connection that this package opened."""
    assert isinstance(transport, BoundedTransport)
    return transport.pace


class BoundedSftp(paramiko.SFTPClient):
    """An SFTP client that refuses an oversized answer, and sends no faster than the link."""

    def _write_all(self, out: bytes) -> None:
        channel = self.get_channel()
        assert channel is not None
        pace = pace_of(channel.get_transport())
        view = memoryview(out)
        while view:
            if channel.closed:
                raise EOFError
            if not pace.wait_for_room(min(len(view), pace.piece_bytes), _ROOM_SECONDS):
                continue
            sent = channel.send(bytes(view[: pace.piece_bytes]))
            if sent <= 0:
                raise EOFError
            pace.sent(sent)
            view = view[sent:]

    def _read_all(self, n: int) -> bytes:
        if n > MAX_SFTP_BYTES:
            raise paramiko.SFTPError(f"an answer of {n} bytes")
        data: bytes = super()._read_all(n)  # type: ignore[misc]
        return data


class ChannelTimeLimit(TimeLimit):
    """A time limit that closes a channel when it passes, even if the server still sends.

    with ChannelTimeLimit(15.0, channel) as guard:
        channel.exec_command(command)
    """

    def __init__(self, seconds: float, channel: paramiko.Channel) -> None:
        """The time starts when the block is entered."""
        super().__init__(seconds, self._close)
        self._channel = channel

    def _close(self) -> None:
        # The connection may be gone already; then there is nothing to close.
        with suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.close()

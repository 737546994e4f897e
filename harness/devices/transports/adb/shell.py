"""One process on a phone: stdin, stdout, stderr, exit code, and how it is ended.

The phone's adbd speaks the shell protocol (version 2, since Android 7), which keeps the two outputs
apart and carries the exit code. The process first prints its number on a marked line, because adbd
lets it run on when the stream ends, and the number is needed to kill it.
"""

from __future__ import annotations

import re
import shlex
import struct
import time
from collections.abc import Sequence
from contextlib import suppress

from harness.devices.transports.adb.link import OPEN_SECONDS, Link, Wire
from harness.devices.transports.adb.server import Refused
from harness.devices.transports.streams import (
    END_GRACE_SECONDS,
    SEND_STALL_SECONDS,
    ProcessStream,
)
from harness.devices.transports.tail import OUTPUT_BYTES
from harness.errors import AgentSilent, TransportError, Unreachable

V2 = b"shell,v2,raw:"
MAX_COMMAND_BYTES = 60_000
"""The server's limit is 65,535 bytes, with the name of the service."""

_STDIN, _STDOUT, _STDERR, _EXIT, _CLOSE_STDIN = range(5)
_HEADER = struct.Struct("<BI")
_SEND_BYTES = 1 << 16
_MARK = b"edge-harness-pid "
# Not 0 and not 1: `kill -9 -1` would kill every process of the account.
_PID = re.compile(rb"^" + _MARK + rb"([2-9]|[1-9]\d{1,9})\n", re.MULTILINE)
_MAX_LEAD = 1 << 16
_SHOWN = 400
_KILL_SECONDS = 5.0


def command(argv: Sequence[str]) -> bytes:
    """Return the text for the phone's shell that marks its process and becomes the command.

    Raises TransportError for one that cannot be sent.
    """
    text = f'echo "{_MARK.decode()}$$"; exec {shlex.join(argv)}'
    return checked(text, argv)


def checked(text: str, argv: Sequence[str]) -> bytes:
    """Encode the text that runs a command; raises TransportError for one that cannot be sent."""
    made = text.encode(errors="surrogateescape")
    if len(made) > MAX_COMMAND_BYTES or b"\0" in made:
        why = "it has a NUL" if b"\0" in made else f"{len(made)} bytes are over {MAX_COMMAND_BYTES}"
        raise TransportError(f"{argv[0]}: this command cannot be sent to a phone: {why}")
    return made


class AdbShell(ProcessStream):
    """The stream to one process; see protocols.Channel for the verbs."""

    def __init__(
        self, link: Link, argv: Sequence[str], keep: int | None = None, *, reads: bool = True
    ) -> None:
        """Start the process; with `keep`, keep up to that many bytes of stderr.

        A process that does not read has an empty stdin.
        """
        super().__init__(argv, keep)
        self._link = link
        self._lead = bytearray()
        self._pid: int | None = None
        self._exit: int | None = None
        self._packet, self._left = _STDOUT, 0
        self._head = bytearray()
        self._unsent = bytearray()
        try:
            self._wire: Wire = link.open(V2 + command(argv), OPEN_SECONDS)
        except Refused as error:
            raise TransportError(f"{link.where}: no shell for {argv[0]}: {error}") from error
        if not reads:
            self.finish_sending()

    def send(self, data: bytes, deadline: float | None = None) -> None:
        """Write all of `data`; raises Unreachable if the process no longer reads."""
        deadline = deadline or time.monotonic() + SEND_STALL_SECONDS
        view = memoryview(data)
        while view:
            if self._exit is not None or self.closed:
                raise Unreachable(self._gone())
            part = view[:_SEND_BYTES]
            self._unsent += _HEADER.pack(_STDIN, len(part)) + part
            view = view[len(part) :]
            self._flush(deadline)

    def _flush(self, deadline: float) -> None:
        """Send what is to be sent; reads output meanwhile, for which the process may be waiting."""
        while self._unsent:
            try:
                sent = self._wire.send_some(memoryview(bytes(self._unsent)))
            except OSError as error:
                raise Unreachable(self._gone()) from error
            del self._unsent[:sent]
            if self._unsent:
                self._pump(
                    min(deadline, time.monotonic() + 0.05) if sent else deadline, wait=not sent
                )
                if self._exit is not None or self._ended:
                    raise Unreachable(self._gone())

    def finish_sending(self) -> None:
        """Close the process's stdin."""
        self._unsent += _HEADER.pack(_CLOSE_STDIN, 0)
        with suppress(Unreachable, AgentSilent):
            self._flush(time.monotonic() + SEND_STALL_SECONDS)

    def read(self, deadline: float) -> bytes:
        """Return at least one byte, or b"" at the end; see protocols.Channel.read."""
        data = super().read(deadline)
        if not data and self._exit is None:
            # The end without an exit code is the end of the link, or of adbd.
            raise Unreachable(self._gone())
        return data

    def wait(self, deadline: float) -> int:
        """Return the exit code (128+N after signal N)."""
        while self._exit is None and not self._ended:
            self._pump(deadline)
        if self._exit is None:
            raise Unreachable(self._gone())
        return self._exit

    def close(self, grace_seconds: float = END_GRACE_SECONDS) -> None:
        """Close stdin, wait `grace_seconds`, then kill the process and its group; never raises."""
        if self.closed:
            return
        if not self._ended:
            self._unsent = (
                bytearray(_HEADER.pack(_CLOSE_STDIN, 0)) if not self._unsent else bytearray()
            )
            with suppress(TransportError, AgentSilent):
                self._flush(time.monotonic() + min(grace_seconds, 0.5))
        grace = time.monotonic() + grace_seconds
        with suppress(AgentSilent, TransportError):
            while not self._ended:
                self._pump(grace)
        self.closed = True
        if self._exit is None:
            self._kill()
        self._wire.close()

    def _drain(self, seconds: float) -> bool:
        """Read output, waiting at most `seconds`; returns False if there was none."""
        if self._ended:
            return True
        try:
            self._wire.wait(time.monotonic() + max(seconds, 1e-4))
            data = self._wire.receive()
        except AgentSilent:
            return False
        except (OSError, ValueError):
            data = b""
        if data is None:
            return False
        if data:
            self._take(data)
        else:
            self._ended = True
        if len(self._ready) > OUTPUT_BYTES:
            raise TransportError(
                f"{self._link.where}: {self._argv[0]} wrote more than {OUTPUT_BYTES} bytes unasked"
            )
        return True

    def _take(self, data: bytes) -> None:
        """Take apart packets of the shell protocol: a kind, a length, and bytes as they arrive."""
        view = memoryview(data)
        while view and not self._ended:
            if not self._left:
                missing = _HEADER.size - len(self._head)
                self._head += view[:missing]
                view = view[missing:]
                if len(self._head) < _HEADER.size:
                    return
                self._packet, self._left = _HEADER.unpack(self._head)
                self._head.clear()
                continue
            part = view[: self._left]
            self._left -= len(part)
            view = view[len(part) :]
            self._put(bytes(part))

    def _put(self, part: bytes) -> None:
        if self._packet == _STDERR:
            self._tail.add(part)
        elif self._packet == _EXIT:
            self._exit = part[0]
            self._ended = True
        elif self._packet != _STDOUT:
            raise TransportError(
                f"{self._link.where}: the phone sent a packet of kind {self._packet}, which no shell sends"
            )
        elif self._pid is None:
            self._find_mark(part)
        else:
            self._ready += part

    def _find_mark(self, part: bytes) -> None:
        self._lead += part
        found = _PID.search(self._lead)
        if found:
            self._pid = int(found[1])
            self._ready += self._lead[found.end() :]
            self._lead.clear()
        elif len(self._lead) > _MAX_LEAD:
            shown = bytes(self._lead[:_SHOWN]).decode(errors="replace")
            raise TransportError(
                f"{self._link.where}: the phone's shell did not run {self._argv[0]} but printed {shown!r}"
            )

    def _kill(self) -> None:
        """Kill the process and its group by another shell; adbd starts each in a session of its own."""
        if self._pid is None or self._link.reason():
            return
        with suppress(TransportError, AgentSilent, OSError):
            killer = self._link.open(V2 + b"kill -9 -%d" % self._pid, _KILL_SECONDS)
            try:
                deadline = time.monotonic() + _KILL_SECONDS
                kind = -1
                while kind != _EXIT:
                    kind, size = _HEADER.unpack(killer.receive_exactly(_HEADER.size, deadline))
                    killer.receive_exactly(min(size, _MAX_LEAD), deadline)
            finally:
                killer.close()

    def _silent(self) -> str:
        return (
            f"{self._link.where}: {self._argv[0]} gave no answer before the deadline and was killed"
        )

    def _gone(self) -> str:
        reason = self._link.reason()
        ended = (
            "the process ended" if self._exit is not None else "the connection to the phone broke"
        )
        tail = self._tail.read().decode(errors="replace").strip()[-500:]
        return f"{self._link.where}: {self._argv[0]}: {reason or ended}; end of its stderr: {tail or '-'}"

"""One command on a phone before Android 7, whose adbd sends one stream of bytes without an exit code.

A script puts stderr into a file and prints it, with the exit code, after the command's own output.
That is enough for `run`; a conversation needs the shell protocol (:mod:`.shell`).
"""

from __future__ import annotations

import secrets
import shlex
import time
from collections.abc import Sequence

from harness.devices.transports.adb.link import OPEN_SECONDS, Link, Wire
from harness.devices.transports.adb.server import Refused
from harness.devices.transports.adb.shell import checked
from harness.devices.transports.streams import (
    END_GRACE_SECONDS,
    SEND_STALL_SECONDS,
    ProcessStream,
)
from harness.devices.transports.tail import OUTPUT_BYTES
from harness.errors import AgentSilent, TransportError, Unreachable

_SERVICE = b"exec:"
_MAX_EXIT_DIGITS = 3


class OldShell(ProcessStream):
    """The stream to one command on a phone before Android 7, for `run` only.

    Its input must be complete before it starts, so it starts with `finish_sending`.
    """

    def __init__(self, link: Link, argv: Sequence[str], keep: int | None = None) -> None:
        """Start nothing yet."""
        super().__init__(argv, keep)
        self._link = link
        self._input = bytearray()
        self._mark = f"edge-harness-end-{secrets.token_hex(8)} ".encode()
        self._held = bytearray()
        self._exit: int | None = None
        self._wire: Wire | None = None

    def send(self, data: bytes, deadline: float | None = None) -> None:  # noqa: ARG002 - kept here
        """Keep the input until `finish_sending`."""
        self._input += data

    def finish_sending(self) -> None:
        """Start the command, with its whole input."""
        errors = f"${{TMPDIR:-/data/local/tmp}}/.edge-harness-{secrets.token_hex(8)}"
        reads = f"head -c {len(self._input)} |" if self._input else ""
        empty = "" if self._input else "< /dev/null"
        script = (
            f"umask 077; {reads} ({shlex.join(self._argv)}) 2> {errors} {empty}; "
            f"code=$?; echo; echo {self._mark.decode()}$code; cat {errors}; rm -f {errors}"
        )
        try:
            self._wire = self._link.open(_SERVICE + checked(script, self._argv), OPEN_SECONDS)
            self._wire.send(bytes(self._input), time.monotonic() + SEND_STALL_SECONDS)
        except (OSError, Refused) as error:
            raise Unreachable(f"{self._link.where}: {self._argv[0]}: {error}") from error

    def _drain(self, seconds: float) -> bool:
        """Read output, waiting at most `seconds`; returns False if there was none."""
        if self._wire is None or self._ended:
            return True
        try:
            self._wire.wait(time.monotonic() + max(seconds, 1e-4))
            data = self._wire.receive()
        except AgentSilent:
            return False
        except (OSError, ValueError):
            data = b""
        self._held += data or b""
        self._ended = data == b""
        if len(self._held) > 2 * OUTPUT_BYTES:
            raise TransportError(f"{self._link.where}: {self._argv[0]} wrote too much")
        if self._ended:
            output, _, rest = bytes(self._held).rpartition(b"\n" + self._mark)
            code, _, errors = rest.partition(b"\n")
            if code.isdigit() and len(code) <= _MAX_EXIT_DIGITS:
                self._exit = int(code)
                self._ready += output
                self._tail.add(errors)
        return True

    def wait(self, deadline: float) -> int:
        """Return the exit code (128+N after signal N)."""
        while not self._ended:
            self._pump(deadline)
        if self._exit is None:
            raise Unreachable(self._gone())
        return self._exit

    def close(self, grace_seconds: float = END_GRACE_SECONDS) -> None:  # noqa: ARG002 - no number to kill
        """End the stream, and the command with its next output; never raises."""
        self.closed = True
        if self._wire is not None:
            self._wire.close()

    def _silent(self) -> str:
        return f"{self._link.where}: {self._argv[0]} gave no answer before the deadline"

    def _gone(self) -> str:
        reason = self._link.reason() or "the connection to the phone broke"
        return f"{self._link.where}: {self._argv[0]}: {reason}"

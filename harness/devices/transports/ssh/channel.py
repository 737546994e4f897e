"""One process on an SSH server: stdin, stdout, stderr, exit code, and how it is ended.

A command runs under `sh -c`, which first prints its process number on a marked line. The mark separates
the output of a login script from the command's own output, and shows that no forced command ran instead.
The number is needed to kill the process at a deadline, because sshd lets it run on.
"""

from __future__ import annotations

import re
import selectors
import shlex
import time
from collections.abc import Sequence
from contextlib import suppress

import paramiko

from harness.devices.transports.ssh import account
from harness.devices.transports.ssh.bounds import NONSENSE, TimeLimit
from harness.devices.transports.tail import OUTPUT_BYTES, Tail
from harness.errors import AgentSilent, TransportError, Unreachable

_CHUNK = 1 << 18
# Not 0 and not 1: `kill -9 -1` would kill every process of the account.
_MARK = re.compile(rb"^edge-harness-pid ([2-9]|[1-9]\d{1,9})\n", re.MULTILINE)
_NOISE_BYTES = 64 * 1024
_SHOWN = 400
# The shell stays, so that a signal becomes an exit code (128+N): SSH libraries do not report signals.
_KEEP_SHELL = 'echo "edge-harness-pid $$"; "$@"; exit $?'
_REPLACE_SHELL = 'echo "edge-harness-pid $$"; exec "$@"'
_OPEN_SECONDS = 15.0
_SEND_STALL_SECONDS = 60.0
_SEND_SLICE_SECONDS = 0.05
_END_GRACE_SECONDS = 2.0
_STATUS_SECONDS = 2.0
_KILL_SECONDS = 5.0
_BROKEN = (paramiko.SSHException, OSError, EOFError, *NONSENSE)


class SshChannel:
    """The stream to one process; see protocols.Channel for the verbs."""

    def __init__(
        self,
        transport: paramiko.Transport,
        argv: Sequence[str],
        where: str,
        keep: int | None = None,
    ) -> None:
        """Start the process; with `keep`, keep up to that many bytes of stderr and the exit code."""
        self._transport = transport
        self._argv = tuple(argv)
        self._where = where
        self._tail = Tail(keep) if keep else Tail()
        self._lead = bytearray()
        self._ready = bytearray()
        self._pid: int | None = None
        self._ended = False
        self.closed = False
        script = _KEEP_SHELL if keep else _REPLACE_SHELL
        command = shlex.join(["exec", "sh", "-c", script, "sh", *argv])
        try:
            self._channel = transport.open_session(timeout=_OPEN_SECONDS)
        except _BROKEN as error:
            if not transport.is_active():
                raise Unreachable(self._gone()) from error
            message = f"{where}: no session for {argv[0]} ({error}); see MaxSessions of its sshd"
            raise Unreachable(message) from error
        guard = TimeLimit(_OPEN_SECONDS, self._channel)
        try:
            with guard:
                self._channel.exec_command(command)
        except _BROKEN as error:
            self._channel.close()
            if not transport.is_active():
                raise Unreachable(self._gone()) from error
            if guard.over:
                late = f"{where}: no answer to the request to run {argv[0]} within {_OPEN_SECONDS:.0f} s"
                raise AgentSilent(late) from error
            message = f"{where}: the account runs no commands ({error}); it needs a shell"
            raise account.NoShell(message) from error
        self._channel.settimeout(_SEND_SLICE_SECONDS)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._channel.fileno(), selectors.EVENT_READ)

    def send(self, data: bytes, deadline: float | None = None) -> None:
        """Write all of `data`; raises Unreachable if the process no longer reads."""
        deadline = deadline or time.monotonic() + _SEND_STALL_SECONDS
        view = memoryview(data)
        while view:
            try:
                sent = 0 if self.closed else self._channel.send(bytes(view[:_CHUNK]))
            except TimeoutError:
                # The window is full: the process may be waiting for us to read its output.
                self._pump(deadline, wait=False)
                continue
            except _BROKEN as error:
                raise Unreachable(self._gone()) from error
            if not sent:
                raise Unreachable(self._gone())
            view = view[sent:]

    def finish_sending(self) -> None:
        """Close the process's stdin."""
        with suppress(*_BROKEN):
            self._channel.shutdown_write()

    def read(self, deadline: float) -> bytes:
        """Return at least one byte, or b"" at the end; see protocols.Channel.read."""
        while not self._ready and not self._ended:
            if self.closed:
                raise Unreachable(self._gone())
            moved = self._drain(max(0.0, deadline - time.monotonic()))
            late = time.monotonic() >= deadline
            # Output that has arrived counts; endless output on stderr is not an answer.
            if late and not (moved and (self._ready or self._ended)):
                raise AgentSilent(self._silent())
        data = bytes(self._ready)
        self._ready.clear()
        if not data and not self._channel.eof_received and not self._transport.is_active():
            raise Unreachable(self._gone())
        return data

    def errors(self) -> bytes:
        """Return the tail of stderr so far."""
        if not self.closed:
            self._drain(0)
        return self._tail.read()

    def wait(self, deadline: float) -> int:
        """Return the exit code (128+N after signal N)."""
        while not self._ended:
            self._pump(deadline)
        if not self._channel.status_event.wait(max(0.0, deadline - time.monotonic())):
            raise AgentSilent(self._silent())
        code: int = self._channel.exit_status
        if code < 0:
            raise Unreachable(self._gone())
        return code

    def close(self, grace_seconds: float = _END_GRACE_SECONDS) -> None:
        """Close stdin, wait `grace_seconds`, then kill the process and its group; never raises."""
        if self.closed:
            return
        self.finish_sending()
        grace = time.monotonic() + grace_seconds
        with suppress(AgentSilent, TransportError):
            while not self._ended:
                self._pump(grace)
        self.closed = True
        if not self._channel.status_event.is_set():
            self._kill()
        self._selector.close()
        with suppress(*_BROKEN):
            self._channel.close()

    def _pump(self, deadline: float, *, wait: bool = True) -> None:
        """Read available output; raises AgentSilent after the deadline, even if more arrives."""
        self._drain(max(0.0, deadline - time.monotonic()) if wait else 0.0)
        if time.monotonic() >= deadline:
            raise AgentSilent(self._silent())

    def _drain(self, seconds: float) -> bool:
        """Read output, waiting at most `seconds`; returns False if there was none."""
        if not self._selector.select(seconds):
            return False
        # Checked before reading, so that output that arrived before the end is still read.
        ended = bool(self._channel.eof_received or self._channel.closed)
        out = self._lead if self._pid is None else self._ready
        # One chunk of each: a process that writes faster than we read must not keep us here.
        if self._channel.recv_ready():
            out += self._channel.recv(_CHUNK)
        if self._channel.recv_stderr_ready():
            self._tail.add(self._channel.recv_stderr(_CHUNK))
        more = self._channel.recv_ready() or self._channel.recv_stderr_ready()
        self._ended = ended and not more
        if self._pid is None:
            self._find_mark(ended=self._ended)
        if len(self._ready) > OUTPUT_BYTES:
            raise TransportError(
                f"{self._where}: {self._argv[0]} wrote more than {OUTPUT_BYTES} bytes unasked"
            )
        return True

    def _find_mark(self, *, ended: bool) -> None:
        """Drop everything up to the marked line; hold output back until the mark arrives."""
        found = _MARK.search(self._lead)
        if found:
            self._pid = int(found[1])
            self._ready += self._lead[found.end() :]
        elif len(self._lead) > _NOISE_BYTES or (ended and self._channel.eof_received):
            output = bytes(self._lead[:_SHOWN]) or self._tail.read()[-_SHOWN:]
            # If a signal ended the process, sshd sends no status, and paramiko leaves it at -1.
            has_ended = ended and self._channel.status_event.wait(_STATUS_SECONDS)
            if has_ended and self._channel.exit_status < 0 and not output.strip():
                raise Unreachable(
                    f"{self._where}: {self._argv[0]} was killed before it could start"
                )
            raise account.refusal(self._transport, self._where, self._argv[0], output)

    def _kill(self) -> None:
        if self._pid is None or not self._transport.is_active():
            return
        with suppress(*_BROKEN):
            killer = self._transport.open_session(timeout=_KILL_SECONDS)
            try:
                with TimeLimit(_KILL_SECONDS, killer):
                    killer.exec_command(f"kill -9 -{self._pid}")
                    killer.status_event.wait(_KILL_SECONDS)
            finally:
                killer.close()

    def _silent(self) -> str:
        if self._pid is None:
            output = bytes(self._lead[-_SHOWN:]).decode(errors="replace").strip()
            return (
                f"{self._where}: {self._argv[0]} did not start before the deadline"
                f"{f'; the output was {output!r}' if output else ''}; does the account run a forced "
                "command instead (ForceCommand), or a login script that waits?"
            )
        return f"{self._where}: {self._argv[0]} gave no answer before the deadline and was killed"

    def _gone(self) -> str:
        what = "the process ended" if self._transport.is_active() else "the connection broke"
        tail = self._tail.read().decode(errors="replace").strip()[-500:]
        return f"{self._where}: {self._argv[0]}: {what}; end of its stderr: {tail or '-'}"

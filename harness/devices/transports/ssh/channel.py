"""One process on an SSH server: stdin, stdout, stderr, exit code, and how it is ended.

A command runs in a `sh` that first prints its process number on a marked line (:mod:`.shell`). The mark
separates the output of a start-up file from the command's own output, and shows that no forced command
ran instead. The number is needed to kill the process at a deadline, because sshd lets it run on.

A start-up file may read a line (`read answer`), or replace the shell (`exec zsh`), which then reads
commands from stdin. So if the mark does not come, the command is also sent as a line of stdin: it answers
the `read`, or the other shell runs it. The process itself never sees that line.
"""

from __future__ import annotations

import math
import re
import selectors
import time
from collections.abc import Sequence
from contextlib import suppress

import paramiko

from harness.devices.transports.ssh import account, shell
from harness.devices.transports.ssh.bounds import NONSENSE, ChannelTimeLimit, pace_of
from harness.devices.transports.ssh.transfers import SpeedFloor
from harness.devices.transports.streams import END_GRACE_SECONDS, ProcessStream
from harness.devices.transports.tail import OUTPUT_BYTES, Tail
from harness.errors import AgentSilent, TransferFailed, TransportError, Unreachable

_CHUNK = 1 << 18

# Not 0 and not 1: `kill -9 -1` would kill every process of the account.
_MARK = re.compile(rb"^" + shell.MARK + rb"([2-9]|[1-9]\d{1,9})\n", re.MULTILINE)
_MARK_BYTES = 64
_NOISE_BYTES = 1 << 20
"""A login that prints more before the command starts never ends printing."""

_SHOWN = 400
_OPEN_SECONDS = 15.0
_OPEN_ATTEMPTS = 4
_OPEN_AGAIN_SECONDS = 0.1
_AGAIN_SECONDS = 1.0
"""After this long without the mark, the command is sent to stdin, and again: a file may read twice."""

_MAX_AGAIN = 10
_SEND_SLICE_SECONDS = 0.05
_START_SECONDS = 60.0
"""How long a process may take to start before its input is sent."""

_STATUS_SECONDS = 2.0
_KILL_SECONDS = 5.0
_BROKEN = (paramiko.SSHException, OSError, EOFError, *NONSENSE)


class SshChannel(ProcessStream):
    """The stream to one process; see protocols.Channel for the verbs."""

    def __init__(
        self,
        transport: paramiko.Transport,
        argv: Sequence[str],
        where: str,
        keep: int | None = None,
        *,
        reads: bool = True,
    ) -> None:
        """Start the process; with `keep`, keep up to that many bytes of stderr and the exit code.

        A process that does not read has an empty stdin. One that reads starts when the stream is
        first read or written.
        """
        super().__init__(argv, keep)
        self._transport = transport
        self._pace = pace_of(transport)
        self.sent_bytes = 0
        """The data that was sent, some of which may still be on its way."""
        self._where = where
        self._lead = bytearray()
        self._searched = 0
        self._pid: int | None = None
        self._keep = keep
        self._has_errors = False
        """Whether stderr is the process's own by now."""
        self._reads = reads
        self._unsent = b""
        """What stdin gets before the process's own input."""
        self._is_finished = not reads
        self._command = shell.started(argv, reads=reads, keeps_shell=bool(keep))
        self._left = _MAX_AGAIN if reads else 1
        self._again_at = time.monotonic() + _AGAIN_SECONDS
        self._channel = self._started()
        self._channel.settimeout(_SEND_SLICE_SECONDS)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._channel.fileno(), selectors.EVENT_READ)

    def _started(self) -> paramiko.Channel:
        """Open a session and request the command in it.

        dropbear closes a session that is opened while another process of the connection ends: the
        request is never answered, nothing was started, and it is made again.
        """
        for left in reversed(range(_OPEN_ATTEMPTS)):
            guard: ChannelTimeLimit | None = None
            channel: paramiko.Channel | None = None
            try:
                channel = self._transport.open_session(timeout=_OPEN_SECONDS)
                guard = ChannelTimeLimit(_OPEN_SECONDS, channel)
                with guard:
                    channel.exec_command(self._command)
                # Until its answer comes, the command itself may be on its way: see _send_command.
                self._pace.ping()
            except _BROKEN as error:
                if channel is not None:
                    channel.close()
                over = guard is not None and guard.over
                if left and not over and self._stays_open():
                    continue
                raise self._not_started(error, opened=channel is not None, over=over) from error
            return channel
        raise AssertionError("the last attempt returns or raises")

    def _stays_open(self) -> bool:
        """Wait before the next attempt; returns whether the connection is still there after it."""
        # paramiko closes the channels of a broken connection before it calls it inactive.
        self._transport.join(_OPEN_AGAIN_SECONDS)
        return self._transport.is_active()

    def _not_started(self, error: BaseException, *, opened: bool, over: bool) -> Exception:
        name = self._argv[0]
        if not self._stays_open():
            return Unreachable(self._gone())
        if not opened:
            message = f"{self._where}: no session for {name} ({error}); see MaxSessions of its sshd"
            return Unreachable(message)
        if over:
            late = f"{self._where}: no answer to the request to run {name} within {_OPEN_SECONDS:.0f} s"
            return AgentSilent(late)
        message = f"{self._where}: the account runs no commands ({error}); it needs a shell"
        return account.NoShell(message)

    def send(self, data: bytes, deadline: float | None = None) -> None:
        """Write all of `data`, no faster than the link moves it.

        Raises Unreachable if the process no longer reads. Without a deadline, data may take as long
        as it moves at MIN_BYTES_PER_SECOND: raises TransferFailed with the speed if it does not.
        """
        if not data:
            return
        floor, before = SpeedFloor(), self._pace.confirmed_bytes
        while self._pid is None and not self._ended and not self.closed:
            self._pump(deadline or time.monotonic() + _START_SECONDS)
        view = memoryview(self._unsent + data)
        self._unsent = b""
        while view:
            sent = self._send_piece(view)
            view = view[sent:]
            if sent:
                continue
            # The link or the window is full: the process may be waiting for us to read its output.
            self._pump(deadline or math.inf, wait=False)
            slow = floor.is_too_slow(self._pace.confirmed_bytes - before)
            if slow and deadline is None:
                text = f"{self._where}: {len(view)} bytes for {self._argv[0]} were not sent"
                raise TransferFailed(f"{text}: {floor.reason}")

    def _send_piece(self, view: memoryview) -> int:
        """Send the start of the data if there is room for it soon; returns the bytes sent."""
        pace = self._pace
        piece = bytes(view[: pace.piece_bytes])
        if self.closed or not self._transport.is_active():
            raise Unreachable(self._gone())
        if not pace.wait_for_room(len(piece), _SEND_SLICE_SECONDS):
            return 0
        try:
            sent = self._channel.send(piece)
        except TimeoutError:
            return 0
        except _BROKEN as error:
            raise Unreachable(self._gone()) from error
        if not sent:
            raise Unreachable(self._gone())
        self.sent_bytes += sent
        pace.sent(sent)
        return sent

    @property
    def arrived_bytes(self) -> int:
        """Return the data that the server has confirmed."""
        return max(0, self.sent_bytes - self._pace.unconfirmed_bytes)

    def finish_sending(self) -> None:
        """Close the process's stdin, as soon as it has started."""
        self._is_finished = True
        if self._pid is not None:
            self._close_stdin()

    def _close_stdin(self) -> None:
        with suppress(*_BROKEN):
            self._channel.shutdown_write()

    def _send_command(self) -> float:
        """Send the command to stdin if it is time; returns the seconds until the next time."""
        if self._pace.is_waiting:
            # On a slow link, what was sent before has not arrived yet.
            self._again_at = max(self._again_at, time.monotonic() + _AGAIN_SECONDS)
        left = self._again_at - time.monotonic()
        if left > 0 or not self._left:
            return max(left, _AGAIN_SECONDS * (not self._left))
        self._left -= 1
        self._again_at += _AGAIN_SECONDS
        self._send_ahead(self._command.encode() + b"\n")
        if not self._reads:
            self._close_stdin()
        return _AGAIN_SECONDS

    def _send_ahead(self, data: bytes) -> None:
        """Send what comes before the process's own input, as far as the window allows."""
        self._unsent += data
        with suppress(*_BROKEN):
            while self._unsent and self._channel.send_ready():
                sent = self._channel.send(self._unsent[: self._pace.piece_bytes])
                self._pace.sent(sent)
                self._unsent = self._unsent[sent:]

    def read(self, deadline: float) -> bytes:
        """Return at least one byte, or b"" at the end; see protocols.Channel.read."""
        data = super().read(deadline)
        if not data and not self._channel.eof_received and not self._transport.is_active():
            raise Unreachable(self._gone())
        return data

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

    def close(self, grace_seconds: float = END_GRACE_SECONDS) -> None:
        """Close stdin, wait `grace_seconds`, then kill the process and its group; never raises."""
        if self.closed:
            return
        self._close_stdin()
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

    def _drain(self, seconds: float) -> bool:
        """Read output, waiting at most `seconds`; returns False if there was none."""
        if self._pid is None and not self.closed:
            seconds = min(seconds, self._send_command())
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
            self._drop_noise()
        more = self._channel.recv_ready() or self._channel.recv_stderr_ready()
        self._ended = ended and not more
        if self._pid is None:
            self._find_mark(ended=self._ended)
        if len(self._ready) > OUTPUT_BYTES:
            raise TransportError(
                f"{self._where}: {self._argv[0]} wrote more than {OUTPUT_BYTES} bytes unasked"
            )
        return True

    def _drop_noise(self) -> None:
        """Drop what a start-up file wrote to stderr, once the mark has arrived there too."""
        if self._has_errors:
            return
        text = self._tail.read()
        found = _MARK.search(text)
        if found:
            self._has_errors = True
            self._tail = Tail(self._keep) if self._keep else Tail()
            self._tail.add(text[found.end() :])

    def _find_mark(self, *, ended: bool) -> None:
        """Drop everything up to the marked line; hold output back until the mark arrives."""
        # Only the new output, and a mark that was cut in two.
        found = _MARK.search(self._lead, max(0, self._searched - _MARK_BYTES))
        self._searched = len(self._lead)
        if found:
            self._pid = int(found[1])
            self._ready += self._lead[found.end() :]
            if self._reads:
                self._send_ahead(shell.START)
            if self._is_finished:
                self._close_stdin()
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
                with ChannelTimeLimit(_KILL_SECONDS, killer):
                    command = shell.encoded(f"kill -9 -{self._pid}")
                    killer.exec_command(command)
                    # For a start-up file that reads, as above.
                    killer.sendall(command.encode() + b"\n")
                    killer.shutdown_write()
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

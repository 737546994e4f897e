"""This machine as a device.

    [device.this-machine]
    profile = "linux_x86_64"
    address = "local:"

Files are copied. Each process runs in its own session, so that a deadline also ends its child
processes, and a Ctrl-C for the controller does not reach it.
"""

from __future__ import annotations

import errno
import getpass
import os
import selectors
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from harness import assets, spawning
from harness.devices.transports.space import free_space
from harness.devices.transports.streams import (
    END_GRACE_SECONDS,
    SEND_STALL_SECONDS,
    OpenStreams,
    ProcessStream,
    run_to_end,
)
from harness.devices.transports.tail import OUTPUT_BYTES
from harness.errors import AgentSilent, ConfigError, TransferFailed, TransportError, Unreachable
from harness.protocols import MAX_FILE_BYTES, Reply, TransportPlugin
from harness.types import Device

_CHUNK = 1 << 18
_COPY_BYTES = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)
# A missing program gives exit code 127 and a line on stderr, as over SSH, not an exception. With exec
# no shell stays, and the shell interprets no argument.
_EXEC = ("/bin/sh", "-c", 'exec "$@"', "sh")


class LocalTransport:
    """Transport to this machine."""

    def __init__(self) -> None:
        """Start with no process."""
        self._channels: OpenStreams[LocalChannel] = OpenStreams()

    def put(self, source: Path, destination: str) -> None:
        """Copy a file to exactly `destination`; see protocols.Files.put."""
        target = Path(destination)
        try:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with source.open("rb") as file, open(target, "wb", opener=_private) as copy:
                shutil.copyfileobj(file, copy, _COPY_BYTES)
        except (OSError, ValueError) as error:
            arrived = 0
            with suppress(OSError, ValueError):
                arrived = target.stat().st_size
            hint = "check that the folder is writable and the disk has space"
            if isinstance(error, OSError) and error.errno in _FULL:
                hint = free_space(self.run, str(target.parent))
            message = (
                f"{source}: not copied to {destination} on this machine after {arrived} bytes: "
                f"{_error_text(error)}; {hint}"
            )
            raise TransferFailed(message) from error

    def get(self, source: str, destination: Path, max_bytes: int = MAX_FILE_BYTES) -> None:
        """Copy a file from `source`; see protocols.Files.get."""
        part: Path | None = None
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=destination.parent, prefix=".get-")
            part = Path(name)
            with os.fdopen(handle, "wb") as copy, open(source, "rb", opener=_regular) as file:
                _copy(file, copy, max_bytes)
            part.replace(destination)
        except (OSError, ValueError) as error:
            message = f"{source}: not copied to {destination}: {_error_text(error)}"
            raise TransferFailed(message) from error
        finally:
            if part is not None:
                part.unlink(missing_ok=True)

    def run(self, argv: Sequence[str], timeout_seconds: float, stdin: bytes | None = None) -> Reply:
        """Run one command and wait for it.

        Raises AgentSilent when the deadline passes (the command and its children are killed) and
        TransportError when it writes more than 8 MiB.
        """
        return run_to_end(
            lambda: LocalChannel(argv, keep=OUTPUT_BYTES + 1), argv, timeout_seconds, stdin
        )

    def talk(self, argv: Sequence[str]) -> LocalChannel:
        """Start a process and return the stream to it."""
        return self._channels.add(LocalChannel(argv))

    def close(self) -> None:
        """End every process started by `talk`."""
        self._channels.close()


class LocalChannel(ProcessStream):
    """The stream to one process: stdin and stdout. Every wait also drains stderr."""

    def __init__(self, argv: Sequence[str], keep: int | None = None) -> None:
        """Start the process in its own session; keep up to `keep` bytes of stderr."""
        super().__init__(argv, keep)
        try:
            self._process = subprocess.Popen(
                [*_EXEC, *argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
                env=spawning.environment(),
            )
        except (OSError, ValueError) as error:
            message = f"{argv[0]}: cannot be started on this machine: {error}"
            raise TransportError(message) from error
        stdin, stdout, stderr = self._process.stdin, self._process.stdout, self._process.stderr
        assert stdin is not None
        assert stdout is not None
        assert stderr is not None
        self._stdin, self._stdout, self._stderr = stdin, stdout, stderr
        self._selector = selectors.DefaultSelector()
        for stream in (stdout, stderr):
            os.set_blocking(stream.fileno(), False)
            self._selector.register(stream, selectors.EVENT_READ)
        os.set_blocking(stdin.fileno(), False)

    def send(self, data: bytes, deadline: float | None = None) -> None:
        """Write all of `data`; raises Unreachable if the process no longer reads."""
        deadline = deadline or time.monotonic() + SEND_STALL_SECONDS
        view = memoryview(data)
        while view and not self.closed:
            try:
                written = os.write(self._stdin.fileno(), view)
            except BlockingIOError:
                # The pipe is full: the process may be waiting for us to read its output.
                self._selector.register(self._stdin, selectors.EVENT_WRITE)
                try:
                    self._pump(deadline)
                finally:
                    self._selector.unregister(self._stdin)
                continue
            except OSError as error:
                raise Unreachable(self._gone()) from error
            view = view[written:]
        if view:
            raise Unreachable(self._gone())

    def finish_sending(self) -> None:
        """Close the process's stdin."""
        self._stdin.close()

    def wait(self, deadline: float) -> int:
        """Return the exit code; 128+N after signal N, as a shell and sshd report it."""
        while self._selector.get_map():
            self._pump(deadline)
        try:
            code = self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            raise AgentSilent(self._silent()) from error
        return code if code >= 0 else 128 - code

    def close(self, grace_seconds: float = END_GRACE_SECONDS) -> None:
        """Close stdin, wait `grace_seconds`, then kill the process and its session; never raises."""
        if self.closed:
            return
        with suppress(OSError):
            self._stdin.close()
        grace = time.monotonic() + grace_seconds
        with suppress(AgentSilent, TransportError):
            while not self._ended:
                self._pump(grace)
        self.closed = True
        # Before wait(): while the leader is not reaped, its group's number is not reused.
        with suppress(ProcessLookupError, PermissionError):
            if self._process.returncode is None:
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._selector.close()
        self._stdout.close()
        self._stderr.close()

    def _drain(self, seconds: float) -> bool:
        """Read output, waiting at most `seconds`; returns False if there was none."""
        events = self._selector.select(seconds)
        for key, _ in events:
            if key.fileobj is self._stdin:
                continue
            data = os.read(key.fd, _CHUNK)
            if not data:
                self._selector.unregister(key.fileobj)
                self._ended = self._ended or key.fileobj is self._stdout
            elif key.fileobj is self._stdout:
                self._ready += data
                if len(self._ready) > OUTPUT_BYTES:
                    message = f"{self._argv[0]}: wrote more than {OUTPUT_BYTES} bytes unasked"
                    raise TransportError(message)
            else:
                self._tail.add(data)
        return bool(events)

    def _silent(self) -> str:
        return f"{self._argv[0]}: no answer before the deadline on this machine; it was killed"

    def _gone(self) -> str:
        tail = self._tail.read().decode(errors="replace").strip()[-500:]
        return (
            f"{self._argv[0]}: the process on this machine ended; end of its stderr: {tail or '-'}"
        )


def _copy(file: IO[bytes], copy: IO[bytes], max_bytes: int) -> None:
    left = max_bytes
    while data := file.read(_COPY_BYTES):
        left -= len(data)
        if left < 0:
            raise ValueError(f"it holds more than {max_bytes} bytes")
        copy.write(data)


def _private(path: str, flags: int) -> int:
    """Open a file for writing with mode 0600; a symbolic link raises OSError."""
    handle = os.open(path, flags | os.O_NOFOLLOW, 0o600)
    os.fchmod(handle, 0o600)
    return handle


def _regular(path: str, flags: int) -> int:
    """Open a regular file for reading; opening or reading a pipe or a device might never end."""
    handle = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError("it is not a regular file")
    return handle


def _error_text(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def open_local(device: Device) -> LocalTransport:
    """Open this machine; raises ConfigError for an address that is not `local:`."""
    if device.address != "local:":
        message = f'{device.name}: address "{device.address}" is not "local:"'
        raise ConfigError(message)
    return LocalTransport()


def _default_options() -> dict[str, str]:
    """Return this Python, which has the runtime; the first python3 on PATH may not have it."""
    return {"python": sys.executable, "workdir": str(assets.cache_folder() / "device")}


def _account(_: Device) -> str:
    return getpass.getuser()


LOCAL = TransportPlugin(open=open_local, dialect_options=_default_options, account=_account)

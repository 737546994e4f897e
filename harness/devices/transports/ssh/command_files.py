"""Files by commands, for servers without SFTP: dropbear, and an sshd whose SFTP server is missing.

A file travels as the input or the output of `cat`. It is stored beside its name as `NAME.part`, its digest
is compared, and then it gets its name.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import BufferedIOBase
from pathlib import Path
from typing import Protocol

from harness.devices.transports.ssh.channel import SshChannel
from harness.devices.transports.ssh.sftp import Report
from harness.devices.transports.ssh.transfers import STALL_SECONDS, SpeedFloor, TransferWatch
from harness.errors import AgentSilent, TransferFailed, TransportError, Unreachable
from harness.protocols import MAX_FILE_BYTES, Reply

_COPY_BYTES = 1 << 20
_ERROR_BYTES = 64 * 1024
_SHOWN = 400
_FINISH_SECONDS = 60.0
_MIN_DISK_BYTES_PER_SECOND = 1e6
"""The slowest card that a file is written to and read from."""


# The tools of coreutils and of busybox; a device without any of them still reports the size.
_DIGEST = r"""
digest() {
    for tool in sha256sum sha1sum md5sum; do
        if command -v "$tool" >/dev/null 2>&1; then
            set -- $("$tool"); printf '\nedge-harness-digest %s %s\n' "${tool%sum}" "$1"; return
        fi
    done
    printf '\nedge-harness-digest size %s\n' $(wc -c)
}
"""
_STORE = f"""{_DIGEST}
umask 077
if [ -d "$1" ]; then echo "$1 is a folder" >&2; exit 1; fi
mkdir -p -- "$2" && rm -f -- "$1.part" && set -C && cat > "$1.part" && digest < "$1.part"
"""
_NAME = 'mv -f -- "$1.part" "$1"'
_FETCH = f"""{_DIGEST}
if [ ! -e "$1" ]; then echo "$1: no such file" >&2; exit 1; fi
if [ ! -f "$1" ]; then echo "$1 is not a regular file" >&2; exit 1; fi
cat -- "$1" && digest < "$1" >&2
"""
_FOUND = re.compile(rb"\nedge-harness-digest (sha256|sha1|md5|size) ([0-9a-f]{1,64})\n")


class Start(Protocol):
    """Starts a process on the device."""

    def __call__(self, argv: Sequence[str], keep: int | None = None) -> SshChannel:
        """Start it; `keep` bytes of stderr are kept."""


class CommandFiles:
    """The files of a device by commands; see protocols.Files for the verbs."""

    def __init__(
        self,
        start: Start,
        run: Callable[[Sequence[str], float], Reply],
        where: str,
        *,
        why: str,
        report: Report,
    ) -> None:
        """Start processes with `start` and `run`; `why` says why SFTP is not used.

        `report` gets a push's progress.
        """
        self._start = start
        self._run = run
        self._where = where
        self.why = why
        self._report = report

    def put(self, source: Path, destination: str) -> None:
        """Copy a file (0600) to exactly `destination`, creating its folder (0700).

        After a failure `destination` is as it was, and the bytes that arrived are in
        `destination`.part. Raises TransferFailed, and Unreachable if the connection broke.
        """
        size = 0
        stream: SshChannel | None = None

        def sent() -> int:
            return min(size, stream.arrived_bytes) if stream else 0

        try:
            with source.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                folder = posixpath.dirname(destination) or "."
                with self._script(_STORE, destination, folder) as stream:
                    with (
                        TransferWatch(
                            moved=sent,
                            report=lambda moved, speed: self._report(source, moved, size, speed),
                        ),
                        suppress(Unreachable),
                    ):
                        # If `cat` cannot write, it ends early and says why.
                        while data := file.read(_COPY_BYTES):
                            stream.send(data)
                    stream.finish_sending()
                    seconds = _FINISH_SECONDS + size / _MIN_DISK_BYTES_PER_SECOND
                    output = self._output(stream, time.monotonic() + seconds)
                file.seek(0)
                _compare(output, file)
            self._finish(destination)
        except Unreachable as error:
            message = f"{self._progress(source, destination, sent(), size)}: the connection broke"
            raise Unreachable(f"{message}; the partial file stays there") from error
        except (OSError, ValueError, TransportError, AgentSilent) as error:
            progress = self._progress(source, destination, sent(), size)
            raise TransferFailed(f"{progress}: {error} ({self.why})") from error

    def get(self, source: str, destination: Path, max_bytes: int = MAX_FILE_BYTES) -> None:
        """Copy a file from the device; see protocols.Files.get."""
        part: Path | None = None
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=destination.parent, prefix=".get-")
            part = Path(name)
            with os.fdopen(handle, "w+b") as file:
                with self._script(_FETCH, source) as stream:
                    stream.finish_sending()
                    _receive(stream, file, max_bytes)
                    _succeeded(stream, time.monotonic() + STALL_SECONDS)
                    errors = stream.errors()
                file.seek(0)
                _compare(errors, file)
            part.replace(destination)
        except Unreachable as error:
            message = f"{self._where}: {source} was not copied to {destination}: {error}"
            raise Unreachable(message) from error
        except (OSError, ValueError, TransportError, AgentSilent) as error:
            message = f"{self._where}: {source} was not copied to {destination}: {error}"
            raise TransferFailed(f"{message} ({self.why})") from error
        finally:
            if part is not None:
                part.unlink(missing_ok=True)

    def _script(self, script: str, *arguments: str) -> SshChannel:
        return self._start(["sh", "-c", script, "sh", *arguments], keep=_ERROR_BYTES)

    def _output(self, stream: SshChannel, deadline: float) -> bytes:
        """Return all output of a script; raises OSError with its stderr if it failed."""
        output = b""
        while data := stream.read(deadline):
            output += data
        _succeeded(stream, deadline)
        return output

    def _finish(self, destination: str) -> None:
        reply = self._run(["sh", "-c", _NAME, "sh", destination], _FINISH_SECONDS)
        if reply.exit_code:
            raise OSError(reply.stderr.decode(errors="replace").strip()[-_SHOWN:])

    def _progress(self, source: Path, destination: str, sent: int, size: int) -> str:
        return f"{source}: about {sent} of {size} bytes were sent to {self._where} {destination}"


def _receive(stream: SshChannel, file: BufferedIOBase, max_bytes: int) -> None:
    floor, received = SpeedFloor(), 0
    while data := stream.read(time.monotonic() + STALL_SECONDS):
        received += len(data)
        if received > max_bytes:
            raise ValueError(f"it holds more than {max_bytes} bytes")
        if floor.is_too_slow(received):
            raise TimeoutError(floor.reason)
        file.write(data)


def _succeeded(stream: SshChannel, deadline: float) -> None:
    """Raise OSError with the stderr of a script that failed."""
    code = stream.wait(deadline)
    if code:
        text = stream.errors().decode(errors="replace").strip()[-_SHOWN:]
        raise OSError(text or f"the command ended with {code}")


def _compare(output: bytes, file: BufferedIOBase) -> None:
    """Compare the device's digest with that of `file`; raises ValueError if they differ."""
    found = _FOUND.search(output)
    if found is None:
        raise ValueError("the device reported no digest of it")
    kind, theirs = found[1].decode(), found[2].decode()
    if kind == "size":
        ours = str(os.fstat(file.fileno()).st_size)
    else:
        ours = hashlib.file_digest(file, kind).hexdigest()
    if ours != theirs:
        raise ValueError(f"it arrived damaged: its {kind} is {theirs} on the device, {ours} here")

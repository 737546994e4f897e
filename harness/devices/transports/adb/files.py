"""Files by adb's file service (`sync:`).

adbutils' own push sends in part without looking and waits without end, so only the framing is the
same here. An answer of a failed push comes while the file is still being sent.
"""

from __future__ import annotations

import os
import posixpath
import stat
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from harness.devices.transports.adb.link import Link, Wire
from harness.devices.transports.adb.server import Refused
from harness.errors import AgentSilent, TransferFailed, Unreachable
from harness.protocols import MAX_FILE_BYTES

STALL_SECONDS = 60.0
MIN_BYTES_PER_SECOND = 10_000.0
"""A transfer that is slower on average is aborted, even if data still arrives."""

_DATA_BYTES = 1 << 16
"""Per packet; the phone refuses more."""

_PACKETS_AT_ONCE = 16
_MAX_PATH = 1024
_MAX_REASON = 4096
_HEAD = struct.Struct("<4sI")
_STAT_1 = struct.Struct("<4sIII")
_STAT_2 = struct.Struct("<4sIQQIIIIQqqq")
# Nobody may read the file before it is complete: adbd gives the group and all others what it gives
# the owner.
_MODE_WHILE_SENDING = stat.S_IFREG


class SyncFailed(Exception):
    """The phone refused a file, with its reason."""


class AdbFiles:
    """The files of a phone; see protocols.Files for the verbs."""

    def __init__(
        self,
        link: Link,
        *,
        has_stat_2: bool,
        prepare: Callable[[str], None],
        finish: Callable[[str], None],
        free_space: Callable[[str], str],
    ) -> None:
        """`prepare` makes a folder; `finish` makes a file readable by its owner only."""
        self._link = link
        self._has_stat_2 = has_stat_2
        # Version 1 reports sizes modulo 4 GiB.
        self._size_mask = -1 if has_stat_2 else 0xFFFFFFFF
        self._prepare = prepare
        self._finish = finish
        self._free_space = free_space

    def put(self, source: Path, destination: str) -> None:
        """Copy a file (0600) to exactly `destination`, creating its folder (0700).

        After a failure the partial file stays on the phone. Raises TransferFailed (with the file and
        the bytes sent), and Unreachable if the connection broke.
        """
        sent, size = 0, 0
        try:
            _check_path(destination)
            with source.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                deadline = _deadline(size)
                for sent in self._send(file, destination, deadline):  # noqa: B007 - for an error too
                    pass
                self._finish(destination)
        except (SyncFailed, ValueError) as error:
            raise self._not_stored(source, destination, sent, size, str(error)) from error
        except Unreachable as error:
            progress = self._progress(source, destination, sent, size)
            raise Unreachable(f"{progress}: {error}; the partial file stays there") from error
        except AgentSilent as error:
            self._link.check()
            raise self._not_stored(
                source, destination, sent, size, "it did not end in time"
            ) from error
        except OSError as error:
            if error.filename is not None:
                message = f"{source}: not sent to {self._link.where}: {error.strerror or error}"
                raise TransferFailed(message) from error
            raise Unreachable(self._broke(source, destination, sent, size)) from error

    def get(self, source: str, destination: Path, max_bytes: int = MAX_FILE_BYTES) -> None:
        """Copy a file from the phone; see protocols.Files.get."""
        part: Path | None = None
        where = f"{self._link.where}: {source} was not copied to {destination}"
        try:
            _check_path(source)
            destination.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=destination.parent, prefix=".get-")
            part = Path(name)
            with os.fdopen(handle, "wb") as file:
                self._receive(source, file, max_bytes)
            part.replace(destination)
        except (SyncFailed, ValueError) as error:
            raise TransferFailed(f"{where}: {error}") from error
        except AgentSilent as error:
            self._link.check()
            raise TransferFailed(f"{where}: it did not end in time") from error
        except OSError as error:
            if error.filename is not None:
                raise TransferFailed(f"{where}: {error.strerror or error}") from error
            reason = self._link.reason() or "the connection to the phone broke"
            raise Unreachable(f"{where}: {reason}") from error
        finally:
            if part is not None:
                part.unlink(missing_ok=True)

    def _send(self, file: IO[bytes], destination: str, deadline: float) -> Iterator[int]:
        """Send a file; yields the number of bytes so far. Raises SyncFailed, OSError, AgentSilent."""
        wire = self._open()
        try:
            folder = posixpath.dirname(destination) or "."
            if not stat.S_ISDIR(self._stat(wire, folder, deadline)[0]):
                self._prepare(folder)
            name = f"{destination},{_MODE_WHILE_SENDING:d}".encode(errors="surrogateescape")
            wire.send(_HEAD.pack(b"SEND", len(name)) + name, deadline)
            sent = 0
            for packets, size in _packets(file):
                try:
                    wire.send(packets, deadline)
                except OSError:
                    if not wire.is_readable():
                        raise
                    # The phone's reason has arrived before the end of the stream.
                    _confirm(wire, deadline)
                    raise
                sent += size
                yield sent
                if wire.is_readable():
                    _confirm(wire, deadline)
            wire.send(_HEAD.pack(b"DONE", int(time.time()) & 0xFFFFFFFF), deadline)
            _confirm(wire, deadline)
            _, arrived = self._stat(wire, destination, deadline)
            if arrived != sent & self._size_mask:
                raise SyncFailed(f"only {arrived} bytes were stored")
            yield sent
        finally:
            wire.close()

    def _receive(self, source: str, file: IO[bytes], max_bytes: int) -> None:
        wire = self._open()
        try:
            mode, size = self._stat(wire, source, _deadline(0))
            if not mode:
                raise SyncFailed("no such file")
            # Reading a pipe would never end. Version 1 does not follow links.
            if not stat.S_ISREG(mode) and not (stat.S_ISLNK(mode) and not self._has_stat_2):
                raise SyncFailed("it is not a regular file")
            deadline = _deadline(min(max(size, 0), max_bytes))
            name = source.encode(errors="surrogateescape")
            wire.send(_HEAD.pack(b"RECV", len(name)) + name, deadline)
            left = max_bytes
            while (data := _next_data(wire, deadline)) is not None:
                left -= len(data)
                if left < 0:
                    raise ValueError(f"it holds more than {max_bytes} bytes")
                file.write(data)
        finally:
            wire.close()

    def _stat(self, wire: Wire, path: str, deadline: float) -> tuple[int, int]:
        """Return the mode and the size of a file; 0 and 0 if it does not exist."""
        name = path.encode(errors="surrogateescape")
        kind, form = (b"STA2", _STAT_2) if self._has_stat_2 else (b"STAT", _STAT_1)
        wire.send(_HEAD.pack(kind, len(name)) + name, deadline)
        answer = form.unpack(wire.receive_exactly(form.size, deadline))
        if answer[0] != kind:
            raise SyncFailed(f"the phone answered {answer[0]!r} to a request for a file's size")
        if not self._has_stat_2:
            return answer[1], answer[2]
        return (0, 0) if answer[1] else (answer[4], answer[8])

    def _open(self) -> Wire:
        try:
            return self._link.open(b"sync:")
        except Refused as error:
            raise SyncFailed(f"the phone copies no files: {error}") from error

    def _not_stored(
        self, source: Path, destination: str, sent: int, size: int, reason: str
    ) -> TransferFailed:
        space = ""
        if "space" in reason or "did not end" in reason or "stored" in reason:
            space = f"; {self._free_space(posixpath.dirname(destination))}"
        return TransferFailed(f"{self._progress(source, destination, sent, size)}: {reason}{space}")

    def _broke(self, source: Path, destination: str, sent: int, size: int) -> str:
        reason = self._link.reason() or "the connection to the phone broke"
        progress = self._progress(source, destination, sent, size)
        return f"{progress}: {reason}; the partial file stays there"

    def _progress(self, source: Path, destination: str, sent: int, size: int) -> str:
        return (
            f"{source}: about {sent} of {size} bytes were sent to {self._link.where} {destination}"
        )


def _check_path(path: str) -> None:
    if "\0" in path or len(path.encode(errors="surrogateescape")) > _MAX_PATH:
        raise ValueError(f"{path[:80]!r}... is no path that adb can copy")


def _packets(file: IO[bytes]) -> Iterator[tuple[memoryview, int]]:
    """Yield a file as packets of the protocol, many at once, with the number of the file's bytes.

    What is yielded is valid until the next one: the file is read into the same buffer.
    """
    step = _HEAD.size + _DATA_BYTES
    buffer = memoryview(bytearray(_PACKETS_AT_ONCE * step))
    while True:
        end = size = 0
        for start in range(0, len(buffer), step):
            count = file.readinto(buffer[start + _HEAD.size : start + step])  # type: ignore[attr-defined]
            if not count:
                break
            _HEAD.pack_into(buffer, start, b"DATA", count)
            end, size = start + _HEAD.size + count, size + count
            if count < _DATA_BYTES:
                break
        if not size:
            return
        yield buffer[:end], size


def _confirm(wire: Wire, deadline: float) -> None:
    """Read the phone's answer to a file; raises SyncFailed with its reason."""
    kind, size = _HEAD.unpack(wire.receive_exactly(_HEAD.size, deadline))
    if kind == b"OKAY":
        return
    raise _failure(wire, kind, size, deadline)


def _next_data(wire: Wire, deadline: float) -> bytes | None:
    """Return the next part of a file, None at its end."""
    kind, size = _HEAD.unpack(wire.receive_exactly(_HEAD.size, deadline))
    if kind == b"DONE":
        return None
    if kind != b"DATA" or size > _DATA_BYTES:
        raise _failure(wire, kind, size, deadline)
    return wire.receive_exactly(size, deadline)


def _failure(wire: Wire, kind: bytes, size: int, deadline: float) -> SyncFailed:
    if kind != b"FAIL":
        return SyncFailed(
            f"the phone sent {kind!r} of {size} bytes, which is not adb's file protocol"
        )
    reason = wire.receive_exactly(min(size, _MAX_REASON), deadline)
    text = reason.decode(errors="replace")
    return SyncFailed("".join(one for one in text if one.isprintable()) or "no reason given")


def _deadline(size: int) -> float:
    return time.monotonic() + STALL_SECONDS + size / MIN_BYTES_PER_SECOND

"""Files by SFTP, the usual way."""

from __future__ import annotations

import os
import posixpath
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

import paramiko

from harness.devices.transports.ssh.bounds import NONSENSE, BoundedSftp, ChannelTimeLimit, pace_of
from harness.devices.transports.ssh.transfers import STALL_SECONDS, TransferWatch
from harness.errors import TransferFailed, TransportError, Unreachable
from harness.protocols import MAX_FILE_BYTES

CHANNEL_SECONDS = 15.0
_WRITE_BYTES = 32_000
"""Bytes per SFTP write to any server: the protocol guarantees packets of 34,000 bytes."""

_WRITE_BYTES_OPENSSH = 131_000
"""OpenSSH accepts 256 KiB. Writes of this size take a quarter less of the host's processor time; larger
ones are slower again."""

_READ_BYTES = 32_000
_READS_AT_ONCE = 32
BROKEN = (paramiko.SSHException, paramiko.SFTPError, OSError, EOFError, *NONSENSE)

Report = Callable[[Path, int, int, float], object]
"""Gets a file, its bytes that have arrived, its size and the bytes per second."""


class NoSftp(TransportError):
    """The server has no SFTP, or another program prints on its channel."""


class SftpFiles:
    """The files of a device by SFTP; see protocols.Files for the verbs.

    Both raise NoSftp before anything is sent if the server has no SFTP.
    """

    def __init__(self, transport: paramiko.Transport, where: str, report: Report) -> None:
        """Use a connection; SFTP is opened by the first call. `report` gets a push's progress."""
        self._transport = transport
        self._where = where
        openssh = "OpenSSH" in transport.remote_version
        self._write_bytes = _WRITE_BYTES_OPENSSH if openssh else _WRITE_BYTES
        self._report = report
        self._sftp: paramiko.SFTPClient | None = None

    def put(self, source: Path, destination: str) -> None:
        """Copy a file (0600) to exactly `destination`, creating its folder (0700).

        After a failure the partial file stays on the device. Raises TransferFailed (with the file and
        the bytes sent), and Unreachable if the connection broke.
        """
        sftp = self._open_sftp()
        pace = pace_of(self._transport)
        size, before = 0, pace.confirmed_bytes
        watch: TransferWatch | None = None

        def sent() -> int:
            return min(size, pace.confirmed_bytes - before)

        try:
            with source.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                watch = TransferWatch(
                    moved=sent,
                    end=sftp.close,
                    report=lambda moved, speed: self._report(source, moved, size, speed),
                )
                with watch:
                    self._make_folder(sftp, posixpath.dirname(destination))
                    with sftp.open(destination, "wb") as target:
                        # Before the file has content. A card with FAT has no file modes.
                        with suppress(OSError):
                            target.chmod(0o600)
                        target.MAX_REQUEST_SIZE = self._write_bytes
                        target.set_pipelined(True)
                        while data := file.read(self._write_bytes):
                            target.write(data)
                    arrived = sftp.stat(destination).st_size
        except BROKEN as error:
            slow = watch is not None and watch.too_slow
            cause = TimeoutError(slow) if slow else error
            raise self._failed(source, destination, sent(), size, cause) from error
        if arrived != size:
            # paramiko does not read the server's last answers, so the size is checked.
            short = OSError(f"only {arrived} bytes were stored")
            raise self._failed(source, destination, sent(), size, short)

    def get(self, source: str, destination: Path, max_bytes: int = MAX_FILE_BYTES) -> None:
        """Copy a file from the device; see protocols.Files.get."""
        sftp = self._open_sftp()
        part: Path | None = None
        watch: TransferWatch | None = None
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=destination.parent, prefix=".get-")
            part = Path(name)
            with os.fdopen(handle, "wb") as file:
                watch = TransferWatch(moved=file.tell, end=sftp.close)
                with watch:
                    _copy(sftp, source, file, max_bytes)
            part.replace(destination)
        except BROKEN as error:
            self.close()
            reason = (watch.too_slow if watch else None) or error_text(error)
            message = f"{self._where}: {source} was not copied to {destination}: {reason}"
            alive = self._transport.is_active()
            raise (TransferFailed if alive else Unreachable)(message) from error
        finally:
            if part is not None:
                part.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the SFTP session; never raises. Late answers of a failed one may still arrive in it."""
        if self._sftp is not None:
            with suppress(*BROKEN):
                self._sftp.close()
            self._sftp = None

    def _open_sftp(self) -> paramiko.SFTPClient:
        if self._sftp is not None:
            return self._sftp
        transport = self._transport
        try:
            channel = transport.open_session(timeout=CHANNEL_SECONDS)
            channel.settimeout(CHANNEL_SECONDS)
            with ChannelTimeLimit(CHANNEL_SECONDS, channel):
                channel.invoke_subsystem("sftp")
                self._sftp = BoundedSftp(channel)
        except BROKEN as error:
            if not transport.is_active():
                raise Unreachable(f"{self._where}: {error_text(error)}") from error
            # An SFTPError means other text on the stream, from a login script or a forced command.
            noise = isinstance(error, paramiko.SFTPError)
            cause = "another program prints on the SFTP channel: " * noise + error_text(error)
            raise NoSftp(f"no SFTP there ({cause})") from error
        channel.settimeout(STALL_SECONDS)
        return self._sftp

    def _make_folder(self, sftp: paramiko.SFTPClient, folder: str) -> None:
        try:
            sftp.stat(folder or ".")
        except FileNotFoundError:
            above = posixpath.dirname(folder)
            if above in {folder, ""}:
                raise
            self._make_folder(sftp, above)
            try:
                sftp.mkdir(folder, 0o700)
            except OSError:
                # Another process may have made it meanwhile; for any other cause stat raises.
                sftp.stat(folder)

    def _failed(
        self, source: Path, destination: str, sent: int, size: int, error: Exception
    ) -> TransferFailed | Unreachable:
        """Return the error for a failed push: bytes sent and cause."""
        self.close()
        progress = (
            f"{source}: about {sent} of {size} bytes were sent to {self._where} {destination}"
        )
        if isinstance(error, EOFError) or not self._transport.is_active():
            return Unreachable(f"{progress}: the connection broke; the partial file stays there")
        if isinstance(error, OSError) and error.errno is None:
            # SFTP has no code for a full disk: the server answers only "Failure".
            return NoReason(f"{progress}: {error_text(error)}")
        hint = "check that the folder is writable and the disk has space"
        return TransferFailed(f"{progress}: {error_text(error)}; {hint}")


class NoReason(TransferFailed):
    """The server gave no reason; the caller looks at the free space."""


def _copy(sftp: paramiko.SFTPClient, source: str, file: IO[bytes], max_bytes: int) -> None:
    """Copy the whole file, even if the server reports another size."""
    with sftp.open(source, "rb") as remote:
        reported = sftp.stat(source).st_size or 0
        remote.prefetch(min(reported, max_bytes), _READS_AT_ONCE)
        left = max_bytes
        while data := remote.read(_READ_BYTES):
            left -= len(data)
            if left < 0:
                raise ValueError(f"it holds more than {max_bytes} bytes")
            file.write(data)


def error_text(error: BaseException) -> str:
    """Return the text of a library's error, or its name if it has none."""
    return str(error) or type(error).__name__

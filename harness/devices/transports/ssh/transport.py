"""A device behind SSH.

    [device.bench-pi]
    profile = "raspberry_pi_5"
    address = "ssh://pi@10.0.0.7:22"
    identity = "~/.ssh/id_ed25519"        # optional, as are the next two
    known_hosts = "~/.ssh/known_hosts"
    ssh_config = "~/.ssh/config"

The transport checks the host keys of the device and of every jump host, and connecting never accepts
a new key (docs/ssh.md). Files travel by SFTP, commands on channels of one connection. A dead link is
detected within 10 s.
"""

from __future__ import annotations

import os
import posixpath
import re
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import paramiko

from harness.devices.transports.ssh.bounds import NONSENSE, BoundedSftp, TimeLimit
from harness.devices.transports.ssh.channel import SshChannel
from harness.devices.transports.ssh.connect import CHANNEL_SECONDS, Connection
from harness.devices.transports.tail import OUTPUT_BYTES
from harness.errors import AgentSilent, TransferFailed, TransportError, Unreachable
from harness.protocols import MAX_FILE_BYTES, Reply
from harness.types import Device

_WRITE_BYTES = 32_000
"""Bytes per SFTP write to any server: the protocol guarantees packets of 34,000 bytes."""

_WRITE_BYTES_OPENSSH = 131_000
"""OpenSSH accepts 256 KiB. Writes of this size take a quarter less of the host's processor time; larger
ones are slower again."""

_STALL_SECONDS = 60.0
_MIN_BYTES_PER_SECOND = 10_000.0
"""A transfer that is slower on average is aborted, even if data still arrives."""

_READ_BYTES = 32_000
_READS_AT_ONCE = 32
_DF_AVAILABLE = 3
"""Column of `df -Pk` with the free blocks of 1024 bytes."""

_BROKEN = (paramiko.SSHException, paramiko.SFTPError, OSError, EOFError, *NONSENSE)


class SshTransport:
    """A transport over one SSH connection; see protocols.FullTransport for the verbs."""

    def __init__(self, device: Device) -> None:
        """Connect; raises Unreachable, HostKeyUnknown or ConfigError."""
        self._connection = Connection(device)
        self._where = f"{device.name} ({self._connection.label})"
        openssh = "OpenSSH" in self._connection.transport.remote_version
        self._write_bytes = _WRITE_BYTES_OPENSSH if openssh else _WRITE_BYTES
        self._sftp: paramiko.SFTPClient | None = None
        self._sessions: list[SshChannel] = []

    def put(self, source: Path, destination: str) -> None:
        """Copy a file (0600) to exactly `destination`, creating its folder (0700).

        After a failure the partial file stays on the device. Raises TransferFailed (with the file and
        the bytes sent), and Unreachable if the connection broke.
        """
        sftp = self._open_sftp()
        sent, size = 0, 0
        guard: TimeLimit | None = None
        try:
            with source.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                guard = _time_limit(size, sftp)
                with guard:
                    self._make_folder(sftp, posixpath.dirname(destination))
                    with sftp.open(destination, "wb") as target:
                        # Before the file has content. A card with FAT has no file modes.
                        with suppress(OSError):
                            target.chmod(0o600)
                        target.MAX_REQUEST_SIZE = self._write_bytes
                        target.set_pipelined(True)
                        while data := file.read(self._write_bytes):
                            target.write(data)
                            sent += len(data)
                    arrived = sftp.stat(destination).st_size
        except _BROKEN as error:
            cause = _too_slow(guard) if guard is not None and guard.over else error
            raise self._failed(source, destination, sent, size, cause) from error
        if arrived != size:
            # paramiko does not read the server's last answers, so the size is checked.
            short = OSError(f"only {arrived} bytes were stored")
            raise self._failed(source, destination, sent, size, short)

    def get(self, source: str, destination: Path, max_bytes: int = MAX_FILE_BYTES) -> None:
        """Copy a file from the device; see protocols.Files.get."""
        sftp = self._open_sftp()
        guard = _time_limit(max_bytes, sftp)
        part: Path | None = None
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=destination.parent, prefix=".get-")
            part = Path(name)
            with os.fdopen(handle, "wb") as file, guard:
                _copy(sftp, source, file, max_bytes)
            part.replace(destination)
        except _BROKEN as error:
            self._drop_sftp()
            reason = _error_text(_too_slow(guard) if guard.over else error)
            message = f"{self._where}: {source} was not copied to {destination}: {reason}"
            alive = self._connection.transport.is_active()
            raise (TransferFailed if alive else Unreachable)(message) from error
        finally:
            if part is not None:
                part.unlink(missing_ok=True)

    def run(self, argv: Sequence[str], timeout_seconds: float, stdin: bytes | None = None) -> Reply:
        """Run one command and wait for it.

        Raises AgentSilent if the deadline passes (the command is killed), Unreachable if the
        connection breaks, and TransportError if the command writes more than 8 MiB.
        """
        started = time.monotonic()
        deadline = started + timeout_seconds
        session = self._session(argv, keep=OUTPUT_BYTES + 1)
        stdout = bytearray()
        try:
            # A command that ends without reading its input is judged by its exit code.
            with suppress(Unreachable):
                session.send(stdin or b"", deadline)
            session.finish_sending()
            while data := session.read(deadline):
                stdout += data
                if max(len(stdout), len(session.errors())) > OUTPUT_BYTES:
                    message = (
                        f"{self._where}: {argv[0]} wrote more than {OUTPUT_BYTES} bytes "
                        "and was killed"
                    )
                    raise TransportError(message)
            exit_code = session.wait(deadline)
        finally:
            session.close(grace_seconds=0.0)
        return Reply(
            argv=tuple(argv),
            exit_code=exit_code,
            stdout=bytes(stdout),
            stderr=session.errors(),
            seconds=time.monotonic() - started,
        )

    def talk(self, argv: Sequence[str]) -> SshChannel:
        """Start a process (no terminal) and return the stream to it."""
        session = self._session(argv)
        self._sessions = [one for one in self._sessions if not one.closed]
        self._sessions.append(session)
        return session

    def close(self) -> None:
        """End the processes started by `talk`, and the connection; never raises."""
        for session in self._sessions:
            session.close()
        self._sessions.clear()
        self._drop_sftp()
        self._connection.close()

    def _session(self, argv: Sequence[str], keep: int | None = None) -> SshChannel:
        return SshChannel(self._connection.transport, argv, self._where, keep=keep)

    def _open_sftp(self) -> paramiko.SFTPClient:
        if self._sftp is not None:
            return self._sftp
        transport = self._connection.transport
        try:
            channel = transport.open_session(timeout=CHANNEL_SECONDS)
            channel.settimeout(CHANNEL_SECONDS)
            with TimeLimit(CHANNEL_SECONDS, channel):
                channel.invoke_subsystem("sftp")
                self._sftp = BoundedSftp(channel)
        except _BROKEN as error:
            if not transport.is_active():
                raise Unreachable(f"{self._where}: {_error_text(error)}") from error
            # An SFTPError means other text on the stream, from a login script or a forced command.
            noise = isinstance(error, paramiko.SFTPError)
            message = (
                f"{self._where}: no SFTP there ({_error_text(error)}); "
                f"{'another program prints on the SFTP channel: ' * noise}its sshd_config needs a "
                "line such as `Subsystem sftp internal-sftp`"
            )
            raise TransportError(message) from error
        channel.settimeout(_STALL_SECONDS)
        return self._sftp

    def _drop_sftp(self) -> None:
        """Close an SFTP session after a failure: late answers may still arrive in it."""
        if self._sftp is not None:
            with suppress(*_BROKEN):
                self._sftp.close()
            self._sftp = None

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
        """Return the error for a failed push: bytes sent, cause, fix."""
        self._drop_sftp()
        progress = (
            f"{source}: about {sent} of {size} bytes were sent to {self._where} {destination}"
        )
        if isinstance(error, EOFError) or not self._connection.transport.is_active():
            return Unreachable(f"{progress}: the connection broke; the partial file stays there")
        if isinstance(error, OSError) and error.errno is None:
            # SFTP has no code for a full disk: the server answers only "Failure".
            hint = self._free_space(posixpath.dirname(destination))
        else:
            hint = "check that the folder is writable and the disk has space"
        return TransferFailed(f"{progress}: {_error_text(error)}; {hint}")

    def _free_space(self, folder: str) -> str:
        try:
            reply = self.run(["df", "-Pk", folder], timeout_seconds=10.0)
        except (TransportError, AgentSilent):
            return "check that its disk has space"
        cells = reply.stdout.decode(errors="replace").split("\n", 1)[-1].split()
        free = cells[_DF_AVAILABLE] if len(cells) > _DF_AVAILABLE else ""
        if re.fullmatch("[0-9]{1,15}", free):
            return f"{int(free) * 1024} bytes are free there (`df {folder}`)"
        return "check that its disk has space"


def open_ssh(device: Device) -> SshTransport:
    """Connect to a device; raises Unreachable, HostKeyUnknown or ConfigError."""
    return SshTransport(device)


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


def _time_limit(size: int, sftp: paramiko.SFTPClient) -> TimeLimit:
    """Return the time limit for a transfer of `size` bytes at _MIN_BYTES_PER_SECOND."""
    channel = sftp.get_channel()
    assert channel is not None
    return TimeLimit(_STALL_SECONDS + size / _MIN_BYTES_PER_SECOND, channel)


def _too_slow(guard: TimeLimit) -> OSError:
    return TimeoutError(f"the transfer did not end within {guard.seconds:.0f} s")


def _error_text(error: BaseException) -> str:
    return str(error) or type(error).__name__

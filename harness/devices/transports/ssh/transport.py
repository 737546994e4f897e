"""A device behind SSH.

    [device.bench-pi]
    profile = "raspberry_pi_5"
    address = "ssh://pi@10.0.0.7:22"
    identity = "~/.ssh/id_ed25519"        # optional, as are the next two
    known_hosts = "~/.ssh/known_hosts"
    ssh_config = "~/.ssh/config"

The transport checks the host keys of the device and of every jump host, and connecting never accepts
a new key (docs/ssh.md). Files travel by SFTP, or by commands if the server has none. All use channels of one
connection. A dead link is detected within 10 s; a slow one is not a dead one (:mod:`.pace`).
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.devices.transports.space import free_space
from harness.devices.transports.ssh.channel import SshChannel
from harness.devices.transports.ssh.command_files import CommandFiles
from harness.devices.transports.ssh.connect import Connection
from harness.devices.transports.ssh.sftp import NoReason, NoSftp, SftpFiles
from harness.devices.transports.streams import OpenStreams, run_to_end
from harness.devices.transports.tail import OUTPUT_BYTES
from harness.errors import TransferFailed
from harness.protocols import MAX_FILE_BYTES, Reply
from harness.types import Device, PushProgress


class SshTransport:
    """A transport over one SSH connection; see protocols.FullTransport for the verbs."""

    def __init__(self, device: Device) -> None:
        """Connect; raises Unreachable, HostKeyUnknown or ConfigError."""
        self._connection = Connection(device)
        self._where = f"{device.name} ({self._connection.label})"
        self.on_progress: Callable[[PushProgress], None] = lambda _: None
        """Gets the progress of a copy to the device, twice a second."""
        self._sftp = SftpFiles(self._connection.transport, self._where, self._report)
        self._commands: CommandFiles | None = None
        self._sessions: OpenStreams[SshChannel] = OpenStreams()

    @property
    def no_sftp(self) -> str | None:
        """Why files travel by commands; None if they travel by SFTP, or none has travelled yet."""
        return self._commands.why if self._commands else None

    @property
    def unused_settings(self) -> tuple[str, ...]:
        """Settings of ssh_config that would change something and are not honoured."""
        return self._connection.unused

    def put(self, source: Path, destination: str) -> None:
        """Copy a file (0600) to exactly `destination`, creating its folder (0700).

        After a failure the partial file stays on the device. Raises TransferFailed (with the file and
        the bytes sent), and Unreachable if the connection broke.
        """
        if self._commands is None:
            try:
                self._sftp.put(source, destination)
            except NoSftp as error:
                self._commands = self._by_commands(error)
            except NoReason as error:
                space = free_space(self.run, posixpath.dirname(destination))
                raise TransferFailed(f"{error}; {space}") from error
            else:
                return
        self._commands.put(source, destination)

    def get(self, source: str, destination: Path, max_bytes: int = MAX_FILE_BYTES) -> None:
        """Copy a file from the device; see protocols.Files.get."""
        if self._commands is None:
            try:
                self._sftp.get(source, destination, max_bytes)
            except NoSftp as error:
                self._commands = self._by_commands(error)
            else:
                return
        self._commands.get(source, destination, max_bytes)

    def _by_commands(self, why: NoSftp) -> CommandFiles:
        return CommandFiles(self._session, self.run, self._where, why=str(why), report=self._report)

    def _report(self, source: Path, arrived: int, size: int, speed: float) -> None:
        self.on_progress(
            PushProgress(
                name=source.name, arrived_bytes=arrived, file_bytes=size, bytes_per_second=speed
            )
        )

    def run(self, argv: Sequence[str], timeout_seconds: float, stdin: bytes | None = None) -> Reply:
        """Run one command and wait for it.

        Raises AgentSilent if the deadline passes (the command is killed), Unreachable if the
        connection breaks, and TransportError if the command writes more than 8 MiB.
        """
        return run_to_end(
            lambda: self._session(argv, keep=OUTPUT_BYTES + 1, reads=bool(stdin)),
            argv,
            timeout_seconds,
            stdin,
            where=f"{self._where}: ",
        )

    def talk(self, argv: Sequence[str]) -> SshChannel:
        """Start a process (no terminal) and return the stream to it."""
        return self._sessions.add(self._session(argv))

    def close(self) -> None:
        """End the processes started by `talk`, and the connection; never raises."""
        self._sessions.close()
        self._sftp.close()
        self._connection.close()

    def _session(
        self, argv: Sequence[str], keep: int | None = None, *, reads: bool = True
    ) -> SshChannel:
        return SshChannel(self._connection.transport, argv, self._where, keep=keep, reads=reads)


def open_ssh(device: Device) -> SshTransport:
    """Connect to a device; raises Unreachable, HostKeyUnknown or ConfigError."""
    return SshTransport(device)

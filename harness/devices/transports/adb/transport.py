"""A phone behind an adb server.

    [device.pixel]
    profile = "pixel_6"
    address = "adb:1A2B3C4D5E"            # or adb:10.0.0.7:5555, or adb: for the only phone
    adb_server = "127.0.0.1:5037"         # optional

The server is started if none runs on this machine. A dead link is noticed within 15 s, though the server
lists the phone for minutes more (:mod:`.link`). docs/phone.md has the way from a cable to a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from harness.devices.transports.adb import listing
from harness.devices.transports.adb.files import AdbFiles, SyncFailed
from harness.devices.transports.adb.link import Link
from harness.devices.transports.adb.old_shell import OldShell
from harness.devices.transports.adb.options import AdbAddress, AdbOptions
from harness.devices.transports.adb.server import Server
from harness.devices.transports.adb.shell import AdbShell
from harness.devices.transports.space import free_space
from harness.devices.transports.streams import OpenStreams, ProcessStream, run_to_end
from harness.devices.transports.tail import OUTPUT_BYTES
from harness.errors import AgentSilent, TransportError, Unreachable, Unsupported
from harness.protocols import MAX_FILE_BYTES, Reply
from harness.types import Device

_FILE_SECONDS = 30.0
_SHOWN = 300
_MAKE = 'umask 077; mkdir -p -- "$1"'


class AdbTransport:
    """A transport to one phone; see protocols.FullTransport for the verbs."""

    def __init__(self, device: Device) -> None:
        """Connect; raises Unreachable or ConfigError."""
        address = AdbAddress.of(device)
        server = Server(*AdbOptions.of(device).server)
        try:
            self._link = _linked(server, address, device)
        except TransportError as error:
            if str(error).startswith(device.name):
                raise
            raise Unreachable(f"{device.name}: {error}") from error
        self._where = self._link.where
        try:
            features = set(self._link.ask("features").split(","))
        except TransportError as error:
            self._link.close()
            raise Unreachable(f"{self._where}: {error}") from error
        self.has_shell_2 = "shell_v2" in features
        self._files = AdbFiles(
            self._link,
            has_stat_2="stat_v2" in features,
            prepare=self._make_folder,
            finish=self._own,
            free_space=lambda folder: free_space(self.run, folder),
        )
        self._shells: OpenStreams[AdbShell] = OpenStreams()

    @property
    def server(self) -> Server:
        """Return the adb server, for doctor."""
        return self._link.server

    def put(self, source: Path, destination: str) -> None:
        """Copy a file (0600) to exactly `destination`; see protocols.Files.put."""
        self._files.put(source, destination)

    def get(self, source: str, destination: Path, max_bytes: int = MAX_FILE_BYTES) -> None:
        """Copy a file from the phone; see protocols.Files.get."""
        self._files.get(source, destination, max_bytes)

    def run(self, argv: Sequence[str], timeout_seconds: float, stdin: bytes | None = None) -> Reply:
        """Run one command and wait for it.

        Raises AgentSilent if the deadline passes (the command is killed), Unreachable if the
        connection breaks, and TransportError if the command writes more than 8 MiB.
        """
        return run_to_end(
            lambda: self._command(argv, reads=bool(stdin)),
            argv,
            timeout_seconds,
            stdin,
            where=f"{self._where}: ",
        )

    def talk(self, argv: Sequence[str]) -> AdbShell:
        """Start a process (no terminal) and return the stream to it.

        Raises Unsupported for a phone before Android 7, which does not keep the streams apart.
        """
        if not self.has_shell_2:
            raise Unsupported(
                f"{self._where}: its adbd has no shell protocol (Android 6 or older), which {argv[0]} "
                "needs; use a phone with Android 12 or newer"
            )
        return self._shells.add(AdbShell(self._link, argv))

    def close(self) -> None:
        """End the processes started by `talk`; never raises. The server stays connected."""
        self._shells.close()
        self._link.close()

    def _command(self, argv: Sequence[str], *, reads: bool) -> ProcessStream:
        if self.has_shell_2:
            return AdbShell(self._link, argv, keep=OUTPUT_BYTES + 1, reads=reads)
        return OldShell(self._link, argv, keep=OUTPUT_BYTES + 1)

    def _make_folder(self, folder: str) -> None:
        self._change(["sh", "-c", _MAKE, "sh", folder])

    def _own(self, path: str) -> None:
        self._change(["chmod", "600", path])

    def _change(self, argv: Sequence[str]) -> None:
        """Run a command on a file; raises SyncFailed with its stderr."""
        try:
            reply = self.run(argv, _FILE_SECONDS)
        except Unreachable:
            raise
        except (TransportError, AgentSilent) as error:
            raise SyncFailed(str(error)) from error
        if reply.exit_code:
            text = reply.stderr.decode(errors="replace").strip()[-_SHOWN:]
            raise SyncFailed(text or f"exit code {reply.exit_code}")


def _linked(server: Server, address: AdbAddress, device: Device) -> Link:
    """Find the phone and open the link to it; connects anew to one whose connection is dead."""
    server.start()
    for is_last in (False, True):
        phone = listing.find(server, address)
        where = f"{device.name} ({phone.serial})"
        try:
            return Link(server, phone, where)
        except TransportError as error:
            if is_last or not address.is_network:
                raise Unreachable(
                    f"{where}: the adb server lists it, but it does not answer ({error}); "
                    f"{_hint(server, address, phone)}"
                ) from error
            with suppress(TransportError):
                listing.reconnect(server, address.serial)
    raise AssertionError("the last attempt returns or raises")


def _hint(server: Server, address: AdbAddress, phone: listing.Listed) -> str:
    if address.is_network:
        return "check that the phone is awake and in this network"
    again = server.command("-s", phone.serial, "reconnect")
    return f"unplug it and plug it in again, or run `{again}`"


def open_adb(device: Device) -> AdbTransport:
    """Connect to a phone; raises Unreachable or ConfigError."""
    return AdbTransport(device)

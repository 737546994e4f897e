"""The device that doctor examines: the facts found so far, and how fixes for it are written."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from harness.config import farm as farms
from harness.devices import abilities, opening
from harness.devices.by_shell.android import Android
from harness.devices.dialects.python_agent.options import AgentOptions
from harness.devices.transports.adb.options import DEFAULT_PORT, AdbAddress, AdbOptions
from harness.devices.transports.ssh import shell
from harness.devices.transports.ssh.options import SshOptions
from harness.errors import HostKeyUnknown
from harness.farm.checks import Fix, FixKind
from harness.farm.linux.survey import System
from harness.farm.probe import Probe
from harness.protocols import Commands, Dialect, Files, OpenDialect, OpenTransport, Transport
from harness.types import Device, DeviceFacts, Profile


@dataclass(slots=True, kw_only=True)
class DeviceUnderTest:
    """The device that doctor examines, and the facts found so far."""

    device: Device
    profile: Profile | None = None
    model: Path | None = None
    """A small .tflite file for trial launches."""
    farm: Path | None = None
    """The file that has, or gets, the device's entry."""
    is_farm_named: bool = False
    """Whether the user named that file on the command line; printed commands then name it too."""
    open_transport: OpenTransport | None = None
    open_dialect: OpenDialect | None = None
    transport: Transport | None = None
    key_problem: HostKeyUnknown | None = None
    system: System | None = None
    android: Android | None = None
    probe: Probe | None = None
    dialect: Dialect | None = None
    facts: DeviceFacts | None = None
    files_fix: Fix | None = None
    """The fix of the check `files` if it failed; the agent, a file too, needs the same fix."""

    @property
    def is_ssh(self) -> bool:
        """Whether the device is connected by SSH."""
        return self.device.address.startswith("ssh:")

    @property
    def is_phone(self) -> bool:
        """Whether the device is a phone behind an adb server."""
        return self.device.address.startswith("adb:")

    @property
    def has_commands(self) -> bool:
        """Whether the transport runs commands; a serial line does not."""
        return isinstance(self.transport, Commands)

    @property
    def has_files(self) -> bool:
        """Whether the transport copies files."""
        return isinstance(self.transport, Files)

    @property
    def no_sftp(self) -> str | None:
        """Why files travel by commands instead of SFTP; None if they do not."""
        return getattr(self.transport, "no_sftp", None)

    @property
    def unused_settings(self) -> tuple[str, ...]:
        """Settings of ssh_config that the transport does not honour."""
        return tuple(getattr(self.transport, "unused_settings", ()))

    @property
    def commands(self) -> Commands:
        """Return the transport to run commands; for checks that need `commands`."""
        assert self.transport is not None
        return abilities.commands(self.transport, self.device, "a check of doctor")

    @property
    def files(self) -> Files:
        """Return the transport to copy files; for checks that need `files`."""
        assert self.transport is not None
        return abilities.files(self.transport, self.device, "a check of doctor")

    @property
    def agent(self) -> AgentOptions:
        """The options of the Python agent; only if `has_python_agent`."""
        return AgentOptions.of(self.device)

    @property
    def has_python_agent(self) -> bool:
        """Whether the device's dialect is the Python agent, which the checks of Python concern."""
        if not opening.has_transport(opening.scheme(self.device)):
            # Nothing reaches it, so its checks wait for that.
            return True
        return isinstance(opening.dialect_options(self.device, self.profile), AgentOptions)

    @property
    def is_this_python(self) -> bool:
        """Whether the agent runs in the Python that runs this, on this machine."""
        found = shutil.which(self.agent.python)
        return (
            opening.scheme(self.device) == "local"
            and found is not None
            and Path(found).absolute() == Path(sys.executable).absolute()
        )

    def remote_command(self, command: str) -> str:
        """Return the command for this host that runs `command` on the device."""
        if self.is_phone:
            return shlex.join([*self._adb_argv(), "shell", command])
        if not self.is_ssh:
            return command
        typed = command if self.has_posix_shell else shell.encoded(command)
        return shlex.join([*self._ssh_argv(), typed])

    @property
    def has_posix_shell(self) -> bool:
        """Whether the account's login shell reads a command as sh does; csh and fish do not."""
        name = self.system.login_shell if self.system else ""
        return not name or name in shell.POSIX_SHELLS

    def by_command(self, kind: FixKind, command: str, note: str = "") -> Fix:
        """Make a fix from a command for the account of the farm entry."""
        typed = self.remote_command(command)
        return Fix(kind=kind, command=typed, text=typed + note)

    def as_root(self, kind: FixKind, command: str, note: str = "") -> Fix:
        """Make a fix from a command for root on the device.

        `{sudo}` in the command becomes `sudo ` if the account needs and has sudo, else nothing. A
        command without `{sudo}` gets it in front.
        """
        if "{sudo}" not in command:
            command = "{sudo}" + command
        if self.system is None or self.system.can_sudo:
            return self.by_command(kind, command.replace("{sudo}", "sudo "), note)
        command = command.replace("{sudo}", "")
        if self.system.uid == 0:
            return self.by_command(kind, command, note)
        text = f"as root on the device (this account has no sudo): {command}{note}"
        return Fix(kind=kind, root_command=command, text=text)

    def by_harness(self, kind: FixKind, *arguments: str, note: str = "") -> Fix:
        """Make a fix from an edge-harness command on this host."""
        typed = shlex.join(["edge-harness", *arguments, *self._farm_option()])
        return Fix(kind=kind, command=typed, text=typed + note)

    def by_setting(self, kind: FixKind, key: str, value: str, note: str = "") -> Fix:
        """Make a fix that sets a key of the device's entry in the farm file."""
        # JSON's strings are TOML's.
        line = f"{key} = {json.dumps(value, ensure_ascii=False)}"
        where = f"[device.{self.device.name}] of {self.farm or farms.default_file()}"
        if self.device.name == farms.THIS_MACHINE:
            where += f' (with profile = "{self.device.profile}", address = "local:")'
        return Fix(kind=kind, setting={key: value}, text=f"set {line} in {where}{note}")

    def by_hand(self, kind: FixKind, advice: str) -> Fix:
        """Make a fix from advice: no command can do it."""
        return Fix(kind=kind, text=advice)

    def _farm_option(self) -> list[str]:
        return ["--farm", str(self.farm)] if self.farm and self.is_farm_named else []

    def _adb_argv(self) -> list[str]:
        _, port = AdbOptions.of(self.device).server
        serial = AdbAddress.of(self.device).serial
        chosen = ["-P", str(port)] if port != DEFAULT_PORT else []
        return ["adb", *chosen, *(["-s", serial] if serial else [])]

    def _ssh_argv(self) -> list[str]:
        parts = urlsplit(self.device.address)
        given = SshOptions.of(self.device)
        options = ["-F", str(given.ssh_config)] if given.ssh_config else []
        options += ["-i", str(given.identity)] if given.identity else []
        if given.known_hosts:
            options += ["-o", f'UserKnownHostsFile="{given.known_hosts}"']
        options += ["-p", str(parts.port)] if parts.port else []
        host = parts.hostname or ""
        login = f"{parts.username}@{host}" if parts.username else host
        return ["ssh", "-t", *options, login]

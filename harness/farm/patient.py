"""What a doctor's check gets and gives."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from harness.devices import abilities
from harness.devices.dialects.python_agent.options import AgentOptions
from harness.devices.transports.ssh.options import SshOptions
from harness.farm.probe import Probe
from harness.protocols import Commands, Dialect, Transport
from harness.types import Device, DeviceFacts, Profile

Status = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check: what was looked at, how it is, what was found, what mends it."""

    name: str
    status: Status
    found: str
    mend: str | None = None
    """The command, or the change, that mends it; every failed check has one."""

    def plain(self) -> dict[str, Any]:
        """Return it as plain data, for JSON and the screen."""
        return {"name": self.name, "status": self.status, "detail": self.found, "mend": self.mend}


@dataclass(slots=True, kw_only=True)
class Patient:
    """A device under examination, and what is known of it so far."""

    device: Device
    profile: Profile | None = None
    model: Path | None = None
    """A small .tflite file for the checks that make a launch."""
    transport: Transport | None = None
    probe: Probe | None = None
    dialect: Dialect | None = None
    facts: DeviceFacts | None = None

    @property
    def is_local(self) -> bool:
        """Whether it is the machine we run on."""
        return self.device.address == "local:"

    @property
    def agent(self) -> AgentOptions:
        """The paths of the Python agent there; only of a device that has one."""
        return AgentOptions.of(self.device)

    def commands(self, purpose: str) -> Commands:
        """Return the transport as one that runs commands; raises Unsupported with the purpose."""
        assert self.transport is not None
        return abilities.commands(self.transport, self.device, purpose)

    def there(self, command: str) -> str:
        """Write a command so that it can be typed here and runs on the device."""
        if self.is_local or not self.device.address.startswith("ssh:"):
            return command
        parts = urlsplit(self.device.address)
        given = SshOptions.of(self.device)
        options = ["-F", str(given.ssh_config)] if given.ssh_config else []
        options += ["-i", str(given.identity)] if given.identity else []
        if given.known_hosts:
            options += ["-o", f'UserKnownHostsFile="{given.known_hosts}"']
        options += ["-p", str(parts.port)] if parts.port else []
        host = parts.hostname or ""
        who = f"{parts.username}@{host}" if parts.username else host
        return shlex.join(["ssh", "-t", *options, who, command])


Examination = Callable[[Patient], Check]
"""A check; it raises nothing but a HarnessError, which is then its finding."""

"""The options of a device behind SSH in farm.toml, and the entry point `ssh`.

This module is separate from the transport, so that reading a farm file loads no SSH library.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from harness.devices import options
from harness.errors import ConfigError
from harness.protocols import Transport, TransportPlugin
from harness.types import Device


@dataclass(frozen=True, slots=True, kw_only=True)
class SshOptions:
    """Files on this host; ssh_config, agents and jump hosts work as in OpenSSH (docs/ssh.md)."""

    identity: Path | None = None
    """The private key to offer."""
    known_hosts: Path | None = None
    """If set, the only file of host keys that is read and written for this device."""
    ssh_config: Path | None = None
    """Read instead of `~/.ssh/config`."""

    def __post_init__(self) -> None:
        """Refuse an empty path, which would be the current folder."""
        for key in ("identity", "known_hosts", "ssh_config"):
            path = getattr(self, key)
            if path is not None and str(path) in {"", "."}:
                raise ConfigError(f"{key}: must be a file, not an empty path; leave the key out")

    @classmethod
    def of(cls, device: Device) -> Self:
        """Return the options of a device; raises ConfigError for an invalid key or value."""
        return options.read(cls, device.transport_options, device.name)


def _open(device: Device) -> Transport:
    from harness.devices.transports.ssh.transport import open_ssh

    return open_ssh(device)


def _account(device: Device) -> str:
    from harness.devices.transports.ssh.settings import account

    return account(device)


SSH = TransportPlugin(open=_open, options=SshOptions, account=_account)

"""The options of a phone behind adb in farm.toml, and the entry point `adb`.

This module is separate from the transport, so that reading a farm file loads no adb library.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from harness import assets
from harness.devices import options
from harness.errors import ConfigError, HarnessError
from harness.protocols import Transport, TransportPlugin
from harness.types import Device

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 5037
WORKDIR = "/data/local/tmp/edge-harness"
"""Of all folders that the user `shell` may write to, the one that programs run from."""

_MAX_PORT = 65535
_PLACE = re.compile(r"(?:(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_.-]{1,253}):)?(\d{1,5})")
_NETWORK = re.compile(r"(\[[0-9A-Fa-f:.%\w]{2,64}\]|[A-Za-z0-9_.-]{1,253}):(\d{1,5})")
_SERIAL = re.compile(r"[!-~]{1,256}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdbOptions:
    """The adb server to use; it holds the connections to the phones."""

    adb_server: str | None = None
    """HOST:PORT, or the port on this machine; else what `adb` itself would use.

    A port of its own gives edge-harness a server that no other program restarts.
    """

    def __post_init__(self) -> None:
        """Refuse what is not HOST:PORT."""
        if self.adb_server is not None:
            place(self.adb_server, "adb_server")

    @classmethod
    def of(cls, device: Device) -> Self:
        """Return the options of a device; raises ConfigError for an invalid key or value."""
        return options.read(cls, device.transport_options, device.name)

    @property
    def server(self) -> tuple[str, int]:
        """Return the host and the port of the server; raises ConfigError."""
        if self.adb_server is not None:
            return place(self.adb_server, "adb_server")
        port = os.environ.get("ANDROID_ADB_SERVER_PORT")
        host = os.environ.get("ANDROID_ADB_SERVER_ADDRESS") or DEFAULT_HOST
        return place(f"{host}:{port or DEFAULT_PORT}", "ANDROID_ADB_SERVER_PORT")


def place(text: str, key: str) -> tuple[str, int]:
    """Parse HOST:PORT or PORT; raises ConfigError with the key."""
    match = _PLACE.fullmatch(text)
    if match is None or not 0 < int(match[2]) <= _MAX_PORT:
        raise ConfigError(
            f'{key}: "{text[:80]}" is not HOST:PORT; write "127.0.0.1:{DEFAULT_PORT}"'
        )
    return (match[1] or DEFAULT_HOST).strip("[]"), int(match[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class AdbAddress:
    """What follows `adb:` in an address."""

    serial: str
    """The serial as `adb devices` lists it; HOST:PORT for a phone in the network; empty for the
    only phone."""

    @classmethod
    def of(cls, device: Device) -> Self:
        """Parse a device's address; raises ConfigError."""
        scheme, _, rest = device.address.partition(":")
        if scheme != "adb" or (rest and _SERIAL.fullmatch(rest) is None) or rest.startswith("-"):
            raise ConfigError(
                f'{device.name}: address "{device.address}" is not adb:SERIAL, adb:HOST:PORT or adb: '
                "(the only phone); `adb devices` lists the serials"
            )
        made = cls(serial=rest)
        network = _NETWORK.fullmatch(rest)
        if network and not 0 < int(network[2]) <= _MAX_PORT:
            raise ConfigError(f'{device.name}: address "{device.address}": {network[2]} is no port')
        return made

    @property
    def is_network(self) -> bool:
        """Whether the phone is reached by HOST:PORT."""
        return _NETWORK.fullmatch(self.serial) is not None


def _open(device: Device) -> Transport:
    try:
        from harness.devices.transports.adb.transport import open_adb
    except ImportError as error:
        raise HarnessError(
            f"{device.name}: adb: addresses need a package that is not installed ({error}); "
            f"{assets.install_command('adb')} installs it"
        ) from error
    return open_adb(device)


def _dialect_options() -> Mapping[str, Any]:
    return {"workdir": WORKDIR}


ADB = TransportPlugin(
    open=_open,
    options=AdbOptions,
    dialect_options=_dialect_options,
    dialect="benchmark_model",
)

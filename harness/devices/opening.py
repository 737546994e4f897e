"""Find and open a device's transport and dialect, and check their options.

The scheme of the address names the transport. The farm entry names the dialect; if it does not, the
profile does, then the transport; otherwise it is DEFAULT_DIALECT.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from harness import plugins
from harness.addresses import without_password
from harness.devices import options
from harness.errors import ConfigError
from harness.protocols import Dialect, DialectPlugin, Transport, TransportPlugin
from harness.types import Device, Profile

TRANSPORTS = "harness.transports"
DIALECTS = "harness.dialects"
DEFAULT_DIALECT = "json_lines"
"""The Python agent of Linux boards."""

PLANNED_SCHEMES = ("serial", "qemu")
"""Schemes that farm files may already use, without a transport in this version."""


def scheme(device: Device) -> str:
    """Return the scheme of a device's address, which names its transport."""
    return device.address.partition(":")[0]


def has_transport(name: str) -> bool:
    """Return whether a transport exists for a scheme."""
    return name in plugins.names(TRANSPORTS)


def has_dialect(name: str) -> bool:
    """Return whether a dialect of this name exists."""
    return name in plugins.names(DIALECTS)


def transport_plugin(name: str) -> TransportPlugin:
    """Load the transport of a scheme; raises ConfigError with the known schemes."""
    found = plugins.load(TRANSPORTS, name)
    return found if isinstance(found, TransportPlugin) else TransportPlugin(open=found)


def dialect_plugin(name: str) -> DialectPlugin:
    """Load a dialect; raises ConfigError with the known names."""
    found = plugins.load(DIALECTS, name)
    return found if isinstance(found, DialectPlugin) else DialectPlugin(open=found)


def dialect_name(device: Device, profile: Profile | None = None) -> str:
    """Return the name of a device's dialect; raises ConfigError for a scheme without a transport.

    A device from a farm file already has its profile's dialect.
    """
    named = device.dialect or (profile.dialect if profile else None)
    return named or transport_plugin(scheme(device)).dialect or DEFAULT_DIALECT


def transport_options(device: Device) -> object | None:
    """Return the checked options of a device's transport; None if it takes none."""
    kind = transport_plugin(scheme(device)).options
    return kind and options.read(kind, device.transport_options, device.name)


def dialect_options(device: Device, profile: Profile | None = None) -> object | None:
    """Return the checked options of a device's dialect; None if it takes none."""
    kind = dialect_plugin(dialect_name(device, profile)).options
    return kind and options.read(kind, device.dialect_options, device.name)


def workdir(device: Device, profile: Profile | None = None) -> str | None:
    """Return the dialect's folder for files on the device; None if it keeps no files."""
    kind = dialect_plugin(dialect_name(device, profile)).options
    # A class may know a default of the device's own.
    of = getattr(kind, "of", None)
    found = getattr(of(device) if of else dialect_options(device, profile), "workdir", None)
    return None if found is None else str(found)


def check(device: Device, profile: Profile | None = None) -> None:
    """Raise ConfigError if this version has no transport or no dialect for the device."""
    name = scheme(device)
    if not has_transport(name):
        known = ", ".join(f"{one}:" for one in plugins.names(TRANSPORTS))
        planned = f"this version has no transport for {name}: yet" * (name in PLANNED_SCHEMES)
        reason = planned or plugins.unknown("scheme", name, plugins.names(TRANSPORTS))
        raise ConfigError(
            f'{device.name}: address "{without_password(device.address)}": {reason}; '
            f"addresses start with one of {known}"
        )
    dialect = dialect_name(device, profile)
    if not has_dialect(dialect):
        message = plugins.unknown("dialect", dialect, plugins.names(DIALECTS))
        raise ConfigError(f"{device.name}: {message}")


def open_transport(device: Device) -> Transport:
    """Connect to a device; raises ConfigError for an unknown scheme, and what the transport raises."""
    check(device)
    return transport_plugin(scheme(device)).open(device)


def open_dialect(transport: Transport, device: Device, profile: Profile | None = None) -> Dialect:
    """Make the device's dialect over an open transport; nothing is sent yet.

    Raises ConfigError for an unknown dialect, and Unsupported if the transport lacks an ability that
    the dialect needs.
    """
    return dialect_plugin(dialect_name(device, profile)).open(transport, device)


def with_options(device: Device, profile: Profile | None = None, /, **given: object) -> Device:
    """Return the device with these options, each in the table of its plug-in.

        with_options(device, identity="~/.ssh/id_ed25519", python="/usr/bin/python3.12")

    None removes an option. Raises ConfigError for an invalid value, and for an option that neither
    the device's transport nor its dialect has.
    """
    transport, dialect = split(device, given, profile)
    made = dataclasses.replace(
        device,
        transport_options=_changed(device.transport_options, transport),
        dialect_options=_changed(device.dialect_options, dialect),
    )
    transport_options(made)
    dialect_options(made, profile)
    return made


def _changed(table: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in {**table, **given}.items() if value is not None}


def split(
    device: Device, given: Mapping[str, Any], profile: Profile | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sort options into those of the device's transport and those of its dialect.

    Raises ConfigError with the known options for one that neither of them has.
    """
    ours = fields(transport_plugin(scheme(device)).options)
    theirs = fields(dialect_plugin(dialect_name(device, profile)).options)
    for key in given:
        if key not in ours and key not in theirs:
            raise ConfigError(f"{device.name}: {plugins.unknown('key', key, [*ours, *theirs])}")
    return (
        {key: value for key, value in given.items() if key in ours},
        {key: value for key, value in given.items() if key not in ours},
    )


def fields(kind: type | None) -> list[str]:
    """List the keys of an options dataclass."""
    return [] if kind is None else [one.name for one in dataclasses.fields(kind)]

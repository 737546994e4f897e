"""One [device.NAME] of a farm.toml: its keys, its address and the options of its plug-ins.

[device.bench-pi]
profile = "raspberry_pi_5"
address = "ssh://pi@10.0.0.7"
identity = "~/.ssh/id_ed25519"      # an option of the transport
[device.bench-pi.dialect_options]   # the same as a key above: python = "/usr/bin/python3.12"
python = "/usr/bin/python3.12"
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from harness import plugins
from harness.addresses import without_password
from harness.config import bounds, paths, toml_reading
from harness.devices import opening
from harness.errors import ConfigError
from harness.printable import clipped
from harness.types import Device, Profile

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):")
_STICK = re.compile(r"(usb|pci)(:\d{1,3})?")
_KEYS = tuple(one.name for one in dataclasses.fields(Device) if one.name != "name")


def device(
    key: str,
    table: object,
    path: Path,
    profiles: Mapping[str, Profile],
    profile_names: Sequence[str],
) -> Device:
    """Make the device of a [device.KEY]; raises ConfigError with file and key.

    If the scheme has no transport, the options are kept unchecked. The device is then refused only
    when it is used, and the rest of the farm works.
    """
    name, within = str(path), ("device", key)
    where = f"{name}: {bounds.path_text(within)}"
    check_name(key, where)
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where}: must be a table")
    if "name" in table:
        raise ConfigError(f'{where}: unknown key "name"; the name is written as [device.NAME]')
    options = _Options.of(table, profiles)
    options.refuse_unknown(table, where)
    _refuse_empty(table, where)
    common = {one: value for one, value in table.items() if one in _KEYS}
    made = toml_reading.check({**common, "name": key}, Device, name, within)
    if made.profile not in profile_names:
        raise ConfigError(
            f"{where}.profile: {plugins.unknown('profile', made.profile, profile_names)}; "
            "`edge-harness profiles` lists them, and a file in your profiles folder adds one"
        )
    _check_stick(made, f"{where}.delegate_options.edgetpu.device")
    check_address(made.address, f"{where}.address")
    if made.dialect is not None and not opening.has_dialect(made.dialect):
        message = plugins.unknown("dialect", made.dialect, plugins.names(opening.DIALECTS))
        raise ConfigError(f"{where}.dialect: {message}")
    made = dataclasses.replace(
        made,
        dialect=options.dialect,
        transport_options=options.of_transport.checked(table, path, key),
        dialect_options=options.of_dialect.checked(table, path, key),
    )
    return completed(made)


def completed(device: Device) -> Device:
    """Return a device with the default dialect options of its transport.

    A device without an installed transport is returned unchanged.
    """
    name = opening.scheme(device)
    if not opening.has_transport(name):
        return device
    given = opening.transport_plugin(name).dialect_options()
    dialect = opening.dialect_name(device)
    if not given or not opening.has_dialect(dialect):
        return device
    known = opening.fields(opening.dialect_plugin(dialect).options)
    usual = {key: value for key, value in given.items() if key in known}
    options = {**usual, **device.dialect_options}
    if name == "local" and "workdir" in options:
        options["workdir"] = str(Path(options["workdir"]).expanduser())
    return dataclasses.replace(device, dialect_options=options)


@dataclass(frozen=True, slots=True, kw_only=True)
class _PluginOptions:
    """The options of one plug-in and their keys in farm.toml."""

    table: str
    """The key of the table that has only these options: `transport_options`."""
    options: type | None
    known: bool = True
    """Whether the plug-in is installed; if not, its keys are not checked."""
    extra: tuple[str, ...] = ()
    """Other keys of the device's table that are its options if the plug-in is unknown."""

    @property
    def keys(self) -> list[str]:
        """The keys of the options."""
        return [*opening.fields(self.options), *self.extra]

    def checked(self, table: Mapping[str, Any], path: Path, key: str) -> dict[str, Any]:
        """Return the options of a device's table; raises ConfigError for invalid ones."""
        own = table.get(self.table, {})
        beside = {
            one: value for one, value in table.items() if one in self.keys and one not in _KEYS
        }
        for one in own:
            if one in beside:
                raise ConfigError(
                    f"{path}: device.{key}: {one} is given twice, here and in {self.table}"
                )
        given = {**beside, **own}
        if not self.known or not given:
            return given
        within = ("device", key, self.table) if own else ("device", key)
        for one in given:
            if one not in self.keys:
                message = plugins.unknown("key", one, self.keys)
                raise ConfigError(f"{path}: {bounds.path_text(within)}: {message}")
        assert self.options is not None
        made: object = toml_reading.check(given, self.options, str(path), within)
        return {one: _absolute(path, getattr(made, one), given[one]) for one in given}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """The options of the transport and the dialect of one device."""

    of_transport: _PluginOptions
    of_dialect: _PluginOptions
    dialect: str | None = None
    """The name of the dialect in the farm or the profile."""
    any_transport: tuple[str, ...] = field(default=())
    """The keys of all transports, if the table's address has no scheme."""

    @classmethod
    def of(cls, table: Mapping[str, Any], profiles: Mapping[str, Profile]) -> _Options:
        """Find the plug-ins that a table names; unknown names are reported later."""
        address, dialect = table.get("address"), table.get("dialect")
        match = _SCHEME.match(address) if isinstance(address, str) else None
        profile = profiles.get(str(table.get("profile")))
        if dialect is None and profile is not None:
            dialect = profile.dialect
        if not (dialect is None or isinstance(dialect, str)):
            dialect = None
        name = match.group(1) if match else ""
        has_transport = opening.has_transport(name)
        plugin = opening.transport_plugin(name) if has_transport else None
        dialect_name = dialect or (plugin and plugin.dialect) or opening.DEFAULT_DIALECT
        has_dialect = opening.has_dialect(dialect_name)
        dialect_options = opening.dialect_plugin(dialect_name).options if has_dialect else None
        dialect_keys = opening.fields(dialect_options)
        others = tuple(key for key in table if key not in _KEYS and key not in dialect_keys)
        return cls(
            of_transport=_PluginOptions(
                table="transport_options",
                options=plugin.options if plugin else None,
                known=has_transport,
                extra=() if has_transport or match is None else others,
            ),
            of_dialect=_PluginOptions(
                table="dialect_options",
                options=dialect_options,
                known=has_dialect,
                extra=() if has_dialect else others,
            ),
            dialect=dialect,
            any_transport=() if match else tuple(_every_transport_key()),
        )

    def refuse_unknown(self, table: Mapping[str, Any], where: str) -> None:
        """Raise ConfigError for a key that no part of the device has: entry, transport, dialect."""
        known = [*_KEYS, *self.of_transport.keys, *self.of_dialect.keys, *self.any_transport]
        for key in table:
            if key not in known:
                raise ConfigError(f"{where}: {plugins.unknown('key', key, known)}")


def _every_transport_key() -> Iterable[str]:
    for name in plugins.names(opening.TRANSPORTS):
        yield from opening.fields(opening.transport_plugin(name).options)


def check_address(uri: str, where: str) -> str:
    """Check the form of an address and return its scheme.

    It does not check if the scheme has a transport (harness.devices.opening.check does). Raises
    ConfigError that starts with `where`.
    """
    match = _SCHEME.match(uri)
    shown = without_password(uri)
    if match is None:
        hint = f' (did you mean "ssh://{shown}"?)' if "@" in uri or "." in uri else ""
        raise ConfigError(
            f'{where}: "{shown}" is not an address{hint}; write local:, ssh://user@host:port, '
            "adb:SERIAL or serial:/dev/ttyACM0?baud=115200"
        )
    scheme, rest = match.group(1), uri[match.end() :]
    if scheme == "local" and rest:
        raise ConfigError(f'{where}: "{shown}": nothing may follow "local:"')
    # "adb:" is the only phone.
    if scheme not in {"local", "adb"} and not rest.strip("/"):
        raise ConfigError(f'{where}: "{shown}": the device must follow "{scheme}:"')
    if scheme == "ssh":
        _check_ssh(uri, where)
    return scheme


def check_name(name: str, where: str) -> None:
    """Raise ConfigError if this is not a valid name of a device."""
    if _NAME.fullmatch(name) is None or len(name) > bounds.MAX_NAME:
        raise ConfigError(
            f'{where}: "{clipped(name)}" is not a name of a device; use at most '
            f'{bounds.MAX_NAME} letters, digits, "_", "-" and "."'
        )


def _refuse_empty(table: Mapping[str, Any], where: str) -> None:
    """Refuse an empty text anywhere in a device's table; an empty path would be the folder "."."""
    for key, value in table.items():
        place = f"{where}.{key}"
        if isinstance(value, Mapping):
            _refuse_empty(value, place)
        elif any(
            isinstance(one, str) and not one.strip()
            for one in (value if isinstance(value, list) else [value])
        ):
            raise ConfigError(f"{place}: must not be empty; leave the key out")


def _check_stick(device: Device, where: str) -> None:
    """Refuse an Edge TPU name that libedgetpu does not accept; libedgetpu gives no reason."""
    stick = device.delegate_options.get("edgetpu", {}).get("device")
    if stick is not None and _STICK.fullmatch(stick) is None:
        raise ConfigError(
            f'{where}: "{stick}" is not an Edge TPU; write usb:0, usb:1, pci:0, usb or pci'
        )


def _check_ssh(uri: str, where: str) -> None:
    form = "ssh://user@host:port"
    uri_shown = without_password(uri)
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        # The message of urlsplit can include a part of a password with a slash or a colon.
        raise ConfigError(
            f'{where}: not of the form {form} (port 1 to 65535): "{uri_shown}"'
        ) from None
    if parts.password is not None:
        raise ConfigError(
            f"{where}: no password in an address ({form}); set identity to a key file"
        )
    if not uri.startswith("ssh://") or not parts.hostname:
        raise ConfigError(f'{where}: "{uri_shown}": a host must follow "ssh://", as in {form}')
    if port == 0:
        raise ConfigError(f'{where}: "{uri_shown}": the port must be 1 to 65535, as in {form}')
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ConfigError(f'{where}: "{uri_shown}": nothing may follow the port in {form}')


def _absolute(path: Path, value: object, written: Any) -> Any:  # noqa: ANN401 - TOML
    """Make a path of this host absolute: relative to farm.toml, with `~` as the user's home."""
    if isinstance(value, Path):
        return str(path.resolve().parent / paths.expanded(value, f"{path}"))
    return written

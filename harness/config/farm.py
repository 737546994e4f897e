"""farm.toml: the user's devices, and how a plan or a command line names them.

Found in this order: the file given, `farm.toml` beside the plan, the one in the user's
configuration folder. `this-machine` exists without any file.
"""

from __future__ import annotations

import dataclasses
import platform
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from harness import assets, plugins
from harness.addresses import without_password
from harness.config import profiles, toml_door
from harness.errors import ConfigError
from harness.types import Device

THIS_MACHINE = "this-machine"
FILE_NAME = "farm.toml"
UNKNOWN_PROFILE = "unknown"
"""The profile of a device that was named by its address alone and not asked yet."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):")
_ANY = re.compile(r"any:(\d+) +of +(.+)")
_STICK = re.compile(r"(usb|pci)(:\d{1,3})?")
_MACHINES = {"arm64": "aarch64", "AMD64": "x86_64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Farm:
    """The devices there are to choose from."""

    devices: Mapping[str, Device]
    """By name, in the order of the file."""
    path: Path | None = None
    """The file they are from; None where there was none."""

    @property
    def name(self) -> str:
        """What errors call this farm."""
        return str(self.path) if self.path else f"(no {FILE_NAME} found)"


def load(explicit: Path | None = None, beside: Path | None = None) -> Farm:
    """Read the farm that applies.

    Args:
        explicit: the file given on the command line; it must exist.
        beside: the plan, or a folder; a `farm.toml` beside it is taken.

    Raises:
        ConfigError: file, key, what is known or allowed there.
    """
    path = explicit if explicit is not None else _find(beside)
    if path is None:
        return Farm(devices={THIS_MACHINE: this_machine()})
    return from_mapping(toml_door.read(path), path)


def from_mapping(mapping: Mapping[str, Any], path: Path) -> Farm:
    """Make the farm of a farm.toml as tomllib gives it; identities are relative to `path`."""
    name = str(path)
    for key in mapping:
        if key != "device":
            raise ConfigError(f"{name}: {plugins.unknown('key', key, ['device'])}")
    tables = mapping.get("device", {})
    if not isinstance(tables, Mapping):
        raise ConfigError(f"{name}: device: must be tables [device.NAME]")
    known = [*profiles.load_all(), UNKNOWN_PROFILE]
    devices = {key: _device(key, table, path, known) for key, table in tables.items()}
    devices.setdefault(THIS_MACHINE, this_machine())
    return Farm(devices=devices, path=path)


def with_device(farm: Farm, device: Device) -> Farm:
    """Return the farm with one device more, or with another one of that name."""
    return dataclasses.replace(farm, devices={**farm.devices, device.name: device})


def default_file() -> Path:
    """Return the user's own farm.toml, which may not exist yet."""
    return assets.config_folder() / FILE_NAME


def this_machine() -> Device:
    """Return the machine we run on, as a device."""
    machine = platform.machine()
    profile = f"linux_{_MACHINES.get(machine, machine)}"
    return Device(
        name=THIS_MACHINE,
        profile=profile,
        address="local:",
        workdir=str(_local_workdir()),
        python=sys.executable,
    )


def from_uri(uri: str, name: str | None = None) -> Device:
    """Make a device of an address alone, as `--on URI` gives it.

    Its profile is that of this host for `local:`, else UNKNOWN_PROFILE: the device was not asked
    yet. The name is the host (and an unusual port), or what follows the scheme.
    """
    scheme = check_address(uri, "address")
    if scheme == "local":
        return dataclasses.replace(this_machine(), name=name or THIS_MACHINE)
    if name is None:
        parts = urlsplit(uri)
        default = {None: "", 22: ""}
        port = default.get(parts.port, f"-{parts.port}") if parts.netloc else ""
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", parts.hostname or parts.path).strip("-.") + port
    _check_name(name, "name")
    return Device(name=name, profile=UNKNOWN_PROFILE, address=uri)


def check_address(uri: str, where: str) -> str:
    """Check the form of an address and return its scheme.

    Whether there is a transport for the scheme is found out when it is opened. Raises
    ConfigError with `where` in front.
    """
    match = _SCHEME.match(uri)
    shown = without_password(uri)
    if match is None:
        hint = f' (did you mean "ssh://{shown}"?)' if "@" in uri or "." in uri else ""
        raise ConfigError(
            f'{where}: "{shown}" is no address{hint}; write local:, ssh://user@host:port, '
            "adb:SERIAL or serial:/dev/ttyACM0?baud=115200"
        )
    scheme, rest = match.group(1), uri[match.end() :]
    if scheme == "local" and rest:
        raise ConfigError(f'{where}: "{shown}": nothing may follow "local:"')
    if scheme != "local" and not rest.strip("/"):
        raise ConfigError(f'{where}: "{shown}": who is meant must follow "{scheme}:"')
    if scheme == "ssh":
        _check_ssh(uri, where)
    return scheme


def select(farm: Farm, selectors: Iterable[str], busy: Collection[str] = ()) -> list[Device]:
    """Return the devices that selectors name, each once, in the order of the selectors.

    A selector is a name, `profile:P`, `tag:T`, or `any:N of SELECTOR`, which takes N of them,
    those not in `busy` (names) first. Raises ConfigError for one that matches nothing.
    """
    chosen: dict[str, Device] = {}
    for selector in selectors:
        for device in _matching(farm, selector, busy):
            chosen.setdefault(device.name, device)
    return list(chosen.values())


def matching(devices: Sequence[Device], selectors: Iterable[str]) -> list[Device]:
    """Return those of `devices` that any selector names, in the order of `devices`.

    Unlike `select`, a selector that matches none is no error: `devices` were chosen before.
    """
    names: set[str] = set()
    for selector in selectors:
        count, inner = _any(selector)
        names.update(device.name for device in _named(devices, inner)[:count])
    return [device for device in devices if device.name in names]


def _matching(farm: Farm, selector: str, busy: Collection[str]) -> list[Device]:
    count, inner = _any(selector)
    found = _named(farm.devices.values(), inner)
    if not found:
        unknown = plugins.unknown("device", inner, _selectors(farm.devices.values()))
        hint = f"; an address is written ssh://{inner}" if "@" in inner else ""
        raise ConfigError(f"{farm.name}: {unknown}{hint}")
    if count is None:
        return found
    if len(found) < count:
        names = ", ".join(device.name for device in found)
        raise ConfigError(f'{farm.name}: "{selector}": only {len(found)} there: {names}')
    return sorted(found, key=lambda device: device.name in busy)[:count]


def _any(selector: str) -> tuple[int | None, str]:
    """Split `any:N of SELECTOR`; N is None for a plain selector."""
    if not selector.startswith("any:"):
        return None, selector
    match = _ANY.fullmatch(selector)
    if match is None or int(match.group(1)) < 1 or match.group(2).startswith("any:"):
        raise ConfigError(
            f'devices: "{selector}" is no selector; write any:2 of profile:raspberry_pi_5'
        )
    return int(match.group(1)), match.group(2)


def _named(devices: Collection[Device], selector: str) -> list[Device]:
    sort, _, word = selector.partition(":")
    if sort == "profile":
        return [device for device in devices if device.profile == word]
    if sort == "tag":
        return [device for device in devices if word in device.tags]
    return [device for device in devices if device.name == selector]


def _selectors(devices: Collection[Device]) -> list[str]:
    known = {device.name for device in devices}
    known.update(f"profile:{device.profile}" for device in devices)
    known.update(f"tag:{tag}" for device in devices for tag in device.tags)
    return sorted(known)


def _device(key: str, table: object, path: Path, known: Sequence[str]) -> Device:
    """Make one [device.KEY]."""
    name, within = str(path), ("device", key)
    where = f"{name}: {toml_door.path_text(within)}"
    _check_name(key, where)
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where}: must be a table")
    if "name" in table:
        raise ConfigError(f'{where}: unknown key "name"; the name stands in [device.NAME]')
    device = toml_door.check({**table, "name": key}, Device, name, within)
    if device.profile not in known:
        raise ConfigError(
            f"{where}.profile: {plugins.unknown('profile', device.profile, known)}; "
            "`edge-harness profiles` lists them, and a file in your profiles folder adds one"
        )
    for field in ("workdir", "python"):
        _check_path(getattr(device, field), f"{where}.{field}")
    _check_stick(device, f"{where}.delegate_options.edgetpu.device")
    scheme = check_address(device.address, f"{where}.address")
    changes: dict[str, Any] = {
        field: _beside(path, value)
        for field in ("identity", "known_hosts", "ssh_config")
        if (value := getattr(device, field)) is not None
    }
    if scheme == "local":
        own = table.get("workdir")
        changes["workdir"] = str(_local_workdir() if own is None else Path(own).expanduser())
        # The runtime is where we are installed, not with whatever python3 is first on PATH.
        changes["python"] = table.get("python", sys.executable)
    return dataclasses.replace(device, **changes)


def _check_name(name: str, where: str) -> None:
    if _NAME.fullmatch(name) is None:
        raise ConfigError(
            f'{where}: "{name}" is no name for a device; letters, digits, "_", "-" and "." are'
        )


def _check_stick(device: Device, where: str) -> None:
    """Refuse what libedgetpu would not find a stick by, which it says without a reason."""
    word = device.delegate_options.get("edgetpu", {}).get("device")
    if word is not None and _STICK.fullmatch(word) is None:
        raise ConfigError(
            f'{where}: "{word}" is no Edge TPU; write usb:0, usb:1, pci:0, usb or pci'
        )


def _check_path(path: str, where: str) -> None:
    """Refuse what no path on a device can be, or what a command there would take for an option."""
    if not path or "\0" in path or path.startswith("-"):
        raise ConfigError(f"{where}: {path!r} is no path; write one such as /var/tmp/edge-harness")


def _check_ssh(uri: str, where: str) -> None:
    form = "ssh://user@host:port"
    uri_shown = without_password(uri)
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        # What urlsplit says may hold a piece of a password with a slash or a colon in it.
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


def _beside(path: Path, value: str) -> str:
    """Make a path of farm.toml absolute: `~` is the user's home, else it is beside the file."""
    return str(path.resolve().parent / Path(value).expanduser())


def _local_workdir() -> Path:
    return assets.cache_folder() / "device"


def _find(beside: Path | None) -> Path | None:
    candidates = [default_file()]
    if beside is not None:
        folder = beside if beside.is_dir() else beside.parent
        candidates.insert(0, folder / FILE_NAME)
    return next((path for path in candidates if path.is_file()), None)

"""farm.toml: the user's devices, and the selectors of plans and command lines.

Every command searches in the same order: the given file, `farm.toml` beside the plan, in the current
folder, in the user's configuration folder. The first one that has a device is the farm, and the
others do not count. `this-machine` exists without any file.
"""

from __future__ import annotations

import dataclasses
import platform
import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from harness import assets, plugins
from harness.config import entries, paths, profiles, toml_reading
from harness.errors import ConfigError
from harness.printable import clipped, file_name
from harness.types import UNKNOWN_PROFILE, Device

THIS_MACHINE = "this-machine"
FILE_NAME = "farm.toml"

_ANY = re.compile(r"any:(\d{1,6}) +of +(.+)")
_MACHINES = {"arm64": "aarch64", "AMD64": "x86_64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Farm:
    """The user's devices."""

    devices: Mapping[str, Device]
    """By name, in the order of the file."""
    path: Path | None = None
    """The file; None if there is none."""
    searched: tuple[Path, ...] = ()
    """The files that were looked for, in order; empty if the file was given."""

    @property
    def name(self) -> str:
        """The farm's name in sentences: its file, or where no file was found."""
        if self.path is not None:
            return str(self.path)
        looked = f", looked for {' and '.join(map(str, self.searched))}" if self.searched else ""
        return f"(no {FILE_NAME} found{looked})"

    def error(self, fault: str) -> ConfigError:
        """Return the error of a fault in it: after the file's name, or before where none was found."""
        if self.path is not None:
            return ConfigError(f"{self.path}: {fault}")
        return ConfigError(f"{fault} {self.name}")


def load(explicit: Path | None = None, beside: Path | None = None) -> Farm:
    """Find and read the farm file.

    Args:
        explicit: the file given on the command line; it must exist.
        beside: the plan or a folder; a `farm.toml` beside it is used.

    Raises:
        ConfigError: with the file, the key, and the known keys or allowed values.
    """
    if explicit is not None:
        return from_mapping(toml_reading.read(explicit), explicit)
    searched = candidates(beside)
    path, mapping = _find(searched)
    if path is None:
        return Farm(devices={THIS_MACHINE: this_machine()}, searched=searched)
    return dataclasses.replace(from_mapping(mapping, path), searched=searched)


def candidates(beside: Path | None = None) -> tuple[Path, ...]:
    """Return the farm files to look for without `--farm`, in order; see :func:`load`."""
    places = [Path.cwd() / FILE_NAME, default_file()]
    if beside is not None:
        folder = beside if beside.is_dir() else beside.parent
        places.insert(0, folder / FILE_NAME)
    first: dict[Path, Path] = {}
    for path in places:
        first.setdefault(path.resolve(), path)
    return tuple(first.values())


def file_to_write() -> Path:
    """Return the farm file that commands without a plan read; the user's own if there is none yet."""
    return _find(candidates())[0] or default_file()


def _find(searched: Iterable[Path]) -> tuple[Path | None, Mapping[str, Any]]:
    """Return the first file that is not empty, as the one of `init` is, else the first, parsed."""
    empty: Path | None = None
    for path in searched:
        if path.is_file():
            if mapping := toml_reading.read(path):
                return path, mapping
            empty = empty or path
    return empty, {}


def from_mapping(mapping: Mapping[str, Any], path: Path) -> Farm:
    """Make the farm from a parsed farm.toml; identity files are relative to `path`."""
    name = file_name(path)
    paths.check_name(path.resolve(), name)
    for key in mapping:
        if key != "device":
            raise ConfigError(f"{name}: {plugins.unknown('key', key, ['device'])}")
    tables = mapping.get("device", {})
    if not isinstance(tables, Mapping):
        raise ConfigError(f"{name}: device: must be tables [device.NAME]")
    known = profiles.load_all()
    devices = {
        key: entries.device(key, table, path, known, [*known, UNKNOWN_PROFILE])
        for key, table in tables.items()
    }
    devices.setdefault(THIS_MACHINE, this_machine())
    return Farm(devices=devices, path=path)


def with_device(farm: Farm, device: Device) -> Farm:
    """Return the farm with a device added or replaced."""
    return dataclasses.replace(farm, devices={**farm.devices, device.name: device})


def default_file() -> Path:
    """Return the path of the user's own farm.toml, which may not exist yet."""
    return assets.config_folder() / FILE_NAME


def this_machine() -> Device:
    """Return this machine as a device."""
    machine = platform.machine()
    profile = f"linux_{_MACHINES.get(machine, machine)}"
    return entries.completed(Device(name=THIS_MACHINE, profile=profile, address="local:"))


def from_uri(uri: str, name: str | None = None) -> Device:
    """Make a device from an address, as in `--on URI`.

    Its profile is that of this host for `local:`, else UNKNOWN_PROFILE, since the device has not
    been contacted yet. The name is the host (and a port other than 22), or the text after the
    scheme; `phone` for `adb:`.
    """
    scheme = entries.check_address(uri, "address")
    if scheme == "local":
        return dataclasses.replace(this_machine(), name=name or THIS_MACHINE)
    if name is None:
        parts = urlsplit(uri)
        default = {None: "", 22: ""}
        port = default.get(parts.port, f"-{parts.port}") if parts.netloc else ""
        text = parts.hostname or parts.path or ("phone" if scheme == "adb" else "")
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.") + port
    entries.check_name(name, "name")
    return entries.completed(Device(name=name, profile=UNKNOWN_PROFILE, address=uri))


def with_addresses(farm: Farm, selectors: Iterable[str]) -> tuple[Farm, list[str]]:
    """Add the devices that are selected by their address; return the farm and all selectors.

    An address that an entry of the farm has selects that entry, with its options.
    """
    known, names = farm, []
    for selector in selectors:
        if ":" not in selector or selector.startswith(("profile:", "tag:", "any:")):
            names.append(selector)
            continue
        entry = next((one for one in farm.devices.values() if one.address == selector), None)
        device = entry or from_uri(selector)
        known = with_device(known, device)
        names.append(device.name)
    return known, names


def select(farm: Farm, selectors: Iterable[str], busy: Collection[str] = ()) -> list[Device]:
    """Return the devices that selectors match, each once, in the order of the selectors.

    A selector is a name, `profile:P`, `tag:T`, or `any:N of SELECTOR`, which takes N matches,
    first those whose names are not in `busy`. Raises ConfigError for a selector without a match.
    """
    chosen: dict[str, Device] = {}
    for selector in selectors:
        for device in _matching(farm, selector, busy):
            chosen.setdefault(device.name, device)
    return list(chosen.values())


def select_one(farm: Farm, selector: str, command: str) -> Device:
    """Return the device for a command that takes a single one; raises ConfigError for several."""
    chosen = select(farm, [selector])
    if len(chosen) != 1:
        names = ", ".join(device.name for device in chosen)
        raise ConfigError(f"{command} takes one device at a time; {selector} selects {names}")
    return chosen[0]


def matching(devices: Sequence[Device], selectors: Iterable[str]) -> list[Device]:
    """Return the `devices` that any selector matches, in the order of `devices`.

    Unlike `select`, a selector without a match is not an error: `devices` were chosen before.
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
        raise farm.error(f"{unknown}{_elsewhere(farm, inner)}")
    if count is None:
        return found
    if len(found) < count:
        names = ", ".join(device.name for device in found)
        raise farm.error(f'"{selector}": only {len(found)} match: {names}')
    return sorted(found, key=lambda device: device.name in busy)[:count]


def _any(selector: str) -> tuple[int | None, str]:
    """Split `any:N of SELECTOR`; N is None for a plain selector."""
    if not selector.startswith("any:"):
        return None, selector
    match = _ANY.fullmatch(selector)
    if match is None or int(match.group(1)) < 1 or match.group(2).startswith("any:"):
        raise ConfigError(
            f'devices: "{clipped(selector)}" is not a selector; write any:2 of profile:raspberry_pi_5'
        )
    return int(match.group(1)), match.group(2)


def _named(devices: Collection[Device], selector: str) -> list[Device]:
    sort, _, value = selector.partition(":")
    if sort == "profile":
        return [device for device in devices if device.profile == value]
    if sort == "tag":
        return [device for device in devices if value in device.tags]
    return [device for device in devices if device.name == selector]


def _selectors(devices: Collection[Device]) -> list[str]:
    known = {device.name for device in devices}
    known.update(f"profile:{device.profile}" for device in devices)
    known.update(f"tag:{tag}" for device in devices for tag in device.tags)
    return sorted(known)


def _elsewhere(farm: Farm, name: str) -> str:
    """Return a hint for an unknown device: it is an address, or another farm file has it."""
    if "@" in name:
        uri = shlex.quote(f"ssh://{name}")
        return f"; an address is written {uri}, and `edge-harness add {uri}` adds it to the farm"
    for path in farm.searched:
        if path == farm.path or not path.is_file():
            continue
        try:
            devices = toml_reading.read(path).get("device", {})
        except ConfigError:
            continue
        if isinstance(devices, Mapping) and name in devices:
            return (
                f"; {path} has it, but {farm.path} comes first: use --farm {shlex.quote(str(path))}"
            )
    return ""

"""First contact: verify the host key, choose the device's profile, write the farm entry.

The functions are the steps of `edge-harness add`; none of them keeps a connection.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from harness import assets
from harness.config import farm as farms
from harness.errors import ConfigError, HostKeyUnknown
from harness.farm import toml_text
from harness.types import Accelerator, CoreGroup, Detect, Device, DeviceFacts, Profile

Trust = Callable[[str, str, str], bool]
"""Decide about an unknown host key: host, key type, fingerprint. True trusts it from now on."""

_SOURCE = "the device's own answer at first contact"
_BITS_32 = 32
_UNKNOWN = "unknown"
_MAX_SLUG_LENGTH = 60
_ARCHS_32 = {"aarch64": "armv7l", "x86_64": "i686"}
_HAS_XNNPACK = frozenset({"x86_64", "aarch64"})


def settle_host_key(device: Device, trust: Trust) -> None:
    """Call `trust` for every unknown host key of an SSH device and its jump hosts.

    A key that `trust` accepts is added to the device's file of known hosts. Raises HostKeyUnknown
    if `trust` rejects a key, and, without calling `trust`, if a known key has changed.
    """
    from harness.devices.transports.ssh import connect, keys

    while not (shown := connect.host_key(device)).known:
        if not trust(shown.host, keys.short_type(shown.type), shown.fingerprint):
            what = "jump host" if shown.jump else "host"
            raise HostKeyUnknown(
                f"{shown.host}: the {what} key {shown.label} was not trusted; compare it with "
                "`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the device, then "
                f"`{_add_command(device, shown.fingerprint)}`"
            )
        keys.trust(device, shown)


def settle_key(device: Device, trust: Trust | None) -> None:
    """Accept or refuse an unknown SSH host key with `trust`; do nothing if `trust` is None."""
    if trust is not None and device.address.startswith("ssh:"):
        settle_host_key(device, trust)


def _add_command(device: Device, fingerprint: str) -> str:
    """Return the command that adds this device and trusts this key without a question."""
    argv = ["edge-harness", "add", device.address]
    if device.name != farms.from_uri(device.address).name:
        argv += ["--name", device.name]
    identity = device.transport_options.get("identity")
    if identity:
        argv += ["--identity", str(identity)]
    return shlex.join([*argv, "--yes-key", fingerprint])


def survey(facts: DeviceFacts, profiles: Mapping[str, Profile]) -> str | None:
    """Choose the profile whose `detect` matches a device best; None if none matches.

    All given keys of a `detect` must match. A USB accelerator ranks above the board, and the board
    (longer names first) above the machine name.
    """
    best: tuple[tuple[bool, int, bool], str] | None = None
    for name, profile in profiles.items():
        rank = _fit(facts, profile.detect)
        if rank is not None and (best is None or rank > best[0]):
            best = (rank, name)
    return best[1] if best else None


def _fit(facts: DeviceFacts, detect: Detect) -> tuple[bool, int, bool] | None:
    """Return the rank of a `detect` that matches a device; None if it does not match."""
    if not (detect.machine or detect.model or detect.usb):
        return None
    if detect.machine and not {facts.machine, _arch(facts)} & set(detect.machine):
        return None
    board = facts.board or ""
    named = [len(model) for model in detect.model if model in board]
    if detect.model and not named:
        return None
    if detect.usb and not any(one in detect.usb for one in facts.usb):
        return None
    return bool(detect.usb), max(named, default=0), bool(detect.machine)


def new_profile(facts: DeviceFacts) -> Profile:
    """Make a profile for a device that no known profile matches, from the facts that it reports.

    The profile has `verified = "none"`. It matches the board by its name, or by its machine name if
    the board has no name.
    """
    system, machine = facts.system or _UNKNOWN, facts.machine or _UNKNOWN
    cores = (CoreGroup(count=facts.cores, name=facts.chip or machine),) if facts.cores else ()
    arch = _arch(facts)
    accelerators = tuple(
        Accelerator(name=name, target="edgetpu", external_delegate="libedgetpu.so.1")
        for name in facts.accelerators
        if name in {"edgetpu-pcie", "edgetpu-usb"}
    )
    known = {
        "chip": facts.chip,
        "cores": cores,
        "memory_mb": (round(facts.memory_total_bytes / 1e6),) if facts.memory_total_bytes else (),
        "runtimes": tuple(dict.fromkeys(runtime.name for runtime in facts.runtimes)),
        "accelerators": accelerators,
        "sensors": facts.sensors,
    }
    given = {field: item for field, item in known.items() if item}
    return Profile(
        name=_slug(facts.board or f"{system}_{machine}"),
        title=facts.board or f"{system} on {machine}",
        arch=arch,
        targets=(
            "xnnpack",
            *(["edgetpu"] if accelerators else []),
            *(["gpu"] if "vulkan-library" in facts.accelerators else []),
        ),
        xnnpack=arch in _HAS_XNNPACK,
        detect=Detect(
            machine=(facts.machine,) if facts.machine else (),
            model=(facts.board,) if facts.board else (),
        ),
        verified="none",
        sources=dict.fromkeys(given, _SOURCE),
        notes="Written by `edge-harness add`; correct what the device could not detect.",
        **given,  # type: ignore[arg-type]  # each value is of its field's type
    )


def write_profile(folder: Path, profile: Profile) -> Path:
    """Write a profile into the user's folder of profiles and return its file.

    Raises ConfigError if the folder cannot be written, or if a profile of that name exists, shipped
    or in the folder: its `detect` does not match this device.
    """
    path = folder / f"{profile.name}.toml"
    if (assets.profiles() / path.name).exists():
        raise ConfigError(
            f"{path}: it would replace the shipped profile {profile.name}, whose [detect] does not "
            "match the device; write a profile with another name, and the farm entry, by hand"
        )
    if path.exists():
        raise ConfigError(
            f"{path}: it exists, but its [detect] does not match this device "
            f"({toml_text.value(_plain(profile.detect))}); correct it or move it away"
        )
    lines = [
        f"{toml_text.key(name)} = {toml_text.value(item)}"
        for name, item in _plain(profile).items()
        if name != "name"
    ]
    toml_text.write_whole(path, "\n".join(lines) + "\n")
    return path


def write_device(farm: Path, device: Device) -> None:
    """Write a device as a table of farm.toml; the rest of the file does not change.

    If the file has the device already, its keys are updated and other keys (tags, meter) stay.
    Raises ConfigError if the file is not TOML, cannot be written, changes meanwhile, or has the
    device in a form that cannot be edited.
    """
    header = ("device", device.name)
    entries, in_tables = _split_entries(_entries(device), toml_text.table(farm, header))
    toml_text.update_table(farm, header, entries)
    for name, inside in in_tables.items():
        toml_text.update_table(farm, (*header, name), inside)


def _entries(device: Device) -> dict[str, Any]:
    """Return the keys of the device's entry in farm.toml."""
    plain = {name: item for name, item in _plain(device).items() if name != "name"}
    transport, dialect = plain.pop("transport_options", {}), plain.pop("dialect_options", {})
    if device.address == "local:":
        # Every load of the farm adds these options; copies in the file would become stale.
        usual = farms.this_machine().dialect_options
        dialect = {key: item for key, item in dialect.items() if item != usual.get(key)}
    return {**plain, **transport, **dialect}


def _split_entries(
    entries: Mapping[str, Any], known: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Split entries into keys of the device and keys that the file has in a table of options."""
    beside, in_tables = dict(entries), dict[str, dict[str, Any]]()
    for name in ("transport_options", "dialect_options"):
        for key in known.get(name, {}):
            if key in beside:
                in_tables.setdefault(name, {})[key] = beside.pop(key)
    return beside, in_tables


def _plain(noun: Any) -> dict[str, Any]:  # noqa: ANN401 - any noun of harness.types
    """Return a noun as a TOML table, without fields that have their default value."""
    table: dict[str, Any] = {}
    for field in fields(noun):
        item = getattr(noun, field.name)
        usual = field.default if field.default_factory is MISSING else field.default_factory()
        if item is None or (usual is not MISSING and item == usual and field.name != "verified"):
            continue
        table[field.name] = _wire(item)
    return table


def _wire(item: Any) -> Any:  # noqa: ANN401 - a noun, a collection or a plain value
    if hasattr(item, "__dataclass_fields__"):
        return _plain(item)
    if isinstance(item, Mapping):
        return {name: _wire(one) for name, one in item.items()}
    if isinstance(item, (list, tuple)):
        return [_wire(one) for one in item]
    return item


def _arch(facts: DeviceFacts) -> str:
    """Return the architecture of the device's Python, which decides which wheels fit."""
    machine = facts.machine or _UNKNOWN
    return _ARCHS_32.get(machine, machine) if facts.python_bits == _BITS_32 else machine


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower())[:_MAX_SLUG_LENGTH].strip("_") or "device"

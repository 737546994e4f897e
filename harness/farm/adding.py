"""Add a device to the farm: connect once, choose or write its profile, write its entry, check it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness import assets
from harness.config import farm as farms
from harness.config import profiles as known_profiles
from harness.devices import abilities, opening
from harness.devices.by_shell import android
from harness.devices.transports.adb.options import WORKDIR
from harness.errors import ConfigError
from harness.farm import contact, doctor
from harness.farm.checks import CheckResult
from harness.farm.contact import Trust
from harness.measure import sessions
from harness.measure.leases import Patience
from harness.printable import counted
from harness.types import Device, DeviceFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedDevice:
    """A device that was added: its farm entry, facts and checks, and the written files."""

    device: Device
    farm: Path
    profile_file: Path | None
    facts: Mapping[str, Any]
    checks: list[CheckResult]

    def text(self) -> str:
        """Return the text that `add` prints: the facts and the written files."""
        facts = self.facts
        runtimes = ", ".join(f"{r['name']} {r['version']}" for r in facts["runtimes"]) or "none"
        made = f" (written to {self.profile_file})" if self.profile_file else ""
        unknown = "unknown"
        named = facts["board"] or facts["chip"] or facts["machine"] or facts["hostname"]
        python = f"Python {facts['python']}" if facts["python"] else "no Python"
        cores = counted(facts["cores"], "core") if facts["cores"] else "unknown cores"
        lines = (
            f"{self.device.name}: {named or self.device.name}",
            f"  {cores} {facts['machine'] or unknown}, "
            f"{facts['libc']}, {facts['system'] or unknown} {facts['kernel'] or ''}".rstrip(),
            f"  {python}, runtimes: {runtimes}",
            f"  accelerators: {', '.join(facts['accelerators']) or 'none seen'}",
            f"  sensors: {', '.join(facts['sensors']) or 'none seen'}",
            f"  profile {self.device.profile}{made}",
            f"wrote [device.{self.device.name}] to {self.farm}",
        )
        return "\n".join(lines)

    def plain(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {
            "device": asdict(self.device),
            "farm": str(self.farm),
            "profile_file": str(self.profile_file) if self.profile_file else None,
            "facts": dict(self.facts),
            "checks": [check.plain() for check in self.checks],
        }


def add(
    uri: str,
    *,
    name: str | None = None,
    identity: str | None = None,
    python: str | None = None,
    farm: Path | None = None,
    trust: Trust | None = None,
    patience: Patience | None = None,
) -> AddedDevice:
    """Add a device: check its host key, detect its facts, write the farm entry, run the checks.

    The entry is written to `farm`, else to the farm file that a command without a plan reads, else
    to the user's. `patience` is for a device whose lease another user holds. Raises HostKeyUnknown
    if the key is not trusted, ConfigError for an invalid address.
    """
    farm_file = farm or farms.file_to_write()
    device = _entry(farms.from_uri(uri, name), farm_file)
    opening.check(device)
    given = {"identity": str(Path(identity).expanduser().resolve()) if identity else None}
    given["python"] = python
    if python and opening.scheme(device) == "adb":
        # What measures on a phone without this option needs no Python there.
        device = replace(device, dialect=opening.DEFAULT_DIALECT)
    device = opening.with_options(device, **{key: one for key, one in given.items() if one})
    contact.settle_key(device, trust)
    facts = _facts(device, patience)
    profile, profile_file = _profile(facts)
    device = replace(device, profile=profile)
    contact.write_device(farm_file, device)
    return AddedDevice(
        device=device,
        farm=farm_file,
        profile_file=profile_file,
        facts=asdict(facts),
        checks=doctor.examine_entry(device, farm_file, is_farm_named=farm is not None),
    )


def _facts(device: Device, patience: Patience | None) -> DeviceFacts:
    if opening.scheme(device) == "adb" and device.dialect is None:
        return _phone_facts(device)
    live = sessions.Session(device, patience=patience)
    try:
        return live.facts
    finally:
        live.close()


def _phone_facts(device: Device) -> DeviceFacts:
    """Ask a phone by its shell alone: before `setup` it has nothing that could answer."""
    transport = opening.open_transport(device)
    try:
        commands = abilities.commands(transport, device, "adding it")
        workdir = opening.workdir(device) or WORKDIR
        return android.survey(commands, device.name, workdir).facts()
    finally:
        transport.close()


def _profile(facts: DeviceFacts) -> tuple[str, Path | None]:
    """Return the name of the profile that fits, and the file if a new one was written."""
    known = known_profiles.load_all()
    if facts.libc == android.LIBC:
        # Only the model distinguishes a phone from a board with the same kind of processor.
        known = {name: one for name, one in known.items() if one.detect.model}
    chosen = contact.survey(facts, known)
    if chosen is not None:
        return chosen, None
    made = contact.new_profile(facts)
    return made.name, contact.write_profile(assets.config_folder() / "profiles", made)


def _entry(device: Device, farm: Path) -> Device:
    """Return the farm's entry of a device that is added again, so that its other keys are kept."""
    try:
        known = farms.load(farm).devices.get(device.name)
    except ConfigError:
        return device
    return known if known and known.address == device.address else device

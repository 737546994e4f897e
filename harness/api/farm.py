"""Devices of the farm: list, check, set up, clean and add them; list the known profiles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import assets
from harness.config import profiles as known_profiles
from harness.devices import abilities, opening
from harness.errors import AgentError, ConfigError, HarnessError, LeaseError, TransferFailed

if TYPE_CHECKING:
    from harness.config import farm as farms
    from harness.farm import contact
    from harness.farm.checks import CheckResult
    from harness.farm.setup import Installation, OnProgress
    from harness.measure import sessions
    from harness.measure.leases import Patience
    from harness.protocols import Commands, Transport
    from harness.types import Device

EMBEDDED_MODEL = assets.EMBEDDED_MODEL


def devices(
    names: Sequence[str] = (), *, farm: farms.Farm | Path | None = None
) -> list[dict[str, Any]]:
    """Return one row per device with its status and facts; without names, all of the farm.

    The row of a device that is away has the reason. While another user holds the lease, no request
    is sent, so that a measurement is not disturbed: the row has the status `busy`, and the holder
    in `busy_by`.
    """
    from harness.measure import sessions

    chosen = _chosen(names, farm)
    _refuse_alone(chosen)
    live = sessions.open_all(chosen)
    try:
        return [_device_row(device, live[device.name]) for device in chosen]
    finally:
        sessions.close_all(live)


def clean(
    names: Sequence[str] = (), *, farm: farms.Farm | Path | None = None
) -> list[dict[str, Any]]:
    """Remove our agents, models and runtimes from devices; without names, from all of the farm.

    Returns one row per device: `freed_bytes`, or the reason of the failure.
    """
    return [_cleaned(device) for device in _chosen(names, farm)]


def _cleaned(device: Device) -> dict[str, Any]:
    from harness.farm import cleaning

    row: dict[str, Any] = {"name": device.name, "status": "cleaned", "reason": None}
    try:
        transport = opening.open_transport(device)
        try:
            folder = opening.workdir(device)
            if folder is None:
                return {**row, "freed_bytes": 0}
            commands = abilities.commands(transport, device, "cleaning")
            with _held(transport, commands, device, folder):
                return {**row, "freed_bytes": cleaning.clean(commands, device, folder)}
        finally:
            transport.close()
    except HarnessError as error:
        return {**row, "status": error.kind, "reason": str(error), "freed_bytes": None}


@contextmanager
def _held(transport: Transport, commands: Commands, device: Device, folder: str) -> Iterator[None]:
    """Hold the device's lease; raises LeaseError if another user holds it.

    If there is no agent or it does not start, no other user can be measuring, and no lease is held.
    """
    from harness.protocols import Leasing

    if commands.run(["test", "-d", f"{folder}/agents"], 30.0).exit_code:
        yield
        return
    dialect = opening.open_dialect(transport, device)
    try:
        if isinstance(dialect, Leasing):
            with suppress(AgentError, TransferFailed):
                dialect.hold()
        yield
    finally:
        dialect.close()


def setup(
    name: str,
    *,
    runtime: str | None = None,
    dry_run: bool = False,
    farm: farms.Farm | Path | None = None,
    wait: bool | None = None,
    say: OnProgress = lambda _: None,
) -> Installation:
    """Install a runtime on a device, in our folder there; see docs/setup.md.

    `runtime` is NAME==VERSION or NAME. Without it, the best runtime that fits the device is
    installed, if none works there yet. `wait` is that of `run`: how long to wait while another user
    holds the lease; `say` gets a line per step. Raises ConfigError, RuntimeMissing if no wheel fits,
    TransferFailed, and what the connection raises.
    """
    from harness.api.running import read_farm
    from harness.config import farm as farms
    from harness.farm.setup import install
    from harness.farm.wheels import RuntimeRequirement
    from harness.measure import sessions

    wanted = RuntimeRequirement.parse(runtime) if runtime else None
    known = read_farm(farm)
    chosen = farms.select(known, [name])
    if len(chosen) != 1:
        names = ", ".join(one.name for one in chosen)
        raise ConfigError(f"setup takes one device at a time; {name} selects {names}")
    say(f"{chosen[0].name} of {known.name}")
    session = sessions.Session(chosen[0], patience=_patience(wait, say))
    try:
        return install(session, wanted, dry_run=dry_run, on_progress=say)
    finally:
        session.close()


def _patience(wait: bool | None, say: OnProgress) -> Patience:  # noqa: FBT001 - as the option
    """Return the patience of `wait`; `say` gets a line when a wait begins."""
    from harness.events import Event, Waiting
    from harness.measure.leases import Patience

    def on_event(event: Event) -> None:
        if isinstance(event, Waiting):
            say(f"{event.device}: {event.reason}; waiting until it is free")

    return Patience.of_option(wait, on_event)


def _chosen(names: Sequence[str], farm: farms.Farm | Path | None) -> list[Device]:
    from harness.api.running import read_farm
    from harness.config import farm as farms

    known = read_farm(farm)
    return list(farms.select(known, names)) if names else list(known.devices.values())


def _refuse_alone(chosen: Sequence[Device]) -> None:
    """Raise ConfigError if there is a single device and no transport or dialect supports it."""
    if len(chosen) == 1:
        opening.check(chosen[0], known_profiles.load_all().get(chosen[0].profile))


def _device_row(device: Device, session: sessions.Session | HarnessError) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": device.name,
        "profile": device.profile,
        "address": device.address,
        "tags": list(device.tags),
    }
    row["busy_by"] = session.holder if isinstance(session, LeaseError) else None
    if isinstance(session, HarnessError):
        return {**row, "status": session.kind, "reason": str(session), "facts": None}
    return {**row, "status": "ready", "reason": None, "facts": asdict(session.facts)}


def doctor(
    names: Sequence[str] = (), *, farm: farms.Farm | Path | None = None
) -> dict[str, list[CheckResult]]:
    """Return the checks of each device; without names, of all devices of the farm."""
    from harness.api.running import read_farm

    known = read_farm(farm)
    is_named = isinstance(farm, Path)
    chosen = _chosen(names, known)
    _refuse_alone(chosen)
    return {device.name: _examine(device, known.path, is_farm_named=is_named) for device in chosen}


def _examine(device: Device, farm: Path | None, *, is_farm_named: bool) -> list[CheckResult]:
    from harness.farm import doctor as examiner

    profile = known_profiles.load_all().get(device.profile)
    return examiner.examine(
        device,
        opening.open_transport,
        lambda transport, device: opening.open_dialect(transport, device, profile),
        profile,
        model=EMBEDDED_MODEL,
        farm=farm,
        is_farm_named=is_farm_named,
    )


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
        lines = (
            f"{self.device.name}: {named or self.device.name}",
            f"  {facts['cores'] or unknown} cores {facts['machine'] or unknown}, "
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
    trust: contact.Trust | None = None,
    wait: bool | None = None,
    say: OnProgress = lambda _: None,
) -> AddedDevice:
    """Add a device: check its host key, detect its facts, write the farm entry, run the checks.

    The entry is written to `farm`, else to the farm file that a command without a plan reads, else
    to the user's. `wait` and `say` are those of :func:`setup`. Raises HostKeyUnknown if the key is not trusted, ConfigError for an invalid address.
    """
    from harness.api.running import settle_key
    from harness.config import farm as farms
    from harness.farm import contact
    from harness.measure import sessions

    farm_file = farm or farms.file_to_write()
    device = _entry(farms.from_uri(uri, name), farm_file)
    opening.check(device)
    given = {"identity": str(Path(identity).expanduser().resolve()) if identity else None}
    given["python"] = python
    device = opening.with_options(device, **{key: one for key, one in given.items() if one})
    settle_key(device, trust)
    live = sessions.Session(device, patience=_patience(wait, say))
    try:
        facts = live.facts
    finally:
        live.close()
    profiles_folder = assets.config_folder() / "profiles"
    chosen = contact.survey(facts, known_profiles.load_all())
    profile_file = None
    if chosen is None:
        made = contact.new_profile(facts)
        chosen, profile_file = made.name, contact.write_profile(profiles_folder, made)
    device = replace(device, profile=chosen)
    contact.write_device(farm_file, device)
    return AddedDevice(
        device=device,
        farm=farm_file,
        profile_file=profile_file,
        facts=asdict(facts),
        checks=_examine(device, farm_file, is_farm_named=farm is not None),
    )


def _entry(device: Device, farm: Path) -> Device:
    """Return the farm's entry of a device that is added once more: its keys and files go on to count."""
    from harness.config import farm as farms

    try:
        known = farms.load(farm).devices.get(device.name)
    except ConfigError:
        return device
    return known if known and known.address == device.address else device


def profiles(name: str | None = None) -> list[dict[str, Any]]:
    """Return the shipped and the user's profiles, or the one with this name."""
    known = [known_profiles.get(name)] if name else list(known_profiles.load_all().values())
    return [asdict(profile) for profile in known]

"""Devices of the farm: list, check, set up, clean and add them; list the known profiles."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from harness.api import arguments
from harness.api.arguments import AnyPath, Several
from harness.config import profiles as known_profiles
from harness.devices import opening

if TYPE_CHECKING:
    from harness.config import farm as farms
    from harness.farm.adding import AddedDevice
    from harness.farm.bundles import InstalledBundle
    from harness.farm.checks import CheckResult
    from harness.farm.contact import Trust
    from harness.farm.setup import Installation, OnProgress
    from harness.measure.leases import Patience
    from harness.types import Device
else:
    from harness import lazy

    __getattr__, _ = lazy.attributes("harness.farm", {"adding": ("AddedDevice",)})

__all__ = ["AddedDevice", "add", "clean", "devices", "doctor", "profiles", "setup"]


def devices(
    names: Several[str] = (), *, farm: farms.Farm | AnyPath | None = None
) -> list[dict[str, Any]]:
    """Return one row per device with its status and facts; without names, all of the farm.

    See :func:`harness.farm.inventory.device_rows`.
    """
    from harness.farm import inventory

    chosen = _chosen(names, farm)
    _refuse_alone(chosen)
    return inventory.device_rows(chosen)


def clean(
    names: Several[str] = (), *, farm: farms.Farm | AnyPath | None = None
) -> list[dict[str, Any]]:
    """Remove our agents, models and runtimes from devices; without names, from all of the farm.

    Returns one row per device: `freed_bytes`, or the reason of the failure.
    """
    from harness.farm import cleaning

    return [cleaning.clean_device(device) for device in _chosen(names, farm)]


def add(
    uri: str,
    *,
    name: str | None = None,
    identity: AnyPath | None = None,
    python: str | None = None,
    farm: AnyPath | None = None,
    trust: Trust | None = None,
    wait: bool | None = None,
    say: OnProgress = lambda _: None,
) -> AddedDevice:
    """Add a device: check its host key, detect its facts, write the farm entry, run the checks.

    See :func:`harness.farm.adding.add`; `wait` and `say` are those of :func:`setup`.
    """
    from harness.farm import adding

    return adding.add(
        uri,
        name=name,
        identity=None if identity is None else os.fspath(identity),
        python=python,
        farm=arguments.optional_path(farm),
        trust=trust,
        patience=_patience(wait, say),
    )


def setup(
    name: str,
    *,
    runtime: AnyPath | None = None,
    dry_run: bool = False,
    farm: farms.Farm | AnyPath | None = None,
    wait: bool | None = None,
    say: OnProgress = lambda _: None,
) -> Installation | InstalledBundle:
    """Install a runtime on a device, in our folder there; see docs/setup.md.

    `name` is a device of the farm, or an address. `runtime` is NAME==VERSION or NAME; on a device
    that runs benchmark_model it is a folder with the program (docs/phone_runner.md). Without it, the
    best runtime that fits the device is installed, if none works there yet. `wait` is that of `run`: how long to wait while another user
    holds the lease; `say` gets a line per step. Raises ConfigError, RuntimeMissing if no wheel fits,
    TransferFailed, and what the connection raises.
    """
    from harness.api.running import read_farm
    from harness.config import farm as farms
    from harness.farm.setup import install_on

    known, (name,) = farms.with_addresses(read_farm(farm), [name])
    device = farms.select_one(known, name, "setup")
    say(f"{device.name} of {known.name}")
    patience = _patience(wait, say)
    wanted = None if runtime is None else os.fspath(runtime)
    return install_on(device, wanted, dry_run=dry_run, on_progress=say, patience=patience)


def doctor(
    names: Several[str] = (), *, farm: farms.Farm | AnyPath | None = None
) -> dict[str, list[CheckResult]]:
    """Return the checks of each device; without names, of all devices of the farm."""
    from harness.api.running import read_farm
    from harness.farm.doctor import examine_entry

    known = read_farm(farm)
    is_named = isinstance(farm, str | os.PathLike)
    chosen = _chosen(names, known)
    _refuse_alone(chosen)
    return {
        device.name: examine_entry(device, known.path, is_farm_named=is_named) for device in chosen
    }


def profiles(name: str | None = None) -> list[dict[str, Any]]:
    """Return the shipped and the user's profiles, or the one with this name."""
    known = [known_profiles.get(name)] if name else list(known_profiles.load_all().values())
    return [asdict(profile) for profile in known]


def _patience(wait: bool | None, say: OnProgress) -> Patience:  # noqa: FBT001 - as the option
    """Return the patience of `wait`; `say` gets a line about each wait, and about long pushes."""
    from harness.events import Event, Pushing, Reconnecting, Waiting
    from harness.measure.leases import Patience
    from harness.present.screen.pushes import PushLines

    pushes = PushLines()

    def on_event(event: Event) -> None:
        if isinstance(event, Waiting):
            say(f"{event.device}: {event.reason}; waiting until it is free")
        elif isinstance(event, Reconnecting):
            say(f"{event.device}: connection lost ({event.reason}); reconnecting")
        elif isinstance(event, Pushing) and (line := pushes.line(event)):
            say(line)

    return Patience.of_option(wait, on_event)


def _chosen(names: Several[str], farm: farms.Farm | AnyPath | None) -> list[Device]:
    from harness.api.running import read_farm
    from harness.config import farm as farms

    known, chosen = farms.with_addresses(read_farm(farm), arguments.texts(names))
    return farms.select(known, chosen) if chosen else list(known.devices.values())


def _refuse_alone(chosen: Sequence[Device]) -> None:
    """Raise ConfigError if there is a single device and no transport or dialect supports it."""
    if len(chosen) == 1:
        opening.check(chosen[0], known_profiles.load_all().get(chosen[0].profile))

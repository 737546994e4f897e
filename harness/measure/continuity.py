"""What must be the same for a stored run to continue on a device.

A run's rows are of one machine in one condition. If a device is not as `run.json` has it, its missing
launches are refused, or they become the rows of another device with a name of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from harness.config import profiles
from harness.errors import StoreError
from harness.measure import sameness
from harness.measure.sessions import Session
from harness.records.store import DeviceRecord, RunRecord
from harness.types import Cell, Device, DeviceFacts

_ENTRY = ("profile", "dialect", "delegate_options")
"""Keys of the farm's entry that change what is measured."""


def differences(before: DeviceRecord, device: Device, now: DeviceFacts) -> list[str]:
    """Return a clause for each way in which a device is not as a run has it; empty if it is."""
    found = [
        f"its {key} in farm.toml is {getattr(device, key)}, not {getattr(before.device, key)}"
        for key in _ENTRY
        if getattr(device, key) != getattr(before.device, key)
    ]
    return found if before.facts is None else [*found, *sameness.of_facts(before.facts, now)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Continued:
    """The part of a stored run that the present devices can continue."""

    cells: tuple[Cell, ...]
    """Its missing cells."""
    devices: Mapping[str, DeviceRecord]
    """Records to add: facts that were not known yet, and other devices."""
    names: Mapping[str, str]
    """The farm's name of the device of each of the cells, by the cell's device."""


def continued(
    record: RunRecord,
    pending: Iterable[Cell],
    live: Mapping[str, Session | Exception],
    *,
    other_device: bool = False,
) -> Continued:
    """Return what a run's missing cells become on the devices that answer now.

    `live` is by the farm's names. A device that is not as the run has it raises StoreError; with
    `other_device` its cells become those of another device, named `<device>-<6 hex>`. The cells of
    devices that do not answer, and of other devices than those that answer, are left as they are.
    """
    missing = list(pending)
    known = {cell.id for cell in record.cells}
    cells: list[Cell] = []
    added: dict[str, DeviceRecord] = {}
    names: dict[str, str] = {}
    for name, session in live.items():
        chosen = [name]
        if isinstance(session, Session):
            chosen, more = _same(record, name, session, other_device=other_device)
            added |= more
        cells += [cell for cell in missing if cell.device in chosen]
        if other_device and name not in chosen:
            moved = (replace(one, device=chosen[0]) for one in missing if one.device == name)
            cells += [cell for cell in moved if cell.id not in known]
        names |= dict.fromkeys(chosen, name)
    return Continued(cells=tuple(cells), devices=added, names=names)


def _same(
    record: RunRecord, name: str, session: Session, *, other_device: bool
) -> tuple[list[str], dict[str, DeviceRecord]]:
    """Return the run's devices that this one is, and the records to add."""
    known = farm_names(record)
    own = {one: entry for one, entry in record.devices.items() if known[one] == name}
    found = {one: differences(entry, session.device, session.facts) for one, entry in own.items()}
    same = [one for one, reasons in found.items() if not reasons]
    present = DeviceRecord(
        device=session.device,
        facts=session.facts,
        verified=profiles.verified(session.device.profile),
    )
    if same:
        return same, {one: present for one in same if own[one].facts is None}
    alias = f"{name}-{_fingerprint(session.facts)}"
    if other_device:
        return [alias], {alias: present}
    raise StoreError(
        f"run {record.id}: {name} is not as it was when the run began: "
        f"{'; '.join(found.get(name, ['it is not in the run']))}; continue the run on the device as "
        f"it was, or add --other-device to measure what is missing as rows of {alias}"
    )


def require_same(
    record: RunRecord, live: Mapping[str, Session | Exception], names: Collection[str]
) -> None:
    """Raise StoreError unless these devices are as the run has them; absent ones are not compared."""
    for name in names:
        session, entry = live.get(name), record.devices.get(name)
        if isinstance(session, Session) and entry is not None:
            found = differences(entry, session.device, session.facts)
            if found:
                raise StoreError(
                    f"run {record.id}: {name} is not as it was when the run began: "
                    f"{'; '.join(found)}; continue it on the device as it was, or start a new one"
                )


def farm_names(record: RunRecord) -> dict[str, str]:
    """Return the farm's name of each device of a run, by its name there."""
    return {name: entry.device.name for name, entry in record.devices.items()}


def _fingerprint(facts: DeviceFacts) -> str:
    parts = [str(getattr(facts, name)) for name in sameness.FACTS]
    text = "\0".join([*parts, sameness.numbers(facts), sameness.runtime(facts)])
    return hashlib.sha256(text.encode()).hexdigest()[:6]

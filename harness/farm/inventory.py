"""List the devices of a farm with what each reports about itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from harness.errors import HarnessError, LeaseError
from harness.measure import sessions
from harness.types import Device


def device_rows(devices: Sequence[Device]) -> list[dict[str, Any]]:
    """Connect to all devices at once; return one row per device with its status and facts.

    The row of a device that is away has the reason. While another user holds the lease, no request
    is sent, so that a measurement is not disturbed: the row has the status `busy`, and the holder
    in `busy_by`.
    """
    live = sessions.open_all(devices)
    try:
        return [_row(device, live[device.name]) for device in devices]
    finally:
        sessions.close_all(live)


def _row(device: Device, session: sessions.Session | HarnessError) -> dict[str, Any]:
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

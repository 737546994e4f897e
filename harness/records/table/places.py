"""The devices of a run, and how their profiles were verified when it began."""

from __future__ import annotations

from harness.printable import counted
from harness.records.store import DeviceRecord, StoredRun
from harness.types import DeviceFacts


def lines(run: StoredRun) -> list[str]:
    """Describe the devices of the run, one line per device."""
    return [f"{name}: {_text(entry)}" for name, entry in run.record.devices.items()]


def _text(entry: DeviceRecord) -> str:
    proved = f" (verified: {entry.verified})" if entry.verified is not None else ""
    parts = _machine(entry.facts) if entry.facts else []
    return "; ".join([*parts, f"profile {entry.device.profile}{proved}"])


def _machine(facts: DeviceFacts) -> list[str]:
    runtime = facts.runtimes[0] if facts.runtimes else None
    named = facts.board or facts.chip or facts.machine or facts.hostname or facts.identity
    cores = "cores unknown" if facts.cores is None else counted(facts.cores, "core")
    return [
        " ".join(filter(None, (f"{named},", cores, facts.machine))),
        " ".join(filter(None, (facts.system, facts.kernel))) or "system unknown",
        f"{runtime.name} {runtime.version}" if runtime else "no runtime",
    ]

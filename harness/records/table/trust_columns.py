"""The sources of the columns that say how far a row can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.devices.delegation import CPU_TARGETS
from harness.devices.throttling import STATE_FLAGS
from harness.errors import (
    AgentSilent,
    Crashed,
    FellBack,
    Inaccurate,
    ModelRejected,
    OutOfMemory,
    Unproven,
)
from harness.printable import counted
from harness.types import Failure

if TYPE_CHECKING:
    from harness.records.table.sources import CellReading

JUDGED_FAILURES = tuple(
    error.kind
    for error in (
        *(FellBack, Unproven, Inaccurate),
        *(ModelRejected, Crashed, AgentSilent, OutOfMemory),
    )
)
"""The failures of an accelerator that was tried: it took nothing, nothing shows that it ran the model,
its outputs are wrong, or the launch failed. After the others (`not_built`, `unsupported`, `unreachable`,
...) nothing was tried, so there is no verdict."""


def verdict(reading: CellReading) -> str | None:
    """Return VALID, SUSPECT or INVALID; null if nothing was measured."""
    if _judged_failure(reading) is not None:
        return "INVALID"
    return reading.verdict.validity if reading.verdict else None


def verdict_reason(reading: CellReading) -> str | None:
    """Return the reason of the verdict."""
    failure = _judged_failure(reading)
    if failure is not None:
        return failure.reason
    return reading.verdict.reason if reading.verdict else None


def _judged_failure(reading: CellReading) -> Failure | None:
    failure = reading.failure
    if failure is None or reading.cell.target in CPU_TARGETS or reading.refused_for_accuracy:
        return None
    return failure if failure.kind in JUDGED_FAILURES else None


def agreement(reading: CellReading) -> float | None:
    """Return the share of inputs with the host's class; null if the outputs are no classes."""
    found = reading.outcome.agreement if reading.outcome else None
    return None if found is None else found.top1


def output_error(reading: CellReading) -> float | None:
    """Return the relative error of the outputs against the host's."""
    found = reading.outcome.agreement if reading.outcome else None
    return None if found is None else found.relative_error


def conditions(reading: CellReading) -> str | None:
    """Return in how many of the timed launches the device was throttled, under voltage or hot."""
    launches = reading.measured.launches.get(reading.cell.id, ())
    timed = [one for one in launches if one.kind == "timed"]
    counts = {flag: sum(flag in one.flags for one in timed) for flag in STATE_FLAGS}
    found = [f"{flag} ({n} of {counted(len(timed), 'launch')})" for flag, n in counts.items() if n]
    return ", ".join(found) or None

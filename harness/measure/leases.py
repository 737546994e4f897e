"""Wait for a device's lease, take it and release it.

The dialect keeps the lease itself on the device (`protocols.Leasing`); this module waits for it.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from harness.errors import LeaseError
from harness.events import Emit, Waiting, ignore
from harness.protocols import Dialect, Leasing
from harness.types import PATIENCE_SECONDS

_POLL_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a device while another user holds its lease, and while it is away."""

    seconds: float = 0.0
    """Wait at most this long for the lease of another user."""
    emit: Emit = ignore
    """Receives a `Waiting` event when waiting for a lease begins."""
    over: threading.Event = field(default_factory=threading.Event)
    """Set it to end all waiting."""
    away_seconds: float = PATIENCE_SECONDS
    """Wait at most this long for a device that answered once and went away."""


def wait_until_free(dialect: Dialect, device: str, patience: Patience) -> None:
    """Return when no other user holds the lease; raises LeaseError if the patience runs out."""
    if not isinstance(dialect, Leasing):
        return
    deadline = time.monotonic() + patience.seconds
    reported = False
    while (other := dialect.holder()) is not None and not other.is_this:
        if time.monotonic() >= deadline or patience.over.is_set():
            raise LeaseError(
                f"{device}: {other.name} has this device, for {other.seconds:.0f} s "
                "more unless renewed; try again then, or wait for it (--wait)",
                other.name,
            )
        if not reported:
            patience.emit(Waiting(device=device, reason=f"{other.name} has this device"))
            reported = True
        patience.over.wait(_POLL_SECONDS)


def hold(dialect: Dialect, device: str, patience: Patience) -> None:
    """Take the device's lease for this controller; raises LeaseError if the patience runs out.

    The lease is renewed until `release` or the dialect's `close`. A device that other hosts cannot
    reach has no lease, and nothing is done.
    """
    if not isinstance(dialect, Leasing):
        return
    deadline = time.monotonic() + patience.seconds
    while True:
        wait_until_free(dialect, device, patience)
        try:
            dialect.hold()
        except LeaseError:
            # Another user took the lease after the wait.
            if time.monotonic() >= deadline:
                raise
        else:
            return


def release(dialect: Dialect) -> None:
    """Release the device's lease; never raises."""
    if isinstance(dialect, Leasing):
        dialect.release()

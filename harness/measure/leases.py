"""Who has a device: wait until it is free, take it, release it.

The lease itself is kept on the device by the dialect (`protocols.Leasing`); here is the waiting.
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
    """How long to wait for a device: while another user holds the lease, and while it is away."""

    seconds: float = 0.0
    """For the lease of another user."""
    emit: Emit = ignore
    """Gets a `Waiting` event when waiting for a lease begins."""
    over: threading.Event = field(default_factory=threading.Event)
    """Set to end all waiting."""
    away_seconds: float = PATIENCE_SECONDS
    """For a device that answered once and went away."""


def wait_until_free(dialect: Dialect, device: str, patience: Patience) -> None:
    """Return when no other user holds the lease; raises LeaseError after the patience."""
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
    """Take the device for this controller alone; raises LeaseError after the patience.

    Held until `release` or the dialect's `close`, and renewed meanwhile. A device that other hosts
    cannot reach has no lease to take.
    """
    if not isinstance(dialect, Leasing):
        return
    deadline = time.monotonic() + patience.seconds
    while True:
        wait_until_free(dialect, device, patience)
        try:
            dialect.hold()
        except LeaseError:
            # Another user was faster.
            if time.monotonic() >= deadline:
                raise
        else:
            return


def release(dialect: Dialect) -> None:
    """Let other users have the device; never raises."""
    if isinstance(dialect, Leasing):
        dialect.release()

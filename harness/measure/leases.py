"""Wait for a device's lease, take it and release it.

The dialect keeps the lease itself on the device (`protocols.Leasing`); this module waits for it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.errors import LeaseError
from harness.events import Emit, Waiting, ignore
from harness.protocols import Dialect, Leasing, TakesNotes
from harness.types import PATIENCE_SECONDS

_POLL_SECONDS = 2.0
DEAD_HOLDER_SECONDS = 35.0
"""Slightly longer than a lease lasts after its holder died, so that short runs can follow at once."""


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
    first_seconds: float = 0.0
    """Try at most this long to reach a device for the first time."""
    working: threading.Event = field(default_factory=threading.Event)
    """Set it while there is other work to do, as builds: a wait does not end before it is cleared."""
    advice: str = ""
    """What the user can do if the patience runs out; commands with the option `--wait` say so."""

    @classmethod
    def of_option(
        cls,
        wait: bool | None,  # noqa: FBT001 - as the option
        emit: Emit = ignore,
        away_seconds: float = PATIENCE_SECONDS,
    ) -> Patience:
        """Return the patience of `--wait` (True, without limit), `--no-wait`, or neither (35 s)."""
        seconds = {None: DEAD_HOLDER_SECONDS, True: math.inf, False: 0.0}[wait]
        return cls(
            seconds, emit, away_seconds=away_seconds, advice="; wait for it with the option --wait"
        )

    def is_over(self, deadline: float) -> bool:
        """Whether a wait until `deadline` (monotonic) must end."""
        if self.over.is_set():
            return True
        return time.monotonic() >= deadline and not (self.seconds and self.working.is_set())


def wait_until_free(dialect: Dialect, device: str, patience: Patience) -> None:
    """Return when no other user holds the lease; raises LeaseError if the patience runs out."""
    if not isinstance(dialect, Leasing):
        return
    deadline = time.monotonic() + patience.seconds
    reported = False
    while (other := dialect.holder()) is not None and not other.is_this:
        if patience.is_over(deadline):
            raise LeaseError(
                f"{device}: {other.name} has this device, for {other.seconds:.0f} s "
                f"more unless renewed{patience.advice}",
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
            if patience.is_over(deadline):
                raise
        else:
            return


def notes(dialect: Dialect) -> Sequence[str]:
    """Return what the device reported since the last call, as that its lease file was damaged."""
    return dialect.take_notes() if isinstance(dialect, TakesNotes) else ()


def release(dialect: Dialect) -> None:
    """Release the device's lease; never raises."""
    if isinstance(dialect, Leasing):
        dialect.release()

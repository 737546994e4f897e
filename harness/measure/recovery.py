"""Repeat work on a device whose connection breaks: the only place that opens one again.

Patience counts time, not breaks. A broken launch or push is made again, as often as it takes. Two
kinds of fault end it:

- The link. Nothing succeeded for `Patience.away_seconds`: the device is lost, and so is the rest of
  its work.
- The work. It broke the connection MAX_BREAKS times in a row, while the device came back each time
  and its idle connection held: that launch fails (`crashed`), and the next one goes on.

So that the two are not confused, the last attempt waits until the connection has been idle without
a break for longer than an attempt lasted.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from harness.errors import (
    Crashed,
    HarnessError,
    HostKeyUnknown,
    LeaseError,
    TransportError,
    Unreachable,
)
from harness.events import Emit, LeaseLost, Reconnected, Reconnecting, Stopped, ignore
from harness.measure.conditions import REAL_TIME, WaitClock
from harness.measure.sessions import Session
from harness.protocols import StopFlag

MAX_BREAKS = 3
"""Work that breaks the connection this often in a row, on a link that holds otherwise, fails."""

MAX_FAILED_IN_A_ROW = 5
"""A device on which this many launches failed like that, and none succeeded between, is lost."""

MAX_REPEATS = 2
"""Attempts for an error of a connection that still works, as a file that arrived damaged."""

CALM_SECONDS, MAX_CALM_SECONDS = 10.0, 60.0
"""Limits of the time without a break before the last attempt."""

_CALM_FACTOR = 1.5
"""Times the longest attempt, so that a link with regular breaks is noticed."""

_SLICE_SECONDS = 0.5

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class Recovery:
    """Runs actions on one session and repeats those whose connection broke."""

    session: Session
    emit: Emit = ignore
    stop: StopFlag = field(default_factory=threading.Event)
    timing: WaitClock = REAL_TIME
    times: int = field(default=0, init=False)
    """How often the connection was opened again."""
    _since: float | None = field(default=None, init=False)
    """When the device went away for the first time since something succeeded."""
    _row: Counter[str] = field(default_factory=Counter, init=False)
    """Failed attempts of the present action in a row, by kind."""
    _lasted: float = field(default=0.0, init=False)
    """The longest of these attempts, in seconds."""
    _failed: int = field(default=0, init=False)
    """Actions in a row that broke the connection MAX_BREAKS times."""
    _advances: int = field(default=0, init=False)
    """The session's count of pushes that got further, at the last break."""
    _lost: HarnessError | None = field(default=None, init=False)
    """The error that ended the device's work."""

    def progressed(self) -> None:
        """Note that work on the device succeeded: the patience starts anew."""
        self._since = None
        self._failed = 0
        self._forget_attempts()

    def run(self, action: Callable[[], T], work: str | None = None) -> T:
        """Run the action; if the connection breaks or the lease is lost, reconnect and repeat it.

        `work` names an action that may break the device itself, as a launch does. Raises Crashed if
        it did (see the module), Stopped if the work was stopped meanwhile, Unreachable if the device
        is lost, and what the action raises.
        """
        self._forget_attempts()
        while True:
            if self.stop.is_set():
                raise Stopped
            began, restored = self.timing.clock(), False
            try:
                self.session.restore()
                restored = True
                return action()
            except (TransportError, LeaseError) as error:
                if error is self._lost:
                    raise
                self.raise_if_stopped(error)
                self._lasted = max(self._lasted, self.timing.clock() - began)
                self._mend(error, work if restored else None)

    def ensure_answering(self) -> None:
        """Reconnect if the agent does not answer; for use after a launch that ended badly."""
        try:
            self.session.dialect.hello()
        except HarnessError as error:
            self.raise_if_stopped(error)
            self._reopen(error)

    def raise_if_stopped(self, error: HarnessError) -> None:
        """Raise Stopped if the session was closed to stop the work, which looks like a lost one."""
        if self.stop.is_set():
            raise Stopped from error

    def _mend(self, error: TransportError | LeaseError, work: str | None) -> None:
        """Make the device ready for the next attempt; raises if there must be none."""
        kind = self._kind(error)
        if self.session.advances != self._advances:
            # A push that got further than any before it is progress, though it broke.
            self._advances = self.session.advances
            self._since = None
            self._row.clear()
        self._row[kind] += 1
        count = self._row[kind]
        if kind != Unreachable.kind:
            if count >= (MAX_BREAKS if kind == LeaseError.kind else MAX_REPEATS):
                self._lose(error)
            self._reopen(error)
            return
        if work is None and count >= MAX_BREAKS:
            self._lose_if_late(error)
        self._reopen(error)
        if work is not None and count >= MAX_BREAKS:
            self._give_up(error, work)
        if count < MAX_BREAKS - 1:
            return
        if not self._is_calm():
            self._forget_attempts()
        elif work is not None:
            # The link holds, so the patience is not used up; the number of breaks is the limit.
            self._since = None

    def _kind(self, error: TransportError | LeaseError) -> str:
        """Return the kind by which a failed attempt is counted."""
        if isinstance(error, Unreachable | LeaseError | HostKeyUnknown):
            return error.kind
        try:
            self.session.dialect.hello()
        except HarnessError:
            return Unreachable.kind
        return error.kind

    def _give_up(self, error: HarnessError, work: str) -> None:
        """End this action only: the device is back, and it holds a connection while it is idle."""
        self._failed += 1
        text = (
            f"{self.session.device.name}: {work} broke the connection {MAX_BREAKS} times in a row, "
            f"and the device was back each time: it crashes the device or its agent ({error})"
        )
        if self._failed >= MAX_FAILED_IN_A_ROW:
            self._lose(
                Unreachable(f"{text}; so did the {self._failed - 1} before, and none succeeded")
            )
        raise Crashed(text) from error

    def _is_calm(self) -> bool:
        """Wait until the idle connection has held for a while; returns whether it did at once."""
        at_once = True
        while True:
            self._wait(min(max(CALM_SECONDS, _CALM_FACTOR * self._lasted), MAX_CALM_SECONDS))
            try:
                self.session.dialect.hello()
            except HarnessError as error:
                self.raise_if_stopped(error)
                at_once = False
                self._lose_if_late(error)
                self._reopen(error)
            else:
                return at_once

    def _wait(self, seconds: float) -> None:
        until = self.timing.clock() + seconds
        while (left := until - self.timing.clock()) > 0:
            if self.stop.is_set():
                raise Stopped
            self.timing.sleep(min(left, _SLICE_SECONDS))

    def _reopen(self, error: HarnessError) -> None:
        """Open the connection again, and report it."""
        name, began = self.session.device.name, self.timing.clock()
        if self._since is None:
            self._since = began
        lost = LeaseLost if isinstance(error, LeaseError) else Reconnecting
        self.emit(lost(device=name, reason=str(error)))
        try:
            # An agent that lost its lease ends, so a new connection is needed too.
            self.session.reopen()
        except HarnessError as another:
            self.raise_if_stopped(another)
            self._lost = another
            raise
        self.times += 1
        seconds = self.timing.clock() - began
        self.emit(Reconnected(device=name, times=self.times, seconds=seconds))

    def _lose_if_late(self, error: HarnessError) -> None:
        """Raise Unreachable if nothing succeeded for as long as the patience says."""
        patience = self.session.patience.away_seconds
        away = 0.0 if self._since is None else self.timing.clock() - self._since
        if away > patience:
            self._lose(
                Unreachable(
                    f"{error}; the connection breaks again and again: nothing succeeded for "
                    f"{away:.0f} s (patience_seconds = {patience:g})"
                )
            )

    def _lose(self, error: HarnessError) -> None:
        self._lost = error
        raise error

    def _forget_attempts(self) -> None:
        self._row.clear()
        self._lasted = 0.0

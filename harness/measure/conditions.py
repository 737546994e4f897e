"""Apply the conditions of a measurement to a device, and undo them afterwards.

The governor is pinned and launches run on the fastest processors. A launch waits until the device
is cool, or the device is heated to a constant temperature first. A condition that the device does
not support is skipped, and the launches are flagged.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from harness.events import Emit, Note, Stopped, ignore
from harness.measure import pinning, thermal
from harness.measure.sessions import Session
from harness.protocols import StopFlag
from harness.types import DEFAULT_CONDITIONS, Conditions, LaunchOrder, Profile, ThermalPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitClock:
    """The clock and the sleep function of waits; tests replace them."""

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


REAL_TIME = WaitClock()


@dataclass(slots=True, kw_only=True)
class HeldConditions:
    """The conditions of one device: call `settle` before each launch and `undo` at the end."""

    session: Session
    wanted: Conditions = DEFAULT_CONDITIONS
    profile: Profile | None = None
    timing: WaitClock = REAL_TIME
    emit: Emit = ignore
    stop: StopFlag = field(default_factory=threading.Event)
    _pin: pinning.GovernorPin | None = field(default=None, init=False)
    _cooling: thermal.Cooling | None = field(default=None, init=False)
    _reported: bool = field(default=False, init=False)

    @property
    def pinned_mhz(self) -> float | None:
        """The frequency that the governor holds; None if it is not constant."""
        return self._pin.pinned_mhz if self._pin else None

    @property
    def fixed_performance(self) -> bool:
        """Whether Android's fixed-performance mode is on."""
        return self._pin is not None and self._pin.fixed_performance

    def settle(self) -> None:
        """Pin the governor on the current connection, and read the idle temperature once.

        Raises TransportError if the device cannot be reached.
        """
        transport = self.session.transport
        if self._cooling is None:
            policy = self.profile.thermal if self.profile else ThermalPolicy()
            if self.wanted.thermal != "cool":
                policy = replace(policy, gate=False)
            self._cooling = thermal.Cooling(
                lambda: thermal.celsius(self.session.transport),
                policy,
                clock=self.timing.clock,
                sleep=self._sleep,
            )
        if self.wanted.pin and (self._pin is None or self._pin.transport is not transport):
            self._unpin()
            self._pin = pinning.GovernorPin(transport)

    def wait(self, until: float = math.inf) -> tuple[str, ...]:
        """Wait until the device is cool, at most until `until`; return the launch's flags."""
        self._reported = False
        return self._cooling.wait(until) if self._cooling else ()

    def place(self, order: LaunchOrder) -> LaunchOrder:
        """Return the order with the processors that the launch runs on."""
        if not self.wanted.pin or not self.session.dialect.can.places:
            return order
        chosen = pinning.processors(self.session.facts, order.threads)
        return replace(order, processors=chosen)

    def undo(self) -> None:
        """Restore the device's settings; never raises."""
        self._unpin()

    def _unpin(self) -> None:
        if self._pin is not None:
            self._pin.close()
            self._pin = None

    def _sleep(self, seconds: float) -> None:
        if not self._reported:
            self._reported = True
            name = self.session.device.name
            self.emit(Note(device=name, reason="waiting until the device has cooled"))
        self.timing.sleep(seconds)
        if self.stop.is_set():
            raise Stopped

"""Read a device's meter during each timed launch.

`[device.NAME] meter` names a plug-in of the group `harness.meters`. The meter is opened once per
device. Its samples are stored with the launch during which they were read, as separate series.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from harness import plugins
from harness.errors import HarnessError
from harness.events import Emit, Note
from harness.measure.sessions import Session
from harness.protocols import Meter, OpenMeter, Transport
from harness.types import Device, LaunchOrder, Samples


@dataclass(slots=True)
class Metered:
    """The meter's samples of one launch."""

    samples: tuple[Samples, ...] = ()


@dataclass(slots=True)
class OpenMeters:
    """The meter of one device; does nothing if the device has none or it is not installed."""

    device: Device
    _meter: Meter | None = field(default=None, init=False)
    _emit: Emit | None = field(default=None, init=False)
    _session: Session | None = field(default=None, init=False)
    _transport: Transport | None = field(default=None, init=False)

    def open(self, session: Session, emit: Emit) -> None:
        """Open the meter that the farm names; report it if it is not installed or fails to open."""
        self._emit, self._session = emit, session
        self._open()

    def _open(self) -> None:
        assert self._session is not None
        self._transport = self._session.transport
        name = self.device.meter
        if name is None:
            return
        try:
            opener: OpenMeter = plugins.load("harness.meters", name)
            self._meter = opener(self.device, self._transport)
        except Exception as error:  # noqa: BLE001 - a plug-in's fault costs the samples, not the run
            self._note(f"meter {name} is not read ({_reason(error)}); energy stays empty")

    @contextmanager
    def over(self, order: LaunchOrder) -> Iterator[Metered]:
        """Read the meter during a timed launch; if it fails, only its samples are lost."""
        found = Metered()
        if self._session is not None and self._session.transport is not self._transport:
            # A sensor on the board is read over the connection, which is a new one.
            self._open()
        meter = self._meter if order.kind == "timed" else None
        if meter is None:
            yield found
            return
        try:
            meter.__enter__()
        except Exception as error:  # noqa: BLE001 - as above
            self._lost(error)
            yield found
            return
        try:
            yield found
        finally:
            try:
                meter.__exit__(None, None, None)
                found.samples = meter.samples()
            except Exception as error:  # noqa: BLE001 - as above
                self._lost(error)

    def close(self) -> None:
        """Release the meter; never raises."""
        self._meter = self._session = None

    def _lost(self, error: Exception) -> None:
        self._meter = None
        self._note(
            f"meter {self.device.meter} failed ({_reason(error)}); energy stays empty from here"
        )

    def _note(self, reason: str) -> None:
        if self._emit is not None:
            self._emit(Note(device=self.device.name, reason=reason))


def _reason(error: Exception) -> str:
    """Return the message; the kind of error too if it is not one of ours."""
    return str(error) if isinstance(error, HarnessError) else f"{type(error).__name__}: {error}"

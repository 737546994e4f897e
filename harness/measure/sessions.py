"""A device of the farm to a live session: transport, dialect, facts. Knows how to come back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from harness.devices import opening
from harness.errors import Crashed, HarnessError, LeaseError, Unreachable
from harness.protocols import Dialect, Leasing, OpenDialect, OpenTransport, Transport
from harness.types import PATIENCE_SECONDS, Device, DeviceFacts, Push

_LOOK_SECONDS = 2.0
_MOST_BREAKS = 4


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a device is waited for: somebody else has it (and who is told of that), or it is away."""

    seconds: float = 0.0
    tell: Callable[[str, str], None] = lambda _device, _reason: None
    over: threading.Event = field(default_factory=threading.Event)
    """Set where nobody waits any more."""
    away_seconds: float = PATIENCE_SECONDS
    """How long a device that was there and went away is waited for."""


class Session:
    """One device, connected: its agent runs and has answered `hello`."""

    def __init__(
        self,
        device: Device,
        *,
        transport: OpenTransport | None = None,
        dialect: OpenDialect | None = None,
        patience: Patience | None = None,
    ) -> None:
        """Connect, deploy the agent, say hello; raises a HarnessError where that fails.

        A device that somebody else has is left in peace: LeaseError, after the patience. It is not
        taken yet: see `hold`. Without openers, they are the device's own (harness.devices.opening).
        """
        self.device = device
        self._open_transport = transport or opening.open_transport
        self._open_dialect: OpenDialect = dialect or opening.open_dialect
        self._patience = patience or Patience()
        self._files: dict[str, Path] = {}
        self.pushed: list[Push] = []
        """Files that were sent and that nobody has told of yet."""
        self._was_there = False
        self._open()

    def _open(self) -> None:
        """Connect and start the agent; a device that answered once is waited for.

        A connection that is made and breaks is made again a few times: then it is not the way to the
        device but the device.
        """
        deadline = time.monotonic() + self._patience.away_seconds
        pause, breaks = 0.2, 0
        while True:
            connected = False
            try:
                self.transport: Transport = self._open_transport(self.device)
                self._was_there = connected = True
                self._greet()
            except Unreachable:
                breaks += connected
                late = time.monotonic() + pause >= deadline
                if not self._was_there or late or breaks == _MOST_BREAKS:
                    raise
                if self._patience.over.wait(pause):
                    raise
                pause = min(2 * pause, 2.0)
            else:
                return

    def _greet(self) -> None:
        try:
            self.dialect: Dialect = self._open_dialect(self.transport, self.device)
            self.dialect.deploy({})
            self._await_free()
            self.pushed += self.dialect.deploy(self._files)
            self.facts: DeviceFacts = self._hello()
        except BaseException:
            self.close()
            raise

    def _hello(self) -> DeviceFacts:
        """Ask twice where something killed the process that looks for runtimes."""
        try:
            return self.dialect.hello()
        except Crashed:
            return self.dialect.hello()

    def _await_free(self) -> None:
        """Return when nobody else has the device; raises LeaseError after the patience."""
        if not isinstance(self.dialect, Leasing):
            return
        deadline = time.monotonic() + self._patience.seconds
        told = False
        while (other := self.dialect.holder()) is not None and not other.is_this:
            if time.monotonic() >= deadline or self._patience.over.is_set():
                raise LeaseError(
                    f"{self.device.name}: {other.name} has this device, for {other.seconds:.0f} s "
                    "more unless renewed; try again then, or wait for it (--wait)",
                    other.name,
                )
            if not told:
                self._patience.tell(self.device.name, f"{other.name} has this device")
                told = True
            self._patience.over.wait(_LOOK_SECONDS)

    def hold(self) -> None:
        """Take the device for this controller alone; raises LeaseError after the patience.

        Held until `release` or `close`, renewed meanwhile. Where others cannot reach the device
        there is nothing to take.
        """
        if not isinstance(self.dialect, Leasing):
            return
        deadline = time.monotonic() + self._patience.seconds
        while True:
            self._await_free()
            try:
                self.dialect.hold()
            except LeaseError:
                # Somebody was faster.
                if time.monotonic() >= deadline:
                    raise
            else:
                return

    def release(self) -> None:
        """Let others have the device; never raises."""
        if isinstance(self.dialect, Leasing):
            self.dialect.release()

    def bring(self, files: Mapping[str, Path]) -> None:
        """Take the device and have these files (sha256 to path) there; what is there is not sent."""
        self.hold()
        self._files.update(files)
        self.pushed += self.dialect.deploy(files)

    def reopen(self) -> None:
        """Connect again for as long as the patience lasts; raises Unreachable with the last reason.

        The device must say it is the same one: a board that came back under this address with
        another identity is not the one whose numbers were asked for.
        """
        identity = self.facts.identity
        self.close()
        self._open()
        if self.facts.identity != identity:
            self.close()
            raise Unreachable(
                f"{self.device.name}: another machine answers at {self.device.address} now"
            )

    def interrupt(self) -> None:
        """Cut the connection from another thread: whoever waits for the device is woken up.

        No word is said to the agent, since another thread may be speaking with it; it ends with
        its connection. `close` comes after, when that thread is done.
        """
        self._patience.over.set()
        self.transport.close()

    def close(self) -> None:
        """End the agent and let go of the device; never raises."""
        if hasattr(self, "dialect"):
            self.dialect.close()
        if hasattr(self, "transport"):
            self.transport.close()


def open_all(
    devices: Iterable[Device], patience: Patience | None = None
) -> dict[str, Session | HarnessError]:
    """Connect to every device at once; one that is away is its error, not an exception."""
    wanted = list(devices)
    patience = patience or Patience()

    def connect(device: Device) -> Session | HarnessError:
        try:
            return Session(device, patience=patience)
        except HarnessError as error:
            return error

    with ThreadPoolExecutor(max_workers=max(1, min(16, len(wanted)))) as pool:
        try:
            return dict(zip((d.name for d in wanted), pool.map(connect, wanted), strict=True))
        except BaseException:
            # A Ctrl-C; the pool waits for its threads.
            patience.over.set()
            raise

"""A device of the farm to a live session: transport, dialect, facts. Knows how to come back."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakValueDictionary

from harness.devices import opening
from harness.errors import Crashed, HarnessError, Unreachable
from harness.measure import leases
from harness.measure.leases import Patience
from harness.protocols import Dialect, OpenDialect, OpenTransport, Transport
from harness.types import Device, DeviceFacts, Push

_MAX_BREAKS = 4
_OPEN: WeakValueDictionary[str, Session] = WeakValueDictionary()
"""Sessions of this process by ticket, so that picklable work can name one."""


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
        """Connect, deploy the agent, say hello; raises a HarnessError if that fails.

        A device whose lease another user holds is not disturbed: LeaseError, after the patience. The
        lease is not taken yet: see `hold`. Without openers, they are the device's own
        (harness.devices.opening).
        """
        self.device = device
        self._open_transport = transport or opening.open_transport
        self._open_dialect: OpenDialect = dialect or opening.open_dialect
        self._patience = patience or Patience()
        self._files: dict[str, Path] = {}
        self.pushed: list[Push] = []
        """Files that were sent and not yet reported."""
        self._was_there = False
        self.ticket = uuid.uuid4().hex
        """Names this session in work that is done in this process."""
        self._open()
        _OPEN[self.ticket] = self

    @classmethod
    def adopt(
        cls, device: Device, transport: Transport, dialect: Dialect, facts: DeviceFacts
    ) -> Session:
        """Make a session of a connection that is open already; `reopen` is not for it."""
        session = cls.__new__(cls)
        session.device, session.transport = device, transport
        session.dialect, session.facts = dialect, facts
        session._patience = Patience()  # noqa: SLF001 - its own
        session._files, session.pushed = {}, []  # noqa: SLF001 - its own
        session.ticket = uuid.uuid4().hex
        return session

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
                if not self._was_there or late or breaks == _MAX_BREAKS:
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
            leases.wait_until_free(self.dialect, self.device.name, self._patience)
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

    def hold(self) -> None:
        """Take the device for this controller alone; see :func:`harness.measure.leases.hold`."""
        leases.hold(self.dialect, self.device.name, self._patience)

    def release(self) -> None:
        """Let other users have the device; never raises."""
        leases.release(self.dialect)

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


@contextmanager
def reached(device: Device, ticket: str | None, patience: Patience | None) -> Iterator[Session]:
    """Give the session with this ticket, or in another process one that is opened and closed here."""
    known = _OPEN.get(ticket) if ticket else None
    if known is not None:
        yield known
        return
    session = Session(device, patience=patience)
    try:
        yield session
    finally:
        session.close()


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


def close_all(live: Mapping[str, Session | HarnessError]) -> None:
    """Close every session that is open."""
    for session in live.values():
        if isinstance(session, Session):
            session.close()

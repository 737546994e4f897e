"""Open a session with a device of the farm: transport, dialect, facts. A session can reconnect."""

from __future__ import annotations

import logging
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from weakref import WeakValueDictionary

from harness.devices import opening
from harness.errors import (
    ConfigError,
    Crashed,
    HarnessError,
    InternalError,
    LeaseError,
    LoginFailed,
    Unreachable,
)
from harness.events import Note, Pushing, Reconnecting
from harness.measure import leases, sameness
from harness.measure.leases import Patience
from harness.protocols import Dialect, OpenDialect, OpenTransport, ReportsProgress, Transport
from harness.types import Device, DeviceFacts, Push, PushProgress

_log = logging.getLogger(__name__)
REFUSED_SECONDS = 5.0
"""How long to try a device whose host refuses the connection, or whose name is not known."""

_QUICK = (ConnectionRefusedError, socket.gaierror)

GREETING_BREAKS, GREETING_SECONDS = 4, 20.0
"""A device whose connection breaks this often, for this long, before it has ever answered `hello` is
faulty. A device that has answered is tried as long as the patience lasts."""

_ADVANCE = 0.01
"""The part of a file by which a push must get further to count as progress."""

_SHOWN_EVERY_SECONDS = 1.0
CLOSE_SECONDS = 2.5
"""How long a device may take to end its agent; then its connection is cut."""

_FIRST_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 0.2, 2.0
_RETRY_AFTER_SECONDS = 10.0
"""A device that could not be reached is tried again if this long was built meanwhile."""
_OPEN: WeakValueDictionary[str, Session] = WeakValueDictionary()
"""Sessions of this process by ticket, so that picklable work can refer to one."""


class Session:
    """A connected device: its agent runs and has answered `hello`."""

    def __init__(
        self,
        device: Device,
        *,
        transport: OpenTransport | None = None,
        dialect: OpenDialect | None = None,
        patience: Patience | None = None,
    ) -> None:
        """Connect, deploy the agent and send `hello`; raises a HarnessError if that fails.

        While another user holds the lease, the device is not disturbed: raises LeaseError if the
        patience runs out. The lease is not taken yet: see `hold`. Without openers, the session
        uses those of the device's address and profile (harness.devices.opening).
        """
        self.device = device
        self._open_transport = transport or opening.open_transport
        self._open_dialect: OpenDialect = dialect or opening.open_dialect
        self.patience = patience or Patience()
        self._files: dict[str, Path] = {}
        self._has_files = True
        """Whether the device has them on the present connection."""
        self.pushed: list[Push] = []
        """Files that were sent but not yet reported."""
        self.advances = 0
        """How often a push got further than every attempt before it."""
        self._arrived: dict[str, float] = {}
        """The largest part of each file that ever arrived, by file name."""
        self._shown_at = 0.0
        self._has_connected = self._has_answered = False
        self.ticket = uuid.uuid4().hex
        """Identifies this session in work that runs in this process."""
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
        session.patience = Patience()
        session._files, session._has_files = {}, True  # noqa: SLF001 - its own
        session.pushed, session.advances = [], 0
        session.ticket = uuid.uuid4().hex
        return session

    def _open(self) -> None:
        """Connect and start the agent; retry for as long as the patience says.

        A device that was never reached is waited for `first_seconds` of the patience, or less if the
        host refuses the connection (REFUSED_SECONDS). One that was reached but never answered is not
        waited for that long either (GREETING_SECONDS).
        """
        since, advances = time.monotonic(), self.advances
        pause, breaks = _FIRST_PAUSE_SECONDS, 0
        while True:
            connected = False
            try:
                self.transport: Transport = self._open_transport(self.device)
                self._has_connected = connected = True
                self._greet()
            except Unreachable as error:
                breaks += connected
                if self.advances != advances:
                    since, advances = time.monotonic(), self.advances
                is_refused = isinstance(error, LoginFailed) and not self._has_connected
                if is_refused or self._is_too_late(time.monotonic() + pause - since, breaks, error):
                    raise
                self._report_failure(error, is_first=pause == _FIRST_PAUSE_SECONDS)
                if self.patience.over.wait(pause):
                    raise
                pause = min(2 * pause, _MAX_PAUSE_SECONDS)
            else:
                self._has_answered = True
                return

    def _report_failure(self, error: Unreachable, *, is_first: bool) -> None:
        """Report a failed attempt before the first answer; later ones are the recovery's to report."""
        name = self.device.name
        if self._has_connected and not self._has_answered:
            self.patience.emit(Reconnecting(device=name, reason=str(error)))
        elif is_first and not self._has_connected:
            seconds = f"tried again for {self._first_seconds(error):.0f} s"
            self.patience.emit(Note(device=name, reason=f"{error}; {seconds}"))

    def _first_seconds(self, error: Unreachable) -> float:
        """Return how long to try a device that was never reached; a host that refuses is on."""
        seconds = self.patience.first_seconds
        return min(seconds, REFUSED_SECONDS) if isinstance(error.__cause__, _QUICK) else seconds

    def _is_too_late(self, seconds: float, breaks: int, error: Unreachable) -> bool:
        """Whether to give up, after this time and this many connections that opened and broke."""
        if not self._has_connected:
            # A device that is away delays no build; it is tried again afterwards.
            return self.patience.working.is_set() or seconds >= self._first_seconds(error)
        if seconds >= self.patience.away_seconds:
            return True
        faulty = breaks >= GREETING_BREAKS and seconds >= GREETING_SECONDS
        return faulty and not self._has_answered

    def _greet(self) -> None:
        try:
            if isinstance(self.transport, ReportsProgress):
                self.transport.on_progress = self._note_progress
            self.dialect: Dialect = self._open_dialect(self.transport, self.device)
            _require_capabilities(self.dialect, self.device)
            self.dialect.deploy({})
            leases.wait_until_free(self.dialect, self.device.name, self.patience)
            self.facts: DeviceFacts = self._hello()
        except BaseException:
            self.close()
            raise

    def _note_progress(self, progress: PushProgress) -> None:
        """Count a push that gets further than all before it, and report it once a second."""
        part = progress.arrived_bytes / max(1, progress.file_bytes)
        if part >= self._arrived.get(progress.name, 0.0) + _ADVANCE:
            self._arrived[progress.name] = part
            self.advances += 1
        now = time.monotonic()
        if now - self._shown_at >= _SHOWN_EVERY_SECONDS:
            self._shown_at = now
            self.patience.emit(Pushing(device=self.device.name, progress=progress))

    def _hello(self) -> DeviceFacts:
        """Send `hello`, twice if the process that searches for runtimes was killed."""
        try:
            return self.dialect.hello()
        except Crashed:
            return self.dialect.hello()

    def hold(self) -> None:
        """Take the lease for this controller; see :func:`harness.measure.leases.hold`."""
        leases.hold(self.dialect, self.device.name, self.patience)

    def release(self) -> None:
        """Release the lease; never raises."""
        leases.release(self.dialect)

    def bring(self, files: Mapping[str, Path]) -> None:
        """Take the lease and send these files (sha256 to path), except those already there."""
        self.hold()
        self._files.update(files)
        self.pushed += self.dialect.deploy(files)

    def restore(self) -> None:
        """Send the files again that the device no longer has, once after each `reopen`."""
        if not self._has_files:
            self.pushed += self.dialect.deploy(self._files)
            self._has_files = True

    def reopen(self) -> None:
        """Connect again, until the patience runs out; raises Unreachable with the last reason.

        The files are not sent: see `restore`. The device must be as it was: a different board that
        answers under this address must not be measured in its place (Unreachable), nor another
        runtime or kernel (DeviceChanged).
        """
        before = self.facts
        self.close()
        self._has_files = False
        self._open()
        if differences := sameness.of_facts(before, self.facts):
            now, self.facts = self.facts, before
            self.close()
            if now.identity != before.identity:
                raise Unreachable(
                    f"{self.device.name}: another machine answers at {self.device.address} now"
                )
            raise sameness.changed(self.device.name, differences)

    def interrupt(self) -> None:
        """Cut the connection from another thread; a thread that waits for the device wakes up.

        Nothing is sent to the agent, since another thread may be using the connection; the agent
        ends with it. Call `close` after that thread has ended.
        """
        self.patience.over.set()
        self.transport.close()

    def close(self) -> None:
        """End the agent and close the connection; never raises."""
        for name in ("dialect", "transport"):
            part: Dialect | Transport | None = getattr(self, name, None)
            if part is None:
                continue
            try:
                part.close()
            except Exception:  # noqa: BLE001 - a bug in a plug-in must not hide what was measured
                _log.debug("closing %s of %s", name, self.device.name, exc_info=True)


def _require_capabilities(dialect: Dialect, device: Device) -> None:
    if not hasattr(dialect, "can"):
        raise ConfigError(
            f"{device.name}: {type(dialect).__name__} does not declare what it can do; give the "
            "dialect an attribute `can` (harness.protocols.Capabilities)"
        )


@contextmanager
def reached(device: Device, ticket: str | None, patience: Patience | None) -> Iterator[Session]:
    """Yield the session with this ticket; in another process, open one and close it at the end."""
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
    devices: Iterable[Device],
    patience: Patience | None = None,
    opener: Callable[[Device], Session] | None = None,
    on_failure: Callable[[Device, HarnessError], None] = lambda _, __: None,
) -> dict[str, Session | HarnessError]:
    """Connect to all devices at once with `opener`; for a device that fails, return its error.

    `on_failure` is called with each error as soon as it happens, from several threads.
    """
    wanted = list(devices)
    patience = patience or Patience()

    def connect(device: Device) -> Session | HarnessError:
        try:
            return opener(device) if opener else Session(device, patience=patience)
        except HarnessError as error:
            on_failure(device, error)
            return error
        except Exception as error:  # noqa: BLE001 - a bug in a plug-in ends only its own device
            return InternalError.of(error)

    pool = ThreadPoolExecutor(max_workers=max(1, min(16, len(wanted))))
    opening = [pool.submit(connect, one) for one in wanted]
    try:
        return {one.name: each.result() for one, each in zip(wanted, opening, strict=True)}
    except BaseException:
        # A device may answer late or never: it is not waited for, and its session is closed.
        patience.over.set()
        for each in opening:
            each.add_done_callback(_close_opened)
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _close_opened(opened: Future[Session | HarnessError]) -> None:
    """Close the session that was opened too late."""
    if not opened.cancelled() and opened.exception() is None:
        close_all({"": opened.result()})


class OpeningSessions:
    """Connects to devices in the background, while the caller builds variants.

        with OpeningSessions(devices, patience) as opening:
            ...
            live = opening.result()

    A device that another user holds is reported at once, and is waited for at least until `result` is
    called. A device that cannot be reached is reported at once too, and `result` tries it once more.
    If the block ends with an error, the waiting ends and the sessions are closed.
    """

    def __init__(self, devices: Iterable[Device], patience: Patience) -> None:
        """Start to connect."""
        self._devices = tuple(devices)
        self._patience = patience
        self._started = time.monotonic()
        patience.working.set()
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._live = self._pool.submit(open_all, self._devices, patience, on_failure=self._report)

    def _report(self, device: Device, error: HarnessError) -> None:
        if self._patience.working.is_set() and isinstance(error, Unreachable):
            reason = f"{error}; it is tried again when everything is built"
            self._patience.emit(Note(device=device.name, reason=reason))

    def busy(self) -> dict[str, LeaseError]:
        """Wait for the connections, and return the devices that other users hold, with the errors."""
        found = self._live.result()
        return {name: one for name, one in found.items() if isinstance(one, LeaseError)}

    def result(self, names: Iterable[str] | None = None) -> dict[str, Session | HarnessError]:
        """Return a session per device, or its error; as :func:`open_all`.

        Sessions of devices that are not among `names` are closed and left out.
        """
        self._patience.working.clear()
        live = self._live.result()
        if names is not None:
            wanted = set(names)
            close_all({name: one for name, one in live.items() if name not in wanted})
            live = {name: one for name, one in live.items() if name in wanted}
        away = [one for one in self._devices if self._is_worth_trying(live.get(one.name))]
        return live | open_all(away, self._patience)

    def _is_worth_trying(self, found: Session | HarnessError | None) -> bool:
        """Whether a device may answer by now: a while has passed, or the patience gives it one."""
        if time.monotonic() - self._started > _RETRY_AFTER_SECONDS:
            return isinstance(found, Unreachable)
        is_refused = isinstance(found, LoginFailed)
        return (
            isinstance(found, Unreachable) and not is_refused and self._patience.first_seconds > 0
        )

    def abandon(self) -> None:
        """End the waiting, and close the sessions."""
        self._patience.over.set()
        self._live.add_done_callback(
            lambda done: None if done.exception() else close_all(done.result())
        )

    def __enter__(self) -> Self:
        """Return the object itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the waiting; after an error close the sessions, too."""
        if error is not None:
            self.abandon()
        self._patience.working.clear()
        # On Ctrl-C a device that does not answer is not waited for.
        self._pool.shutdown(wait=not isinstance(error, KeyboardInterrupt))


def close_all(live: Mapping[str, Session | HarnessError]) -> None:
    """Close every session that is open, all at once; cut those that do not end in time."""
    closing = {
        threading.Thread(target=session.close, name="close", daemon=True): session
        for session in live.values()
        if isinstance(session, Session)
    }
    for thread in closing:
        thread.start()
    deadline = time.monotonic() + CLOSE_SECONDS
    for thread in closing:
        thread.join(max(0.0, deadline - time.monotonic()))
    for thread, session in closing.items():
        if thread.is_alive():
            with suppress(OSError, KeyError, ValueError):
                session.interrupt()

"""Broken connections: patience counts time, and what breaks a device each time fails alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from test_run_loop import PROFILES, Watch, cell

from harness.errors import (
    Crashed,
    HarnessError,
    LeaseError,
    RuntimeMissing,
    TransferFailed,
    Unreachable,
)
from harness.events import Event, Reconnected, Reconnecting, Stopped
from harness.measure import run as loop
from harness.measure import sessions
from harness.measure.conditions import WaitClock
from harness.measure.leases import Patience
from harness.measure.recovery import (
    CALM_SECONDS,
    MAX_BREAKS,
    MAX_FAILED_IN_A_ROW,
    Recovery,
)
from harness.measure.sessions import Session
from harness.testing import FakeDialect, FakeTransport
from harness.types import Device, DeviceFacts, Launch, LaunchOrder, Outcome, Push, PushProgress

DEVICE = Device(name="d", profile="fake", address="fake:")


class World(threading.Event):
    """A device on a link with breaks, on a clock that only waiting moves."""

    def __init__(self, breaks: tuple[float, ...] = (), down: float = 0.0) -> None:
        """The connection breaks at these seconds; the device is away for `down` after each."""
        super().__init__()
        self.now = 0.0
        self.breaks = breaks
        self.down = down
        self.opened = 0.0
        self.connections = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.now += timeout or 0.0
        return False

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def open(self, device: Device) -> FakeTransport:
        if any(at <= self.now < at + self.down for at in self.breaks):
            raise Unreachable("connection refused")
        self.opened = self.now
        self.connections += 1
        return FakeTransport(device)

    def use(self, seconds: float) -> None:
        """Use the connection for so long; raises Unreachable if it broke since it was opened."""
        self.now += seconds
        broken = [at for at in self.breaks if self.opened < at <= self.now]
        if broken:
            self.now = max(self.opened, broken[0])
            raise Unreachable("link down")

    def session(self, away_seconds: float = 120.0) -> Session:
        world = self

        class Linked(FakeDialect):
            def hello(self) -> DeviceFacts:
                world.use(0.0)
                return super().hello()

        patience = Patience(away_seconds=away_seconds, over=self)
        return Session(DEVICE, transport=self.open, dialect=Linked.opener(), patience=patience)

    def recovery(self, session: Session, watch: Callable[[Event], None]) -> Recovery:
        timing = WaitClock(clock=lambda: self.now, sleep=self.sleep)
        return Recovery(session=session, emit=watch, timing=timing)


@pytest.mark.parametrize(
    "breaks",
    [(1.0,), (1.0, 4.0), (0.5, 1.0, 1.5, 2.0, 2.5), (2.0, 4.5, 7.0, 9.5, 11.5)],
    ids=["one", "two 3 s apart", "five in 2 s", "five in 10 s"],
)
@pytest.mark.parametrize("seconds", [0.3, 3.0, 8.0])
@pytest.mark.parametrize("down", [0.0, 0.4])
@pytest.mark.parametrize("work", ["a launch", None])
def test_a_burst_of_breaks_costs_no_launch_and_no_push(
    breaks: tuple[float, ...], seconds: float, down: float, work: str | None
) -> None:
    world, watch = World(breaks, down), Watch()
    recovery = world.recovery(world.session(), watch)
    for _ in range(40):
        recovery.run(lambda: world.use(seconds), work)
        recovery.progressed()
    again = [event for event in watch.events if isinstance(event, Reconnected)]
    assert [event.times for event in again] == list(range(1, len(again) + 1))
    assert recovery.times == len(again) >= 1


def test_many_breaks_with_a_launch_between_them_never_use_up_the_patience() -> None:
    world = World(tuple(float(at) for at in range(5, 2000, 5)))
    recovery = world.recovery(world.session(away_seconds=20.0), Watch())
    for _ in range(100):
        recovery.run(lambda: world.use(2.0), "a launch")
        recovery.progressed()
    assert recovery.times > 10


def test_a_launch_that_breaks_the_connection_each_time_fails_by_its_name() -> None:
    world = World()
    session = world.session()
    recovery = world.recovery(session, Watch())
    attempts = 0

    def crash() -> None:
        nonlocal attempts
        attempts += 1
        world.now += 1.0
        raise Unreachable("the stream ended")

    with pytest.raises(Crashed, match=r"d: a launch of m broke the connection 3 times in a row"):
        recovery.run(crash, "a launch of m")
    assert attempts == MAX_BREAKS
    assert world.connections == 1 + MAX_BREAKS, "the device is there for the next cell"
    assert world.now >= CALM_SECONDS, "the last attempt came after a calm time"
    recovery.run(lambda: world.use(1.0), "a launch of n")


def test_a_board_that_takes_longer_to_boot_than_half_the_patience_is_not_lost() -> None:
    world = World()
    recovery = world.recovery(world.session(away_seconds=120.0), Watch())

    def crash() -> None:
        world.breaks, world.down = (*world.breaks, world.now + 1e-3), 70.0
        world.now += 1.0
        raise Unreachable("the stream ended")

    with pytest.raises(Crashed):
        recovery.run(crash, "a launch")


def test_a_link_that_never_holds_ends_with_the_patience_and_says_so() -> None:
    world = World(tuple(at / 2 for at in range(2, 2000)))
    recovery = world.recovery(world.session(away_seconds=60.0), Watch())
    for work in ("a launch", None):
        began = world.now
        with pytest.raises(Unreachable, match=r"again and again.*patience_seconds = 60"):
            recovery.run(lambda: world.use(5.0), work)
        assert 60.0 <= world.now - began <= 100.0
        recovery.progressed()


def test_a_device_on_which_every_launch_breaks_the_connection_is_lost_in_the_end() -> None:
    world = World()
    recovery = world.recovery(world.session(), Watch())

    def crash() -> None:
        raise Unreachable("the stream ended")

    for _ in range(MAX_FAILED_IN_A_ROW - 1):
        with pytest.raises(Crashed):
            recovery.run(crash, "a launch")
    with pytest.raises(Unreachable, match="none succeeded"):
        recovery.run(crash, "a launch")


@pytest.mark.parametrize("error", [LeaseError("busy"), TransferFailed("it arrived damaged")])
def test_what_is_no_break_is_repeated_a_few_times_and_then_raised(error: HarnessError) -> None:
    world = World()
    recovery = world.recovery(world.session(), Watch())
    attempts = []

    def fail() -> None:
        attempts.append(1)
        raise error

    with pytest.raises(type(error)):
        recovery.run(fail, "a launch")
    assert 2 <= len(attempts) <= 3


def test_a_transfer_that_failed_because_the_link_broke_counts_as_a_break() -> None:
    world = World((1.0, 2.0, 3.0, 4.0))
    recovery = world.recovery(world.session(), Watch())

    def push() -> None:
        try:
            world.use(0.7)
        except Unreachable as error:
            raise TransferFailed("about 90 of 100 bytes were sent") from error

    for _ in range(20):
        recovery.run(push)


def test_an_error_that_lost_the_device_is_not_repeated_by_an_outer_action() -> None:
    world = World(tuple(at / 2 for at in range(2, 2000)))
    recovery = world.recovery(world.session(away_seconds=30.0), Watch())
    inner = 0

    def launch() -> None:
        nonlocal inner
        inner += 1
        recovery.run(lambda: world.use(5.0), "a launch")

    with pytest.raises(Unreachable):
        recovery.run(launch, "a launch")
    assert inner == 1


def test_another_error_while_reconnecting_ends_the_device() -> None:
    world = World()
    session = world.session()
    recovery = world.recovery(session, Watch())

    def broken_python(*_: object) -> FakeTransport:
        raise RuntimeMissing("no Python on the device")

    def launch() -> None:
        session._open_transport = broken_python
        raise Unreachable("link down")

    with pytest.raises(RuntimeMissing):
        recovery.run(launch, "a launch")


def test_waiting_for_a_calm_link_ends_when_the_work_is_stopped() -> None:
    world, stop = World(), threading.Event()
    recovery = world.recovery(world.session(), Watch())
    recovery.stop = stop

    def crash() -> None:
        if world.connections == MAX_BREAKS - 1:
            stop.set()
        raise Unreachable("link down")

    with pytest.raises(Stopped):
        recovery.run(crash, "a launch")


# --- pushes --------------------------------------------------------------------------------------


class Pushing(FakeDialect):
    """A dialect whose push of a file breaks after the next of these parts of it."""

    parts: list[float]
    session: Session
    pushes = 0

    def deploy(self, files: Mapping[str, Path]) -> tuple[Push, ...]:
        if files:
            type(self).pushes += 1
            part = self.parts.pop(0) if self.parts else 1.0
            sent = int(1000 * part)
            self.session._note_progress(
                PushProgress(name="f", arrived_bytes=sent, file_bytes=1000, bytes_per_second=0.0)
            )
            if part < 1.0:
                self.world.now += 100.0
                raise Unreachable(f"about {sent} of 1000 bytes were sent")
        return ()

    world: World


def pushing(parts: list[float]) -> tuple[World, Session, type[Pushing]]:
    world = World()

    class Here(Pushing):
        pass

    Here.parts, Here.world, Here.pushes = parts, world, 0
    patience = Patience(away_seconds=120.0, over=world)
    session = Session(DEVICE, transport=world.open, dialect=Here.opener(), patience=patience)
    Here.session = session
    return world, session, Here


def test_a_push_that_breaks_near_its_end_is_made_again_however_long_it_takes() -> None:
    world, session, kind = pushing([0.9, 0.9])
    recovery = world.recovery(session, Watch())
    recovery.run(lambda: session.bring({"f": Path("f")}))
    assert world.now > 200.0
    assert kind.pushes >= 3


def test_a_push_that_gets_further_each_time_uses_no_patience_and_others_end() -> None:
    world, session, _ = pushing([part / 20 for part in range(1, 20)])
    world.recovery(session, Watch()).run(lambda: session.bring({"f": Path("f")}))
    assert world.now >= 1900.0
    world, session, kind = pushing([0.5] * 50)
    with pytest.raises(Unreachable, match=r"about 500 of 1000 bytes.*nothing succeeded for"):
        world.recovery(session, Watch()).run(lambda: session.bring({"f": Path("f")}))
    assert kind.pushes <= 6


def test_files_are_sent_again_before_the_launch_is_repeated() -> None:
    world, session, kind = pushing([])
    recovery = world.recovery(session, Watch())
    recovery.run(lambda: session.bring({"f": Path("f")}))
    broken = [Unreachable("link down")]

    def launch() -> None:
        if broken:
            raise broken.pop()

    recovery.run(launch, "a launch")
    assert kind.pushes == 2


# --- a whole run ---------------------------------------------------------------------------------


class Crashing(FakeDialect):
    """A device that one model crashes: its stream ends at each of its timed launches."""

    def launch(self, order: LaunchOrder) -> Launch:
        if order.cell_id == cell("bad").id and order.kind == "timed":
            raise Unreachable("the agent's stream ended")
        return super().launch(order)


def test_a_model_that_crashes_the_board_costs_its_cell_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("harness.measure.recovery.CALM_SECONDS", 0.01)
    live = Session(DEVICE, transport=FakeTransport, dialect=Crashing.opener())
    watch = Watch()
    cells = [cell("bad"), cell("a"), cell("b")]
    outcomes: dict[str, Outcome] = {
        one.cell.model: one for one in loop.run(cells, {"d": live}, watch, profiles=PROFILES)
    }
    failure = outcomes["bad"].failure
    assert failure is not None
    assert failure.kind == "crashed"
    assert "a launch of bad" in failure.reason
    assert outcomes["a"].failure is None
    assert outcomes["b"].failure is None
    assert sum(isinstance(event, Reconnecting) for event in watch.events) == MAX_BREAKS


def test_a_device_that_never_answers_ends_after_a_while_and_a_burst_does_not_count() -> None:
    world = World(tuple(float(at) / 10 for at in range(1, 50)))
    tries = 0

    class Breaking(FakeDialect):
        def hello(self) -> DeviceFacts:
            nonlocal tries
            tries += 1
            if tries <= 6:
                raise Unreachable("the stream ended")
            return super().hello()

    patience = Patience(over=world)
    Session(DEVICE, transport=FakeTransport, dialect=Breaking.opener(), patience=patience)
    assert tries == 7 > sessions.GREETING_BREAKS

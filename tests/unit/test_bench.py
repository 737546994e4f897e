"""The bench with fakes at the seams: conditions held and undone, optional launches, meters, engines."""

import pickle
import threading
from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np
import pytest
from test_run_loop import DEVICE, PROFILES, Watch, cell, session, timed, variant

from harness.errors import (
    AgentError,
    AgentSilent,
    ConfigError,
    Crashed,
    DeviceChanged,
    HarnessError,
    MeterError,
    StoreError,
    Unreachable,
    Unsupported,
)
from harness.events import CellEnded, Event, Note, NotMeasured, Reconnecting, Stopped
from harness.measure import blocks
from harness.measure import run as loop
from harness.measure.bench import Bench
from harness.measure.conditions import WaitClock
from harness.measure.engines.threads import ThreadsEngine
from harness.measure.output_check import OUTPUTS_UNCHECKED
from harness.measure.sessions import Session
from harness.protocols import Capabilities, Reply, StopFlag
from harness.testing import FakeDialect, FakeTransport
from harness.types import (
    Cell,
    Conditions,
    Covariates,
    Device,
    Launch,
    LaunchOrder,
    Outcome,
    Runtime,
    Samples,
)

ONLY_TIMED = Capabilities(launches=frozenset({"timed"}))


def measured(
    cells: Sequence[Cell], conditions: Conditions | None = None, **answers: Any
) -> tuple[dict[str, Outcome], Watch]:
    watch = Watch()
    found = loop.run(
        cells,
        {"d": session(**answers)},
        watch,
        profiles=PROFILES,
        conditions=conditions or Conditions(),
    )
    return {outcome.cell.model: outcome for outcome in found}, watch


# --- what the dialect cannot do ------------------------------------------------------------------


def test_a_dialect_with_timed_launches_only_gives_a_row_and_notes(tmp_path: Path) -> None:
    np.savez(tmp_path / "inputs.npz", x=np.zeros((2, 4), "float32"))
    asked = cell("a", check_inputs=str(tmp_path / "inputs.npz"))
    outcomes, watch = measured([asked], can=ONLY_TIMED)
    assert timed(outcomes["a"]) == [0, 1, 2, 3]
    notes = {event.what for event in watch.events if isinstance(event, NotMeasured)}
    assert notes == {"outputs", "bare", "memory"}
    flags = {flag for one in outcomes["a"].launches for flag in one.flags}
    assert OUTPUTS_UNCHECKED in flags


def test_a_dialect_that_refuses_when_asked_gives_the_same_row(tmp_path: Path) -> None:
    """As CONTRIBUTING's example was before a dialect could say what it can do."""

    class Refusing(FakeDialect):
        def launch(self, order: LaunchOrder) -> Launch:
            if order.kind != "timed":
                raise Unsupported(f"no {order.kind} launches")
            return super().launch(order)

        def infer(self, order: LaunchOrder, inputs: Any) -> Any:
            raise Unsupported("no outputs")

    np.savez(tmp_path / "inputs.npz", x=np.zeros((2, 4), "float32"))
    watch = Watch()
    live = Session(DEVICE, transport=FakeTransport, dialect=Refusing.opener())
    asked = cell("a", check_inputs=str(tmp_path / "inputs.npz"))
    (outcome,) = loop.run([asked], {"d": live}, watch, profiles=PROFILES)
    assert timed(outcome) == [0, 1, 2, 3]
    reasons = {one.what: one.reason for one in watch.events if isinstance(one, NotMeasured)}
    assert reasons == {
        "outputs": "no outputs",
        "bare": "no bare launches",
        "memory": "no memory launches",
    }


def test_a_dialect_without_timed_launches_is_unsupported() -> None:
    outcomes, watch = measured([cell("a")], can=Capabilities(launches=frozenset({"memory"})))
    failure = outcomes["a"].failure
    assert failure is not None
    assert failure.kind == "unsupported"
    assert watch.started == []


# --- conditions ----------------------------------------------------------------------------------


class Warm(FakeTransport):
    """A device with one thermal zone and a shell that pins."""

    celsius = (40.0,)

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.reads = 0

    def run(self, argv: Sequence[str], timeout_seconds: float, stdin: bytes | None = None) -> Reply:
        if "thermal_zone" in argv[-1]:
            degrees = self.celsius[min(self.reads, len(self.celsius) - 1)]
            self.reads += 1
            text = f"{round(degrees * 1000)}\n".encode()
            return Reply(argv=tuple(argv), exit_code=0, stdout=text, stderr=b"", seconds=0.0)
        return super().run(argv, timeout_seconds, stdin)


class Shell:
    """The pinning shell's side of a channel."""

    log: ClassVar[list[str]] = []

    def __init__(self) -> None:
        self.answers = [b"speed 1500000 1500000\nready\n"]
        Shell.log.append("pinned")

    def send(self, data: bytes) -> None:
        self.answers.append(b"restored\n")
        Shell.log.append("restored")

    def read(self, deadline: float) -> bytes:
        return self.answers.pop(0)

    def errors(self) -> bytes:
        return b""

    def close(self) -> None:
        Shell.log.append("closed")


class Pinned(Warm):
    def talk(self, argv: Sequence[str]) -> Any:
        return Shell()


def bench(transport: Any, conditions: Conditions | None = None, **answers: Any) -> Bench:
    now = [0.0]
    sleeps: list[float] = []

    def sleep(seconds: float) -> None:
        sleeps.append(seconds)
        now[0] += seconds

    live = Session(DEVICE, transport=transport, dialect=FakeDialect.opener(**answers))
    return Bench(
        session=live,
        emit=Watch(),
        conditions=conditions or Conditions(),
        timing=WaitClock(clock=lambda: now[0], sleep=sleep),
    )


def order_of(made: Cell) -> LaunchOrder:
    return LaunchOrder(
        cell_id=made.id,
        kind="timed",
        block=0,
        position=0,
        variant_digest=variant("a").digest,
        target="xnnpack",
        threads=1,
        dose=made.dose,
    )


def test_the_governor_is_pinned_for_the_launches_and_restored_also_after_a_crash(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Shell, "log", [])
    made = cell("a")
    faults: dict[str, list[HarnessError]] = {f"{made.id}-timed-0-0": [Crashed("SIGSEGV")]}
    held = bench(Pinned, faults=faults)
    with pytest.raises(Crashed), held:
        held.launch(made, order_of(made))
    assert Shell.log == ["pinned", "restored", "closed"]


def test_nothing_is_pinned_or_placed_if_the_plan_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shell, "log", [])
    orders: list[LaunchOrder] = []
    facts = {"processors": (3, 1)}
    with bench(Pinned, Conditions(pin=False), orders=orders, facts=facts) as held:
        held.launch(cell("a"), order_of(cell("a")))
    with bench(Pinned, orders=orders, facts=facts) as held:
        held.launch(cell("a"), order_of(cell("a")))
    assert Shell.log == ["pinned", "restored", "closed"]
    assert [one.processors for one in orders] == [(), (3,)]


@pytest.mark.parametrize(("thermal", "waited"), [("cool", 2.0), ("none", 0.0)])
def test_a_run_waits_for_a_cool_device_as_the_gate_does(thermal: Any, waited: float) -> None:
    class Hot(Warm):
        celsius = (40.0, 60.0, 50.0, 41.0)

    held = bench(Hot, Conditions(thermal=thermal))
    with held:
        held.launch(cell("a"), order_of(cell("a")))
    assert held.timing.clock() == waited
    watch = held.emit
    assert isinstance(watch, Watch)
    reasons = [event.reason for event in watch.events if isinstance(event, Note)]
    assert reasons == (["waiting until the device has cooled"] if waited else [])


def test_a_run_says_uncontrolled_only_if_the_governor_was_not_held() -> None:
    pinned = Covariates(governor="performance")
    free = Covariates(governor="schedutil")
    for state, flagged in ((pinned, False), (free, True)):
        outcomes, _ = measured([cell("a")], covariates=lambda _, s=state: (s, s))
        flags = {flag for one in outcomes["a"].launches for flag in one.flags}
        assert ("uncontrolled" in flags) == flagged


def test_a_governor_that_changes_is_flagged_and_named() -> None:
    pinned, free = Covariates(governor="performance"), Covariates(governor="powersave")

    def states(order: LaunchOrder) -> tuple[Covariates, Covariates]:
        if order.kind != "timed" or order.block < 2:
            return pinned, pinned
        return (pinned if order.block == 2 else free), free

    outcomes, watch = measured([cell("a")], covariates=states)
    timed_launches = [one for one in outcomes["a"].launches if one.kind == "timed"]
    assert ["uncontrolled" in one.flags for one in timed_launches] == [False, False, True, True]
    (reason,) = [event.reason for event in watch.events if isinstance(event, Note)]
    assert reason == (
        f"the governor changed from performance to powersave during launch {timed_launches[2].id}"
    )


# --- a device that changes ------------------------------------------------------------------------


def test_a_runtime_upgraded_in_mid_run_ends_the_row_and_is_named() -> None:
    def runtime(order: LaunchOrder) -> str:
        return "fake 1" if order.kind == "timed" and order.block >= 2 else "fake 0"

    outcomes, watch = measured([cell("a"), cell("b")], runtime=runtime)
    for outcome in outcomes.values():
        assert outcome.failure is not None
        assert outcome.failure.kind == "changed"
        assert "its runtime is fake 1, not fake 0" in outcome.failure.reason
        assert "--other-device" in outcome.failure.reason
    assert {one.runtime for one in watch.launches} == {"fake 0"}, "no launch of it is kept"


def test_a_row_that_was_complete_before_the_upgrade_stays() -> None:
    made: list[LaunchOrder] = []

    def runtime(order: LaunchOrder) -> str:
        made.append(order)
        last = order.kind == "timed" and order.block == 3
        return "fake 1" if last and sum(one.block == 3 for one in made) == 2 else "fake 0"

    outcomes, _ = measured([cell("a"), cell("b")], runtime=runtime)
    kinds = [one.failure.kind if one.failure else "ok" for one in outcomes.values()]
    assert sorted(kinds) == ["changed", "ok"]


@pytest.mark.parametrize(("fact", "value"), [("kernel", "7"), ("usable_cores", 2)])
def test_a_fact_in_the_answer_to_a_launch_is_compared(
    fact: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = FakeDialect.launch

    def launch(self: FakeDialect, order: LaunchOrder) -> Launch:
        return replace(made(self, order), **({fact: value} if order.block == 1 else {}))

    monkeypatch.setattr(FakeDialect, "launch", launch)
    outcomes, _ = measured([cell("a")], facts={"usable_cores": 4})
    failure = outcomes["a"].failure
    assert failure is not None
    assert failure.kind == "changed"
    assert str(value) in failure.reason


def test_a_gate_may_order_two_runtimes() -> None:
    with Bench(
        session=session(runtime=lambda order: order.runtime or "fake 0"), profile=None
    ) as held:
        for name in (None, "fake=1", None, "fake=1"):
            held.launch(cell("a"), replace(blocks.memory(cell("a"), 0), runtime=name))


@pytest.mark.parametrize(
    ("then", "now", "error", "text"),
    [
        ({}, {"kernel": "7"}, DeviceChanged, "its kernel is 7, not 0"),
        ({}, {"runtimes": (Runtime(name="fake", version="1"),)}, DeviceChanged, "is fake 1"),
        ({"usable_cores": 4}, {"usable_cores": 2}, DeviceChanged, "usable processors is 2, not 4"),
        ({}, {"identity": "other"}, Unreachable, "another machine answers"),
    ],
)
def test_a_device_that_comes_back_changed_is_not_measured(
    then: dict[str, Any], now: dict[str, Any], error: type[HarnessError], text: str
) -> None:
    known = [then]
    live = Session(
        DEVICE,
        transport=FakeTransport,
        dialect=lambda _, device: FakeDialect(device, facts=known[-1]),
    )
    live.reopen()
    known.append(now)
    for _ in range(2):  # also when it is tried again
        with pytest.raises(error, match=text):
            live.reopen()
    known.append(then)
    live.reopen()


def test_a_soaked_run_heats_first_and_flags_its_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.measure.thermal.MAX_SOAK_SECONDS", 0.05)
    orders: list[LaunchOrder] = []
    outcomes, watch = measured([cell("a")], Conditions(thermal="soak"), orders=orders)
    assert any(one.block == -1000 for one in orders)
    assert all(one.block >= 0 for one in watch.launches)
    assert all("hot" in one.flags for one in outcomes["a"].launches if one.kind == "timed")


# --- meters --------------------------------------------------------------------------------------


class Wattmeter:
    """One reading a launch, or a failure when it is left."""

    def __init__(self, broken: Exception | None = None) -> None:
        self.broken = broken

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.broken:
            raise self.broken

    def samples(self) -> tuple[Samples, ...]:
        ones = array("q", [1])
        return (Samples(series="power", at_ns=ones, value=array("d", [2500.0]), count=ones),)


@pytest.mark.parametrize("broken", [None, MeterError("unplugged"), KeyError("unplugged")])
def test_a_meter_is_read_over_each_timed_launch_and_costs_none(
    monkeypatch: pytest.MonkeyPatch, broken: Exception | None
) -> None:
    def open_meter(device: Device, transport: Any) -> Wattmeter:
        return Wattmeter(broken)

    def load(group: str, name: str) -> Any:
        return open_meter if group == "harness.meters" else ThreadsEngine

    monkeypatch.setattr("harness.plugins.load", load)
    metered = replace(DEVICE, meter="watts")
    live = Session(metered, transport=FakeTransport, dialect=FakeDialect.opener())
    watch = Watch()
    (outcome,) = loop.run([cell("a")], {"d": live}, watch, profiles=PROFILES)
    assert outcome.failure is None
    series = [
        {part.series for part in one.samples} for one in watch.launches if one.kind == "timed"
    ]
    assert series == [{"latency"} if broken else {"latency", "power"}] * 4
    notes = [event.reason for event in watch.events if isinstance(event, Note)]
    assert [("unplugged" in one) for one in notes] == ([True] if broken else [])


def test_a_meter_that_is_not_installed_is_reported_and_costs_nothing() -> None:
    live = Session(
        replace(DEVICE, meter="watts"), transport=FakeTransport, dialect=FakeDialect.opener()
    )
    watch = Watch()
    (outcome,) = loop.run([cell("a")], {"d": live}, watch, profiles=PROFILES)
    assert outcome.failure is None
    (note,) = [event for event in watch.events if isinstance(event, Note)]
    assert "watts" in note.reason


# --- work and engines ----------------------------------------------------------------------------


def test_the_work_of_a_device_travels_to_another_process() -> None:
    work = loop.DeviceWork(device=DEVICE, cells=(cell("a"),), done={"x": ()})
    assert pickle.loads(pickle.dumps(work)) == work


def test_work_that_opens_its_own_session_reports_a_device_that_is_away() -> None:
    nowhere = Device(name="d", profile="fake", address="ssh://nobody@127.0.0.1:1")
    found: list[Event] = []
    loop.DeviceWork(device=nowhere, cells=(cell("a"),))(found.append, threading.Event())
    (ended,) = found
    assert isinstance(ended, CellEnded)
    assert ended.outcome.failure is not None
    assert ended.outcome.failure.kind == "unreachable"


def test_every_event_is_picklable() -> None:
    outcomes, watch = measured([cell("a")])
    events: list[Event] = [*watch.events, CellEnded(outcome=outcomes["a"])]
    events += [Reconnecting(device="d", reason="r"), Note(device="d")]
    assert [pickle.loads(pickle.dumps(event)) for event in events] == events


def test_an_event_is_dealt_with_before_the_work_goes_on() -> None:
    steps: list[str] = []

    def work(emit: Any, stop: StopFlag) -> None:
        for number in range(3):
            emit(Note(device=str(number)))
            steps.append(f"after {number}")

    for event in ThreadsEngine().submit(work, threading.Event()):
        assert isinstance(event, Note)
        steps.append(f"got {event.device}")
    assert steps == [f"{what} {number}" for number in range(3) for what in ("got", "after")]


def test_an_engine_raises_what_the_work_raises() -> None:
    def work(emit: Any, stop: StopFlag) -> None:
        emit(Note(device="d"))
        raise Stopped

    found = ThreadsEngine().submit(work, threading.Event())
    assert next(found) == Note(device="d")
    with pytest.raises(Stopped):
        next(found)


def test_a_store_that_fails_ends_the_work_before_the_session_is_closed() -> None:
    class Full(Watch):
        def __call__(self, event: Event) -> None:
            super().__call__(event)
            if len(self.launches) == 2:
                raise StoreError("no space left on device")

    watch = Full()
    live = session()
    with pytest.raises(StoreError):
        list(loop.run([cell("a"), cell("b")], {"d": live}, watch, profiles=PROFILES))
    assert not [thread for thread in threading.enumerate() if thread.name == "work"]
    assert len(watch.started) == 2


def test_a_cell_that_crashes_while_it_heats_costs_no_other_cell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("harness.measure.thermal.MAX_SOAK_SECONDS", 0.02)
    bad = cell("bad")
    faults: dict[str, list[HarnessError]] = {f"{bad.id}-timed--1000-0": [Crashed("SIGSEGV")]}
    outcomes, _ = measured([bad, cell("a")], Conditions(thermal="soak"), faults=faults)
    assert outcomes["bad"].failure is not None
    assert outcomes["a"].failure is None


def test_a_meter_is_opened_again_on_a_new_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []

    def open_meter(device: Device, transport: Any) -> Wattmeter:
        opened.append(transport)
        return Wattmeter()

    def load(group: str, name: str) -> Any:
        return open_meter if group == "harness.meters" else ThreadsEngine

    monkeypatch.setattr("harness.plugins.load", load)
    faults: dict[str, list[HarnessError]] = {
        f"{cell('a').id}-timed-1-0": [Unreachable("link down")]
    }
    live = Session(
        replace(DEVICE, meter="watts"),
        transport=FakeTransport,
        dialect=FakeDialect.opener(faults=faults),
    )
    watch = Watch()
    (outcome,) = loop.run([cell("a")], {"d": live}, watch, profiles=PROFILES)
    assert outcome.failure is None
    assert len(opened) == len(set(map(id, opened))) == 2
    series = [{s.series for s in one.samples} for one in watch.launches if one.kind == "timed"]
    assert series == [{"latency", "power"}] * 4


def test_a_sensor_that_does_not_answer_costs_no_cell() -> None:
    class Slow(Warm):
        def run(self, argv: Sequence[str], timeout_seconds: float, stdin: Any = None) -> Reply:
            if "thermal_zone" in argv[-1]:
                raise AgentSilent("cat did not end in 10 s")
            return super().run(argv, timeout_seconds, stdin)

    with bench(Slow) as held:
        assert held.launch(cell("a"), order_of(cell("a"))).inferences


def test_waiting_for_a_cool_device_ends_when_the_work_is_stopped() -> None:
    class Hot(Warm):
        celsius = (40.0, 60.0)

    held = bench(Hot)
    stop = threading.Event()
    stop.set()
    held.held.stop = stop
    with pytest.raises(Stopped), held:
        held.launch(cell("a"), order_of(cell("a")))


def test_a_dialect_that_does_not_declare_what_it_can_do_is_refused_by_name() -> None:
    class Silent(FakeDialect):
        def __init__(self, device: Device) -> None:
            super().__init__(device)
            del self.can

    with pytest.raises(ConfigError, match="Silent does not declare what it can do"):
        Session(DEVICE, transport=FakeTransport, dialect=lambda _, device: Silent(device))


def test_a_pilot_without_a_latency_is_an_error_that_names_the_recipe() -> None:
    class Silent(FakeDialect):
        def launch(self, order: LaunchOrder) -> Launch:
            return replace(super().launch(order), samples=())

    live = Session(DEVICE, transport=FakeTransport, dialect=Silent.opener())
    with Bench(session=live) as held, pytest.raises(AgentError, match="a launch of r brought no"):
        held.pilot(cell("a"), replace(order_of(cell("a")), kind="timed"))

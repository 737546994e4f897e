"""The loop with fakes at the seams: one outcome a cell, whatever happens."""

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from harness.demo import DATA
from harness.devices.delegation import disagreement
from harness.errors import AgentSilent, Crashed, HarnessError, LoginFailed, OutOfMemory, Unreachable
from harness.events import CellEnded, Event, LaunchEnded, LaunchStarted, OutputsChecked
from harness.measure import run as loop
from harness.measure.leases import Patience
from harness.measure.sessions import CLOSE_SECONDS, Session, close_all, open_all
from harness.measure.soaking import SOAKING
from harness.optimize import reference
from harness.testing import FakeDialect, FakeTransport
from harness.tflite import flatbuffer
from harness.types import (
    Accept,
    Agreement,
    Cell,
    Conditions,
    Device,
    DeviceFacts,
    Dose,
    Failure,
    Launch,
    LaunchOrder,
    Outcome,
    Profile,
    Push,
    Uncompiled,
    Variant,
)

MODEL = DATA / "digits.tflite"
DEVICE = Device(name="d", profile="fake", address="fake:")
PROFILES = {"fake": Profile(name="fake", title="a fake", arch="fake", xnnpack=False)}
DOSE = Dose(launches=4, min_inferences=9)


class Watch:
    def __init__(self) -> None:
        self.started: list[LaunchOrder] = []
        self.launches: list[Launch] = []
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, LaunchStarted):
            self.started.append(event.order)
        elif isinstance(event, LaunchEnded):
            self.launches.append(event.launch)
        elif not isinstance(event, CellEnded | OutputsChecked):
            self.events.append(event)


def variant(name: str) -> Variant:
    return Variant(
        model=name, recipe="r", target="xnnpack", path=Path("x"), digest="d" * 64, size_bytes=1
    )


def cell(name: str, device: str = "d", **changes: Any) -> Cell:
    made = Cell(
        model=name,
        recipe="r",
        target="xnnpack",
        device=device,
        threads=1,
        variant=variant(name),
        dose=DOSE,
    )
    return replace(made, **changes)


def session(device: Device = DEVICE, **answers: Any) -> Session:
    return Session(device, transport=FakeTransport, dialect=FakeDialect.opener(**answers))


def leaving(device: Device = DEVICE, **answers: Any) -> Session:
    """A session of a device that is away for good once its connection breaks."""
    opened: list[FakeTransport] = []

    def open_once(device: Device) -> FakeTransport:
        if opened:
            raise Unreachable("connection refused")
        opened.append(FakeTransport(device))
        return opened[0]

    patience = Patience(away_seconds=0.1)
    dialect = FakeDialect.opener(**answers)
    return Session(device, transport=open_once, dialect=dialect, patience=patience)


def measure(
    cells: list[Cell],
    sessions: Mapping[str, Session | HarnessError],
    done: loop.Done | None = None,
) -> tuple[dict[str, Outcome], Watch]:
    watch = Watch()
    outcomes = list(loop.run(cells, sessions, watch, profiles=PROFILES, done=done))
    assert len({o.cell.id for o in outcomes}) == len(outcomes) == len(cells)
    return {outcome.cell.model: outcome for outcome in outcomes}, watch


def timed(outcome: Outcome) -> list[int]:
    return [launch.block for launch in outcome.launches if launch.kind == "timed"]


def test_every_cell_gets_its_launches_interleaved_with_memory_apart() -> None:
    cells = [cell("a"), cell("b"), cell("c")]
    outcomes, watch = measure(cells, {"d": session()})
    assert all(timed(outcome) == [0, 1, 2, 3] for outcome in outcomes.values())
    kinds = [launch.kind for launch in watch.launches]
    assert kinds.count("memory") == 3
    assert kinds.count("bare") == 1
    assert kinds.count("timed") == 12
    order = [launch.cell_id for launch in watch.launches if launch.kind == "timed"]
    assert order[3:6] == order[:3][::-1]


def test_a_crash_costs_its_cell_and_nothing_else() -> None:
    bad = cell("bad")
    faults: dict[str, list[HarnessError]] = {f"{bad.id}-timed-1-0": [Crashed("SIGSEGV")]}
    faults |= {f"{bad.id}-timed-1-{p}": [Crashed("SIGSEGV")] for p in range(3)}
    outcomes, _ = measure([cell("a"), bad, cell("c")], {"d": session(faults=faults)})
    assert outcomes["bad"].failure == Failure(kind="crashed", reason="SIGSEGV")
    assert timed(outcomes["a"]) == timed(outcomes["c"]) == [0, 1, 2, 3]


@pytest.mark.parametrize("error", [OutOfMemory("killed"), AgentSilent("no answer in 5 s")])
def test_each_ending_keeps_its_own_word(error: HarnessError) -> None:
    bad = cell("bad")
    faults = {f"{bad.id}-memory-0-0": [error]}
    outcomes, _ = measure([bad, cell("a")], {"d": session(faults=faults)})
    assert outcomes["bad"].failure == Failure(kind=error.kind, reason=str(error))
    assert outcomes["a"].failure is None


def test_a_broken_connection_is_mended_and_the_launch_made_again() -> None:
    only = cell("a")
    faults: dict[str, list[HarnessError]] = {f"{only.id}-timed-2-0": [Unreachable("link down")]}
    outcomes, watch = measure([only], {"d": session(faults=faults)})
    assert timed(outcomes["a"]) == [0, 1, 2, 3]
    assert [event.name for event in watch.events] == ["reconnecting", "reconnected"]


def test_a_device_that_is_away_fails_its_cells_and_no_others() -> None:
    other = Device(name="e", profile="fake", address="fake:")
    outcomes, _ = measure(
        [cell("a"), cell("b", device="e")],
        {"d": Unreachable("connection refused"), "e": session(other)},
    )
    assert outcomes["a"].failure == Failure(kind="unreachable", reason="connection refused")
    assert outcomes["b"].failure is None


def test_a_device_lost_for_good_fails_what_is_left() -> None:
    cells = [cell("a"), cell("b")]
    gone: list[HarnessError] = [Unreachable("gone")]
    faults = {f"{c.id}-timed-3-{p}": list(gone) for c in cells for p in range(2)}
    outcomes, watch = measure(cells, {"d": leaving(faults=faults)})
    assert {o.failure.kind for o in outcomes.values() if o.failure} == {"unreachable"}
    assert len([launch for launch in watch.launches if launch.kind == "timed"]) == 6


class Dying(FakeDialect):
    """An agent that says nothing any more once it was brought a file, or after a crash."""

    dead = False

    def deploy(self, files: Mapping[str, Path]) -> tuple[Push, ...]:
        if files and "bring" in self.facts["sensors"]:
            raise AgentSilent("no answer to commit")
        return ()

    def launch(self, order: LaunchOrder) -> Launch:
        if "launch" in self.facts["sensors"] and order.kind == "timed":
            Dying.dead = True
            raise Crashed("SIGSEGV")
        return super().launch(order)

    def hello(self) -> DeviceFacts:
        if Dying.dead:
            raise AgentSilent("no answer to hello")
        return super().hello()


@pytest.mark.parametrize(
    ("when", "kinds"), [("bring", {"silent"}), ("launch", {"crashed", "silent"})]
)
def test_an_agent_that_cannot_be_mended_costs_its_device_and_no_other(
    monkeypatch: pytest.MonkeyPatch, when: str, kinds: set[str]
) -> None:
    monkeypatch.setattr(Dying, "dead", False)
    other = Device(name="e", profile="fake", address="fake:")
    facts = {"sensors": (when,)}
    live = Session(DEVICE, transport=FakeTransport, dialect=Dying.opener(facts=facts))
    cells = [cell("a"), cell("b"), cell("c", device="e")]
    outcomes, _ = measure(cells, {"d": live, "e": session(other)})
    lost = [outcomes["a"].failure, outcomes["b"].failure]
    assert {failure.kind for failure in lost if failure} == kinds
    assert outcomes["c"].failure is None


def test_a_device_is_waited_for_as_long_as_the_patience_says() -> None:
    refusals = 0

    def open_away(device: Device) -> FakeTransport:
        nonlocal refusals
        if live:
            refusals += 1
            raise Unreachable("connection refused")
        return FakeTransport(device)

    live: list[Session] = []
    dialect = FakeDialect.opener(faults={f"{cell('a').id}-timed-0-0": [Unreachable("link down")]})
    patience = Patience(away_seconds=1.0)
    live.append(Session(DEVICE, transport=open_away, dialect=dialect, patience=patience))
    begun = time.monotonic()
    outcomes, _ = measure([cell("a"), cell("b")], {"d": live[0]})
    assert 0.3 < time.monotonic() - begun < 2.0
    assert refusals > 1
    assert {o.failure.reason for o in outcomes.values() if o.failure} == {"connection refused"}


@pytest.mark.parametrize(("breaks", "comes"), [(2, True), (9, False)])
def test_a_first_connection_that_breaks_is_made_again_but_not_for_ever(
    breaks: int, *, comes: bool
) -> None:
    tries = []

    class Breaking(FakeDialect):
        def hello(self) -> DeviceFacts:
            tries.append(1)
            if len(tries) <= breaks:
                raise Unreachable("the stream ended")
            return super().hello()

    def connect() -> Session:
        patience = Patience(away_seconds=120.0 if comes else 1.0)
        return Session(
            DEVICE, transport=FakeTransport, dialect=Breaking.opener(), patience=patience
        )

    if comes:
        assert connect().facts.identity == "fake-d"
        return
    with pytest.raises(Unreachable, match="stream ended"):
        connect()
    assert 2 <= len(tries) <= 4


def test_a_device_that_does_not_answer_at_first_is_not_waited_for() -> None:
    def open_away(device: Device) -> FakeTransport:
        tries.append(device)
        raise Unreachable("connection refused")

    tries: list[Device] = []
    with pytest.raises(Unreachable):
        Session(DEVICE, transport=open_away, dialect=FakeDialect.opener())
    assert len(tries) == 1


@pytest.mark.parametrize(
    ("error", "tries"), [(Unreachable("connection refused"), 3), (LoginFailed("no key"), 1)]
)
def test_a_run_tries_a_device_for_a_few_seconds_unless_it_refuses_the_login(
    error: Unreachable, tries: int
) -> None:
    tried: list[Device] = []

    def open_late(device: Device) -> FakeTransport:
        tried.append(device)
        if len(tried) < 3:
            raise error
        return FakeTransport(device)

    watch = Watch()
    patience = Patience(first_seconds=10.0, emit=watch)
    with suppress(LoginFailed):
        Session(DEVICE, transport=open_late, dialect=FakeDialect.opener(), patience=patience)
    assert len(tried) == tries
    assert len(watch.events) == (tries > 1), "one note, not one per attempt"


def test_nobody_waits_for_a_device_when_the_work_is_stopped() -> None:
    away = threading.Event()

    def open_away(device: Device) -> FakeTransport:
        if live:
            away.set()
            raise Unreachable("connection refused")
        return FakeTransport(device)

    live: list[Session] = []
    live.append(Session(DEVICE, transport=open_away, dialect=FakeDialect.opener()))
    trouble: list[HarnessError] = []

    def wait() -> None:
        try:
            live[0].reopen()
        except HarnessError as error:
            trouble.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert away.wait(5.0)
    live[0].interrupt()
    waiting.join(5.0)
    assert [str(error) for error in trouble] == ["connection refused"]


def test_a_failed_build_and_a_missing_target_are_rows_without_a_launch() -> None:
    failed = Failure(kind="not_built", reason="no calibration data")
    outcomes, watch = measure(
        [cell("a", variant=failed), cell("b", target="edgetpu")], {"d": session()}
    )
    assert outcomes["a"].failure == failed
    assert outcomes["b"].failure
    assert outcomes["b"].failure.kind == "unsupported"
    assert "edgetpu" in outcomes["b"].failure.reason
    assert watch.started == []


def test_a_variant_that_lost_too_much_on_the_host_is_not_measured() -> None:
    poor = replace(variant("a"), accuracy=0.80, accuracy_source_model=0.90, metric="top1")
    strict = Accept(max_accuracy_drop=0.02)
    outcomes, watch = measure([cell("a", variant=poor, accept=strict)], {"d": session()})
    assert outcomes["a"].failure
    assert outcomes["a"].failure.kind == "inaccurate"
    assert watch.launches == []


@pytest.mark.parametrize(
    ("source", "own", "says"),
    [(0.1, 5.0, "mse rises by 4.9000 against the source model"), (5.0, 0.1, None)],
)
@pytest.mark.parametrize("stored", ["lower", None])
def test_an_error_that_grew_too_much_is_not_measured(
    source: float, own: float, says: str | None, stored: Literal["lower"] | None
) -> None:
    of = replace(
        variant("a"),
        accuracy=own,
        accuracy_source_model=source,
        metric="mse",
        metric_direction=stored,
    )
    strict = Accept(max_accuracy_drop=0.02)
    outcomes, watch = measure([cell("a", variant=of, accept=strict)], {"d": session()})
    failure = outcomes["a"].failure
    assert (failure is None) == (says is None)
    if failure is not None and says is not None:
        assert failure.kind == "inaccurate"
        assert says in failure.reason
        assert watch.launches == []


def test_a_compiled_file_is_held_against_what_was_compiled(tmp_path: Path) -> None:
    facts = flatbuffer.read(MODEL)
    taken = {tensor.name: np.zeros((3, *tensor.shape[1:]), "float32") for tensor in facts.inputs}
    np.savez(tmp_path / "inputs.npz", **taken)
    right = reference.host_outputs(MODEL, taken)
    compiled = replace(
        variant("a"),
        operators={"edgetpu-custom-op": 1},
        inputs=facts.inputs,
        outputs=facts.outputs,
        uncompiled=Uncompiled(path=MODEL, digest=facts.digest),
    )
    asked = cell("a", variant=compiled, check_inputs=str(tmp_path / "inputs.npz"))
    wrong = {name: array[:, ::-1] for name, array in right.items()}
    for outputs, error in ((right, 0.0), (wrong, None)):
        outcomes, _ = measure([asked], {"d": session(outputs=outputs)})
        # Its rounding may be its own: a doubt of the verdict, not a failure.
        assert outcomes["a"].failure is None
        agreement = outcomes["a"].agreement
        assert agreement is not None
        assert agreement.samples == 3
        assert (agreement.relative_error == error) == (outputs is right)
    outcomes, _ = measure(
        [replace(asked, variant=replace(compiled, uncompiled=None))], {"d": session(outputs=wrong)}
    )
    assert (outcomes["a"].failure, outcomes["a"].agreement) == (None, None)


def test_resuming_makes_only_what_is_missing() -> None:
    cells = [cell("a"), cell("b")]
    _, first = measure(cells, {"d": session()})
    kept = first.launches[:7]
    done: dict[str, list[Launch]] = {}
    for launch in kept:
        done.setdefault(launch.cell_id, []).append(launch)
    outcomes, second = measure(cells, {"d": session()}, loop.Done(launches=done))
    assert {launch.id for launch in kept}.isdisjoint(launch.id for launch in second.launches)
    assert len(kept) + len(second.launches) == len(first.launches)
    assert all(sorted(timed(o)) == [0, 1, 2, 3] for o in outcomes.values())


def test_two_names_of_one_machine_are_never_measured_at_once() -> None:
    other = Device(name="e", profile="fake", address="fake:")
    same: dict[str, Session | HarnessError] = {
        "d": session(identity="one"),
        "e": session(other, identity="one"),
    }
    _, watch = measure([cell("a"), cell("b", device="e")], same)
    owners = [order.cell_id for order in watch.started]
    assert owners == sorted(owners, key=owners.index)


def test_leaving_early_stops_and_keeps_what_came() -> None:
    watch = Watch()
    live = session()
    cells = [cell("a", dose=Dose(launches=1)), cell("b", dose=Dose(launches=50))]
    outcomes = loop.run(cells, {"d": live}, watch, profiles=PROFILES)
    outcomes.close()
    assert all(launch.flags for launch in watch.launches)


def test_devices_that_do_not_answer_are_cut_off_together() -> None:
    cut = threading.Semaphore(0)

    class Wire(FakeTransport):
        def close(self) -> None:
            cut.release()

    class Deaf(FakeDialect):
        def close(self) -> None:
            assert cut.acquire(timeout=30.0)

    live = {
        name: Session(replace(DEVICE, name=name), transport=Wire, dialect=Deaf.opener())
        for name in "abc"
    }
    started = time.monotonic()
    close_all(live)
    assert CLOSE_SECONDS <= time.monotonic() - started < 2 * CLOSE_SECONDS


def test_a_device_that_never_answers_does_not_keep_who_is_stopped() -> None:
    late, began, closed = threading.Event(), threading.Event(), threading.Event()

    class Closing(FakeDialect):
        def close(self) -> None:
            closed.set()

    def open_late(device: Device) -> Session:
        began.set()
        late.wait(30.0)
        return Session(device, transport=FakeTransport, dialect=Closing.opener())

    def stop(_: Device, __: HarnessError) -> None:
        raise KeyboardInterrupt

    def opener(device: Device) -> Session:
        if device is not DEVICE:
            return open_late(device)
        began.wait(30.0)
        raise Unreachable("away")

    with pytest.raises(KeyboardInterrupt):
        open_all([DEVICE, replace(DEVICE, name="late")], opener=opener, on_failure=stop)
    late.set()
    assert closed.wait(30.0)


@pytest.mark.parametrize(
    ("agreement", "flags", "fine"),
    [
        (Agreement(samples=64, top1=0.96, relative_error=0.5), (), True),
        (Agreement(samples=64, top1=0.94, relative_error=0.0), (), False),
        (Agreement(samples=64, top1=0.5, relative_error=0.05), ("random_inputs",), True),
        (Agreement(samples=64, top1=0.5, relative_error=0.5), ("random_inputs",), False),
        (Agreement(samples=64, top1=None, relative_error=0.09), (), True),
        (Agreement(samples=64, top1=None, relative_error=0.11), (), False),
    ],
)
def test_when_outputs_agree(agreement: Agreement, flags: tuple[str, ...], *, fine: bool) -> None:
    assert (disagreement(agreement, cell("a", flags=flags)) is None) is fine


def test_a_killed_look_for_runtimes_is_made_again() -> None:
    class Killed(FakeDialect):
        asked = 0

        def hello(self) -> DeviceFacts:
            Killed.asked += 1
            if Killed.asked == 1:
                raise Crashed("the launch was killed by SIGKILL")
            return super().hello()

    device = Device(name="d", profile="fake", address="fake:")
    session = Session(device, transport=FakeTransport, dialect=lambda _, d: Killed(d))
    session.close()
    assert Killed.asked == 2


class Broken(FakeDialect):
    """A plug-in with a bug in one of its verbs."""

    verb = "launch"

    def _bug(self, verb: str) -> None:
        if verb == type(self).verb:
            {}["missing"]

    def deploy(self, files: Mapping[str, Path]) -> tuple[Push, ...]:
        self._bug("deploy" if files else "greet")
        return super().deploy(files)

    def hello(self) -> DeviceFacts:
        self._bug("hello")
        return super().hello()

    def launch(self, order: LaunchOrder) -> Launch:
        self._bug("launch")
        if order.block == 2:
            self._bug("third launch")
        return super().launch(order)

    def close(self) -> None:
        self._bug("close")
        super().close()


@pytest.mark.parametrize("verb", ["greet", "hello", "deploy", "launch", "third launch", "close"])
def test_a_bug_in_one_plug_in_ends_its_own_device_only(verb: str) -> None:
    kind = type("Buggy", (Broken,), {"verb": verb})
    other = Device(name="e", profile="fake", address="fake:")
    live = open_all(
        [DEVICE, other],
        opener=lambda device: Session(
            device,
            transport=FakeTransport,
            dialect=(kind if device is DEVICE else FakeDialect).opener(),
        ),
    )
    outcomes, _ = measure([cell("a"), cell("b"), cell("c", device="e")], live)
    assert timed(outcomes["c"]) == [0, 1, 2, 3]
    for name in "ab":
        failure = outcomes[name].failure
        if verb == "close":
            assert failure is None
            continue
        assert failure is not None
        assert failure.kind == "failed"
        assert failure.reason.startswith("KeyError: 'missing', raised at test_run_loop.py:")
        assert failure.reason.endswith("a bug in the program or a plug-in")


def test_a_resumed_run_is_not_heated_if_nothing_is_left_to_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("harness.measure.thermal.MAX_SOAK_SECONDS", 0.05)
    hot = Conditions(thermal="soak")
    one = cell("a")
    watch = Watch()
    list(loop.run([one], {"d": session()}, watch, profiles=PROFILES, conditions=hot))
    soaked = [order for order in watch.started if order.block == SOAKING]
    assert soaked
    for missing, heats in ((0, False), (1, True)):
        kept = [launch for launch in watch.launches if launch.kind == "timed"][missing:]
        rest = [launch for launch in watch.launches if launch.kind != "timed"]
        again = Watch()
        done = loop.Done(launches={one.id: [*rest, *kept]})
        list(loop.run([one], {"d": session()}, again, profiles=PROFILES, done=done, conditions=hot))
        assert any(order.block == SOAKING for order in again.started) is heats


def test_the_bare_launch_of_a_cell_that_has_ended_is_not_made_again() -> None:
    for bare, count in ((frozenset({("d", 1)}), 0), (frozenset({("d", 2)}), 1), (frozenset(), 1)):
        _, watch = measure([cell("b")], {"d": session()}, loop.Done(bare=bare))
        assert [launch.kind for launch in watch.launches].count("bare") == count

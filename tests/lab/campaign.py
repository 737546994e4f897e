"""Inject many faults into many cells: every fault in every state of a conversation, then at random.

    with Campaign(folder, lanes=2) as campaign:
        results = campaign.run([*crossed(), *islice(at_random(seed), 60)])

Each run is one call of the real command on three x86 hosts, with one fault per host. If the fault
kills the controller, the run is resumed. Afterwards aftermath.py inspects devices and results.
"""

from __future__ import annotations

import functools
import itertools
import queue
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.devices.dialects.python_agent.options import AgentOptions
from harness.records import store

from . import plans
from .aftermath import Inspection, Problem, journal, ours
from .controller import Controller, Moment
from .device import Hosted
from .lab import Lab
from .memory import confine
from .tools import LabError

STATES: dict[str, float] = {
    "connecting": 0.3,
    "pushing agent": 0.01,
    "lease": 0.0,
    "hello": 0.2,
    "have": 0.0,
    "pushing model": 0.02,
    "commit": 0.01,
    "infer": 0.3,
    "launch bare": 0.2,
    "launch memory": 0.3,
    "launch timed": 0.3,
    "answered launch timed": 0.0,
    "fetching": 0.01,
    "bye": 0.0,
}
"""States of controller and agent, and how long each one lasts, in seconds."""

CHILD_STATES = ("hello", "infer", "launch bare", "launch memory", "launch timed")
RECURRING_STATES = ("infer", "launch memory", "launch timed", "answered launch timed", "fetching")
NO_AGENT_YET = ("connecting", "pushing agent")
CELLS_PER_DEVICE = 10
HOSTS_PER_LANE = 3
MODEL_BYTES = 300_000
FETCHED_NUMBERS = 4000
"""Outputs with this many numbers are too large for a line and are sent as a file."""

DEAD_LINK_SECONDS, NOTICED_SECONDS = 14.0, 10.0
"""Duration of a dead link, and the maximum time until the controller notices it."""

_PATIENCE_SECONDS, _HANG_SECONDS = 40.0, 12.0
_RUN_SECONDS = 300.0
_FINISHED, _STOPPED = (0, 1), (-signal.SIGKILL, 130)
"""Exit codes of a finished run, and of a killed or interrupted one."""

Later = Callable[[float, Callable[[], object]], None]
"""Calls a function after a number of seconds."""


# --- kinds of faults ---------------------------------------------------------------------------


def _signal(host: Hosted, mark: str, number: int, seconds: float = 1.0) -> list[int]:
    """Send a signal to our processes whose command contains `mark`, as soon as one exists."""
    deadline = time.monotonic() + seconds
    while True:
        commands = {pid: command.split() for pid, command in ours(host).items()}
        # Skip the shell that is about to start Python.
        running = {pid: argv for pid, argv in commands.items() if "python" in argv[0]}
        found = [pid for pid, argv in running.items() if mark in " ".join(argv) + "$"]
        if found or time.monotonic() > deadline:
            break
        time.sleep(0.005)
    for pid in found:
        host.signal(pid, number)
    return found


_AGENT, _CHILD = ".zip$", ".zip "
"""Marks in their commands: the agent ends with the zip, a child has a role after it."""


def _reset(host: Hosted, later: Later) -> bool:
    return host.reset() > 0


def _short_silence(host: Hosted, later: Later) -> bool:
    host.link_down()
    later(4.0, host.link_up)
    return True


def _dead_link(host: Hosted, later: Later) -> bool:
    host.link_down()
    later(DEAD_LINK_SECONDS, host.link_up)
    return True


def _loss(host: Hosted, later: Later) -> bool:
    host.loss(5)
    later(6.0, host.heal)
    return True


def _slow(host: Hosted, later: Later) -> bool:
    host.rate(10)
    later(6.0, host.heal)
    return True


def _late(host: Hosted, later: Later) -> bool:
    host.delay(200)
    later(6.0, host.heal)
    return True


def _sshd_killed(host: Hosted, later: Later) -> bool:
    host.sshd_kill()
    later(2.0, host.sshd_start)
    return True


def _agent_killed(host: Hosted, later: Later) -> bool:
    return bool(_signal(host, _AGENT, signal.SIGKILL))


def _power_cut(host: Hosted, later: Later) -> bool:
    host.power_cut()
    later(2.0, host.power_on)
    return True


def _disk_full(host: Hosted, later: Later) -> bool:
    """Mount a small disk, which is soon full, over the work folder for four seconds."""
    folder = AgentOptions.of(host.entry).workdir
    host.as_root(["mkdir", "-p", "-m", "700", folder])
    host.as_root(["chown", "pi", folder])
    host.as_root(["mount", "-t", "tmpfs", "-o", "size=100k,mode=700,uid=54321", "tmpfs", folder])
    later(4.0, lambda: host.as_root(["umount", "-l", folder]))
    return True


def _child_killed(host: Hosted, later: Later) -> bool:
    return bool(_signal(host, _CHILD, signal.SIGKILL))


def _child_hangs(host: Hosted, later: Later) -> bool:
    return bool(_signal(host, _CHILD, signal.SIGSTOP))


def _out_of_memory(host: Hosted, later: Later) -> bool:
    """Leave the launch almost no memory."""
    children = _signal(host, _CHILD, signal.SIGCONT)
    for pid in children:
        later(5.0, confine(pid, 1))
    return bool(children)


FAULTS: dict[str, Callable[[Hosted, Later], bool]] = {
    "reset": _reset,
    "short silence": _short_silence,
    "dead link": _dead_link,
    "loss 5 %": _loss,
    "10 Mbit/s": _slow,
    "200 ms": _late,
    "sshd killed": _sshd_killed,
    "agent killed": _agent_killed,
    "power cut": _power_cut,
    "disk full": _disk_full,
    "child killed": _child_killed,
    "child hangs": _child_hangs,
    "out of memory": _out_of_memory,
}
"""Functions that inject a fault into a device; True if they did."""

BURST_FAULTS: dict[str, float] = {
    "reset": 0.0,
    "agent killed": 0.0,
    "short silence": 4.0,
    "sshd killed": 2.0,
    "power cut": 2.0,
}
"""Faults of a burst, and how long each one lasts; the next one comes after it."""

BURST, BURST_SECONDS, MAX_BURST = "burst", 10.0, 5
"""A burst is two to five faults within ten seconds."""

PASSING_FAULTS = frozenset(
    {
        BURST,
        "reset",
        "short silence",
        "dead link",
        "loss 5 %",
        "10 Mbit/s",
        "200 ms",
        "sshd killed",
        "agent killed",
        "power cut",
        "controller killed",
        "Ctrl-C",
    }
)
"""Faults that pass within the patience: no cell may stay unmeasured. The others end a launch, or fill
the disk."""

CHILD_FAULTS = ("child killed", "child hangs", "out of memory")
CONTROLLER_FAULTS = ("controller killed", "Ctrl-C")


@dataclass(slots=True)
class PlannedFault:
    """A fault to inject when a state is reached for the n-th time, and its outcome."""

    state: str
    fault: str
    nth: int = 1
    after: float = 0.0
    injected_at: float | None = None
    """Time of the injection on time.monotonic(); None if it was not injected."""
    notice_seconds: float | None = None
    """For a dead link: seconds until the transport reported an error."""
    overlooked: bool = False
    """For a dead link: it was up again before the controller noticed."""
    more: tuple[tuple[float, str], ...] = ()
    """Of a burst: the seconds after the first fault, and the fault."""
    more_injected: int = 0

    @property
    def name(self) -> str:
        """The name under which its outcome is counted."""
        return BURST if self.more else self.fault

    @property
    def injected(self) -> int:
        """The number of faults that were injected."""
        return (self.injected_at is not None) + self.more_injected


def possible(state: str, fault: str) -> bool:
    """Whether this fault can happen in this state."""
    if fault in CHILD_FAULTS:
        return state in CHILD_STATES
    return fault != "agent killed" or state not in NO_AGENT_YET


def crossed() -> list[PlannedFault]:
    """List every state with every kind of fault, in the middle of the state."""
    return [
        PlannedFault(state, fault, after=STATES[state] / 2)
        for fault, state in itertools.product((*FAULTS, *CONTROLLER_FAULTS), STATES)
        if possible(state, fault)
    ]


def at_random(seed: int) -> Iterator[PlannedFault]:
    """Yield random faults without an end."""
    chance = random.Random(seed)
    while True:
        state = chance.choice(list(STATES))
        fault = chance.choice([*FAULTS, *CONTROLLER_FAULTS])
        # The controller waits two minutes for a hanging `hello`, as slow boards need: once is enough.
        if possible(state, fault) and (state, fault) != ("hello", "child hangs"):
            after = chance.uniform(0.0, STATES[state])
            nth = chance.choice((1, 2, 3, 5)) if state in RECURRING_STATES else 1
            yield PlannedFault(state, fault, nth=nth, after=after)


def bursts(seed: int) -> Iterator[PlannedFault]:
    """Yield random bursts without an end: two to five faults within ten seconds."""
    chance = random.Random(seed)
    while True:
        state = chance.choice(list(STATES))
        first, *others = chance.choices(list(BURST_FAULTS), k=chance.randint(2, MAX_BURST))
        at, more = BURST_FAULTS[first], []
        for fault in others:
            at += chance.uniform(0.3, 2.5)
            if at < BURST_SECONDS:
                more.append((at, fault))
            at += BURST_FAULTS[fault]
        if more and possible(state, first):
            after = chance.uniform(0.0, STATES[state])
            nth = chance.choice((1, 2, 3, 5)) if state in RECURRING_STATES else 1
            yield PlannedFault(state, first, nth=nth, after=after, more=tuple(more))


# --- one run -----------------------------------------------------------------------------------


@dataclass(slots=True)
class FaultInjector:
    """Receives the moments of a run and injects its faults."""

    hosts: dict[str, Hosted]
    planned_faults: dict[str, PlannedFault]
    """Planned fault by device."""
    moments: list[Moment] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    """Errors of faults that could not be injected."""
    stop_controller: Callable[[str], None] = lambda _: None
    """Called with a fault of the controller; stops the running one."""
    _seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    _timers: list[threading.Timer] = field(default_factory=list)

    def __call__(self, moment: Moment) -> None:
        """Record the moment; inject the fault if it is planned for it."""
        self.moments.append(moment)
        planned = self.planned_faults[moment.device]
        if moment.name != planned.state:
            return
        self._seen[moment.device, moment.name] += 1
        if self._seen[moment.device, moment.name] != planned.nth:
            return
        if planned.after:
            self._later(planned.after, lambda: self._inject(moment.device, planned))
        else:
            self._inject(moment.device, planned)

    def wait(self) -> None:
        """Wait until all delayed calls are done."""
        while self._timers:
            self._timers.pop().join()

    def _later(self, seconds: float, action: Callable[[], object]) -> None:
        def act() -> None:
            try:
                action()
            except (LabError, OSError) as error:
                self.errors.append(str(error))

        timer = threading.Timer(seconds, act)
        self._timers.append(timer)
        timer.start()

    def _inject(self, device: str, planned: PlannedFault) -> None:
        if planned.fault in CONTROLLER_FAULTS:
            planned.injected_at = time.monotonic()
            self.stop_controller(planned.fault)
        elif FAULTS[planned.fault](self.hosts[device], self._later):
            planned.injected_at = time.monotonic()
            for seconds, fault in planned.more:
                self._later(seconds, functools.partial(self._inject_more, device, planned, fault))

    def _inject_more(self, device: str, planned: PlannedFault, fault: str) -> None:
        # The agent may not run at this moment.
        planned.more_injected += FAULTS[fault](self.hosts[device], self._later)

    def measure_notice(self) -> None:
        """Set for each dead link how long it took until a verb of the transport failed."""
        for device, planned in self.planned_faults.items():
            if planned.name != "dead link" or planned.injected_at is None:
                continue
            since = [m for m in self.moments if m.device == device and m.at > planned.injected_at]
            lost = [moment.at for moment in since if moment.name == "lost"]
            if lost:
                planned.notice_seconds = lost[0] - planned.injected_at
            late = [m for m in since if m.at > planned.injected_at + NOTICED_SECONDS]
            planned.overlooked = bool(late) and not lost


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRunResult:
    """The result of one run with its faults."""

    planned_faults: Sequence[PlannedFault]
    cells: int
    statuses: Counter[tuple[str, str]]
    """Number of cells by the fault of their device and their status."""
    reasons: Sequence[str]
    """The reasons of failed cells, as the product reports them."""
    problems: Sequence[Problem]
    errors: Sequence[str]
    seconds: float


def _interrupt(going: Controller, fault: str) -> None:
    if fault == "Ctrl-C":
        going.interrupt()
    else:
        going.send_kill()


def run_with_faults(
    folder: Path, hosts: Sequence[Hosted], planned_faults: Sequence[PlannedFault]
) -> FaultRunResult:
    """Run a plan on the hosts with one fault per host; the folder must not exist."""
    began = time.monotonic()
    by_device = dict(zip((host.name for host in hosts), planned_faults, strict=True))
    injector = FaultInjector({host.name: host for host in hosts}, by_device)
    plan, farm = _prepare(folder, hosts, planned_faults)
    inspection = Inspection(hosts)
    runs = folder / "runs"
    problems = list(_runs(plan, farm, runs, injector))
    injector.wait()
    for host in hosts:
        host.recover()
    injector.measure_notice()
    run = _stored(runs)
    if run is None:
        problems.append(Problem("lost", "no run was stored"))
    else:
        problems += inspection.problems(run)
    return FaultRunResult(
        planned_faults=planned_faults,
        cells=CELLS_PER_DEVICE * len(hosts),
        statuses=_statuses(run, by_device) if run else Counter(),
        reasons=_reasons(run) if run else (),
        problems=problems,
        errors=injector.errors,
        seconds=time.monotonic() - began,
    )


def _prepare(
    folder: Path, hosts: Sequence[Hosted], planned_faults: Sequence[PlannedFault]
) -> tuple[Path, Path]:
    """Write the plan and the farm; remove files from the hosts that must be sent again for the faults."""
    folder.mkdir()
    for host, planned in zip(hosts, planned_faults, strict=True):
        if planned.state == "pushing agent":
            host.as_root(["rm", "-rf", f"{AgentOptions.of(host.entry).workdir}/agents"])
    file = plans.model(folder / "model.tflite", MODEL_BYTES)
    if any(planned.state == "fetching" for planned in planned_faults):
        plans.wide(file, FETCHED_NUMBERS)
    models = {f"m{number}": file for number in range(CELLS_PER_DEVICE)}
    return plans.plan(folder, hosts, models, patience_seconds=_PATIENCE_SECONDS)


def _runs(plan: Path, farm: Path, runs: Path, injector: FaultInjector) -> Iterator[Problem]:
    """Run the plan, and resume it after each kill or interrupt of the controller."""
    for _ in range(len(injector.hosts) + 1):
        run = _stored(runs)
        arguments = ["--resume", run.name] if run else []
        controller = Controller(plan, farm, runs, injector, arguments, hang_seconds=_HANG_SECONDS)
        with controller as going:
            injector.stop_controller = functools.partial(_interrupt, going)
            try:
                code = going.wait(_RUN_SECONDS)
            except subprocess.TimeoutExpired:
                yield Problem("lost", f"no end within {_RUN_SECONDS:.0f} s")
                return
        if code in _FINISHED:
            return
        if code not in _STOPPED:
            yield Problem("lost", f"the run ends with {code}: {going.stderr[-2000:]}")
            return
    yield Problem("lost", "the run was stopped more often than planned")


def _stored(runs: Path) -> Path | None:
    """Return the folder of the run; None if it does not exist yet."""
    record = next(runs.glob("*/run.json"), None)
    return record.parent if record else None


def _reasons(run: Path) -> list[str]:
    """List the reasons of failed cells, each reason once."""
    failures = [line["failure"] for line in journal(run / "outcomes.jsonl") if line["failure"]]
    return sorted({f"{one['kind']}: {one['reason']}" for one in failures})


def _statuses(run: Path, planned_faults: dict[str, PlannedFault]) -> Counter[tuple[str, str]]:
    """Count the cells in the journal by fault and status."""
    device_of = {cell.id: cell.device for cell in store.open_folder(run).record.cells}
    found: Counter[tuple[str, str]] = Counter()
    for line in journal(run / "outcomes.jsonl"):
        planned = planned_faults[device_of[line["cell"]]]
        fault = planned.name if planned.injected_at is not None else "none"
        found[fault, line["failure"]["kind"] if line["failure"] else "ok"] += 1
    return found


# --- all of them -------------------------------------------------------------------------------


@dataclass(slots=True)
class Campaign:
    """Runs with faults, in parallel on several lanes of three hosts."""

    folder: Path
    lanes: int
    report: Callable[[str], None] = lambda _: None
    _lab: Lab = field(init=False)
    _hosts: list[list[Hosted]] = field(default_factory=list)

    def __enter__(self) -> Self:
        """Start the hosts."""
        self._lab = Lab(self.folder / "lab").__enter__()
        try:
            for lane in range(self.lanes):
                names = [f"host-{lane}-{number}" for number in range(HOSTS_PER_LANE)]
                self._hosts.append(self._lab.x86_hosts(names))
        except BaseException as error:
            self._lab.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the hosts."""
        self._lab.__exit__(kind, error, trace)

    def run(self, planned_faults: Iterable[PlannedFault]) -> list[FaultRunResult]:
        """Inject all of these faults, three per run."""
        pending: queue.SimpleQueue[tuple[int, list[PlannedFault]]] = queue.SimpleQueue()
        for number, group in enumerate(_groups(list(planned_faults))):
            pending.put((number, group))
        results: list[FaultRunResult] = []
        threads = [
            threading.Thread(target=self._lane, args=(hosts, pending, results), daemon=True)
            for hosts in self._hosts
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    def _lane(
        self,
        hosts: Sequence[Hosted],
        pending: queue.SimpleQueue[tuple[int, list[PlannedFault]]],
        results: list[FaultRunResult],
    ) -> None:
        with suppress(queue.Empty):
            while True:
                number, planned_faults = pending.get_nowait()
                result = run_with_faults(self.folder / f"run-{number}", hosts, planned_faults)
                results.append(result)
                self.report(_summary(number, result))


def _groups(planned_faults: list[PlannedFault]) -> Iterator[list[PlannedFault]]:
    """Group the faults by three, with one kind of model and at most one fault of the controller."""
    no_fault = PlannedFault("never", "none")
    for fetching in (False, True):
        share = [planned for planned in planned_faults if (planned.state == "fetching") is fetching]
        on_controller = [planned for planned in share if planned.fault in CONTROLLER_FAULTS]
        others = [planned for planned in share if planned.fault not in CONTROLLER_FAULTS]
        while on_controller or others:
            group = [on_controller.pop()] if on_controller else []
            while others and len(group) < HOSTS_PER_LANE:
                group.append(others.pop(0))
            group += [no_fault] * (HOSTS_PER_LANE - len(group))
            yield group


def _described(planned: PlannedFault) -> str:
    more = "".join(f", {fault} after {seconds:.1f} s" for seconds, fault in planned.more)
    return f"{planned.fault}{more}"


def _summary(number: int, result: FaultRunResult) -> str:
    planned_faults = ", ".join(
        f"{_described(one)} while {one.state}{'' if one.injected_at else ' (not injected)'}"
        for one in result.planned_faults
    )
    ended = ", ".join(
        f"{count} {fault}: {kind}" for (fault, kind), count in result.statuses.items()
    )
    reasons = "".join(f"\n  {text}" for text in result.reasons)
    errors = "".join(f"\n  not injected: {text}" for text in result.errors)
    problems = "".join(f"\n  {problem.kind}: {problem.what}" for problem in result.problems)
    return f"run {number}, {result.seconds:.0f} s: {planned_faults}; {ended}{reasons}{errors}{problems}"

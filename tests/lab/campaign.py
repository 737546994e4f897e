"""Many faults over many cells: every state of the conversation with every kind of fault, then at random.

    with Campaign(folder, lanes=2) as campaign:
        battles = campaign.fight(crossed(), random_wounds(seed, 60))

A battle is one run of the real command on three x86 hosts, each of which gets one fault; where the
controller is what is killed, the run is resumed. Afterwards aftermath.py looks at what is left.
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
from .aftermath import Aftermath, Problem, journal, ours
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
"""What the controller and the agent are doing, and how long that is, seconds."""

CHILD_STATES = ("hello", "infer", "launch bare", "launch memory", "launch timed")
RECURRING_STATES = ("infer", "launch memory", "launch timed", "answered launch timed", "fetching")
NO_AGENT_YET = ("connecting", "pushing agent")
CELLS_OF_A_DEVICE = 10
HOSTS_OF_A_LANE = 3
MODEL_BYTES = 300_000
FETCHED_NUMBERS = 4000
"""Outputs of so many numbers are too large for a line, and come as a file."""

DEAD_LINK_SECONDS, NOTICED_SECONDS = 14.0, 10.0
"""How long a dead link is dead, and how long it may take until that is noticed."""

_PATIENCE_SECONDS, _HANG_SECONDS = 40.0, 12.0
_BATTLE_SECONDS = 300.0
_FINISHED, _PUT_DOWN = (0, 1), (-signal.SIGKILL, 130)
"""Exit codes of a run that came to its end, and of one that was killed or interrupted."""

Later = Callable[[float, Callable[[], object]], None]
"""Does something so many seconds later."""


# --- kinds of faults ---------------------------------------------------------------------------


def _strike(host: Hosted, mark: str, number: int, seconds: float = 1.0) -> list[int]:
    """Signal those of our processes whose command has this in it, as soon as there is one."""
    deadline = time.monotonic() + seconds
    while True:
        commands = {pid: words.split() for pid, words in ours(host).items()}
        # Not the shell that is about to become one.
        running = {pid: words for pid, words in commands.items() if "python" in words[0]}
        found = [pid for pid, words in running.items() if mark in " ".join(words) + "$"]
        if found or time.monotonic() > deadline:
            break
        time.sleep(0.005)
    for pid in found:
        host.signal(pid, number)
    return found


_AGENT, _CHILD = ".zip$", ".zip "
"""What their commands have: the zip alone, or a role after it."""


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
    return bool(_strike(host, _AGENT, signal.SIGKILL))


def _power_cut(host: Hosted, later: Later) -> bool:
    host.power_cut()
    later(2.0, host.power_on)
    return True


def _disk_full(host: Hosted, later: Later) -> bool:
    """Put a small disk, soon full, over the work folder, and take it away again."""
    folder = AgentOptions.of(host.entry).workdir
    host.as_root(["mkdir", "-p", "-m", "700", folder])
    host.as_root(["chown", "pi", folder])
    host.as_root(["mount", "-t", "tmpfs", "-o", "size=100k,mode=700,uid=54321", "tmpfs", folder])
    later(4.0, lambda: host.as_root(["umount", "-l", folder]))
    return True


def _child_killed(host: Hosted, later: Later) -> bool:
    return bool(_strike(host, _CHILD, signal.SIGKILL))


def _child_hangs(host: Hosted, later: Later) -> bool:
    return bool(_strike(host, _CHILD, signal.SIGSTOP))


def _out_of_memory(host: Hosted, later: Later) -> bool:
    """Leave the launch next to no memory."""
    children = _strike(host, _CHILD, signal.SIGCONT)
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
"""What goes wrong with a device; True where it did."""

CHILD_FAULTS = ("child killed", "child hangs", "out of memory")
CONTROLLER_FAULTS = ("controller killed", "Ctrl-C")


@dataclass(slots=True)
class Wound:
    """A fault that is to be made: at the n-th time that a state is reached, and what became of it."""

    state: str
    fault: str
    nth: int = 1
    after: float = 0.0
    struck: float | None = None
    """When it was made, on time.monotonic(); None where it was not."""
    noticed: float | None = None
    """Of a dead link: seconds until the transport said so."""
    overlooked: bool = False
    """Of a dead link: it came up again before anybody had noticed."""


def possible(state: str, fault: str) -> bool:
    """Tell whether there is something that this fault could hit in this state."""
    if fault in CHILD_FAULTS:
        return state in CHILD_STATES
    return fault != "agent killed" or state not in NO_AGENT_YET


def crossed() -> list[Wound]:
    """List every state with every kind of fault, in the middle of the state."""
    return [
        Wound(state, fault, after=STATES[state] / 2)
        for fault, state in itertools.product((*FAULTS, *CONTROLLER_FAULTS), STATES)
        if possible(state, fault)
    ]


def at_random(seed: int) -> Iterator[Wound]:
    """Yield wounds without an end."""
    chance = random.Random(seed)
    while True:
        state = chance.choice(list(STATES))
        fault = chance.choice([*FAULTS, *CONTROLLER_FAULTS])
        # A hanging `hello` is waited for two minutes, as a slow board needs: once is enough.
        if possible(state, fault) and (state, fault) != ("hello", "child hangs"):
            after = chance.uniform(0.0, STATES[state])
            nth = chance.choice((1, 2, 3, 5)) if state in RECURRING_STATES else 1
            yield Wound(state, fault, nth=nth, after=after)


# --- one battle --------------------------------------------------------------------------------


@dataclass(slots=True)
class Assault:
    """Hears the moments of a run and makes the faults."""

    hosts: dict[str, Hosted]
    wounds: dict[str, Wound]
    """By device."""
    moments: list[Moment] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    """Faults that could not be made."""
    down: Callable[[str], None] = lambda _: None
    """What a fault of the controller does to the run that goes on."""
    _seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    _timers: list[threading.Timer] = field(default_factory=list)

    def __call__(self, moment: Moment) -> None:
        """Remember it; it may be the one."""
        self.moments.append(moment)
        wound = self.wounds[moment.device]
        if moment.name != wound.state:
            return
        self._seen[moment.device, moment.name] += 1
        if self._seen[moment.device, moment.name] != wound.nth:
            return
        if wound.after:
            self._later(wound.after, lambda: self._make(moment.device, wound))
        else:
            self._make(moment.device, wound)

    def wait(self) -> None:
        """Wait until everything that was to come later has been."""
        while self._timers:
            self._timers.pop().join()

    def _later(self, seconds: float, action: Callable[[], object]) -> None:
        def act() -> None:
            try:
                action()
            except (LabError, OSError) as error:
                self.troubles.append(str(error))

        timer = threading.Timer(seconds, act)
        self._timers.append(timer)
        timer.start()

    def _make(self, device: str, wound: Wound) -> None:
        if wound.fault in CONTROLLER_FAULTS:
            wound.struck = time.monotonic()
            self.down(wound.fault)
        elif FAULTS[wound.fault](self.hosts[device], self._later):
            wound.struck = time.monotonic()

    def judge_notice(self) -> None:
        """Say of each dead link how long it took until a verb of the transport failed."""
        for device, wound in self.wounds.items():
            if wound.fault != "dead link" or wound.struck is None:
                continue
            since = [m for m in self.moments if m.device == device and m.at > wound.struck]
            lost = [moment.at for moment in since if moment.name == "lost"]
            if lost:
                wound.noticed = lost[0] - wound.struck
            late = [m for m in since if m.at > wound.struck + NOTICED_SECONDS]
            wound.overlooked = bool(late) and not lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Battle:
    """What came of one run."""

    wounds: Sequence[Wound]
    cells: int
    statuses: Counter[tuple[str, str]]
    """How many cells ended how, by the fault of their device."""
    reasons: Sequence[str]
    """Why cells failed, in the product's words."""
    problems: Sequence[Problem]
    troubles: Sequence[str]
    seconds: float


def _interrupt(going: Controller, fault: str) -> None:
    if fault == "Ctrl-C":
        going.interrupt()
    else:
        going.strike()


def fight(folder: Path, hosts: Sequence[Hosted], wounds: Sequence[Wound]) -> Battle:
    """Run a plan on the hosts, each with its wound; the folder is new."""
    began = time.monotonic()
    by_device = dict(zip((host.name for host in hosts), wounds, strict=True))
    assault = Assault({host.name: host for host in hosts}, by_device)
    plan, farm = _prepared(folder, hosts, wounds)
    aftermath = Aftermath(hosts)
    runs = folder / "runs"
    problems = list(_runs(plan, farm, runs, assault))
    assault.wait()
    for host in hosts:
        host.recover()
    assault.judge_notice()
    run = _stored(runs)
    if run is None:
        problems.append(Problem("lost", "no run was stored"))
    else:
        problems += aftermath.problems(run)
    return Battle(
        wounds=wounds,
        cells=CELLS_OF_A_DEVICE * len(hosts),
        statuses=_statuses(run, by_device) if run else Counter(),
        reasons=_reasons(run) if run else (),
        problems=problems,
        troubles=assault.troubles,
        seconds=time.monotonic() - began,
    )


def _prepared(folder: Path, hosts: Sequence[Hosted], wounds: Sequence[Wound]) -> tuple[Path, Path]:
    """Write the plan and the farm; take from the hosts what they must be sent for the wounds."""
    folder.mkdir()
    for host, wound in zip(hosts, wounds, strict=True):
        if wound.state == "pushing agent":
            host.as_root(["rm", "-rf", f"{AgentOptions.of(host.entry).workdir}/agents"])
    file = plans.model(folder / "model.tflite", MODEL_BYTES)
    if any(wound.state == "fetching" for wound in wounds):
        plans.wide(file, FETCHED_NUMBERS)
    models = {f"m{number}": file for number in range(CELLS_OF_A_DEVICE)}
    return plans.plan(folder, hosts, models, patience_seconds=_PATIENCE_SECONDS)


def _runs(plan: Path, farm: Path, runs: Path, assault: Assault) -> Iterator[Problem]:
    """Run the plan; a controller that is killed or interrupted is followed by one that resumes."""
    for _ in range(len(assault.hosts) + 1):
        run = _stored(runs)
        words = ["--resume", run.name] if run else []
        controller = Controller(plan, farm, runs, assault, words, hang_seconds=_HANG_SECONDS)
        with controller as going:
            assault.down = functools.partial(_interrupt, going)
            try:
                code = going.wait(_BATTLE_SECONDS)
            except subprocess.TimeoutExpired:
                yield Problem("lost", f"no end within {_BATTLE_SECONDS:.0f} s")
                return
        if code in _FINISHED:
            return
        if code not in _PUT_DOWN:
            yield Problem("lost", f"the run ends with {code}: {going.said[-2000:]}")
            return
    yield Problem("lost", "the run was put down more often than anybody did so")


def _stored(runs: Path) -> Path | None:
    """Return the folder of the run, once there is one."""
    record = next(runs.glob("*/run.json"), None)
    return record.parent if record else None


def _reasons(run: Path) -> list[str]:
    """List why cells failed, each reason once."""
    failures = [line["failure"] for line in journal(run / "outcomes.jsonl") if line["failure"]]
    return sorted({f"{one['kind']}: {one['reason']}" for one in failures})


def _statuses(run: Path, wounds: dict[str, Wound]) -> Counter[tuple[str, str]]:
    """Count how the cells ended, by the journal."""
    device_of = {cell.id: cell.device for cell in store.open_folder(run).record.cells}
    found: Counter[tuple[str, str]] = Counter()
    for line in journal(run / "outcomes.jsonl"):
        wound = wounds[device_of[line["cell"]]]
        fault = wound.fault if wound.struck is not None else "none"
        found[fault, line["failure"]["kind"] if line["failure"] else "ok"] += 1
    return found


# --- all of them -------------------------------------------------------------------------------


@dataclass(slots=True)
class Campaign:
    """Lanes of three hosts each, in which battles are fought at the same time."""

    folder: Path
    lanes: int
    tell: Callable[[str], None] = lambda _: None
    _lab: Lab = field(init=False)
    _hosts: list[list[Hosted]] = field(default_factory=list)

    def __enter__(self) -> Self:
        """Start the hosts."""
        self._lab = Lab(self.folder / "lab").__enter__()
        try:
            for lane in range(self.lanes):
                names = [f"host-{lane}-{number}" for number in range(HOSTS_OF_A_LANE)]
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
        """End them."""
        self._lab.__exit__(kind, error, trace)

    def fight(self, wounds: Iterable[Wound]) -> list[Battle]:
        """Make all of these faults, a battle for every three."""
        waiting: queue.SimpleQueue[tuple[int, list[Wound]]] = queue.SimpleQueue()
        for number, three in enumerate(_dealt(list(wounds))):
            waiting.put((number, three))
        battles: list[Battle] = []
        threads = [
            threading.Thread(target=self._lane, args=(hosts, waiting, battles), daemon=True)
            for hosts in self._hosts
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return battles

    def _lane(
        self,
        hosts: Sequence[Hosted],
        waiting: queue.SimpleQueue[tuple[int, list[Wound]]],
        battles: list[Battle],
    ) -> None:
        with suppress(queue.Empty):
            while True:
                number, wounds = waiting.get_nowait()
                battle = fight(self.folder / f"battle-{number}", hosts, wounds)
                battles.append(battle)
                self.tell(_line(number, battle))


def _dealt(wounds: list[Wound]) -> Iterator[list[Wound]]:
    """Deal the wounds out by threes: of the same kind of model, and one of the controller's at most."""
    harmless = Wound("never", "none")
    for fetching in (False, True):
        share = [wound for wound in wounds if (wound.state == "fetching") is fetching]
        killers = [wound for wound in share if wound.fault in CONTROLLER_FAULTS]
        others = [wound for wound in share if wound.fault not in CONTROLLER_FAULTS]
        while killers or others:
            three = [killers.pop()] if killers else []
            while others and len(three) < HOSTS_OF_A_LANE:
                three.append(others.pop(0))
            three += [harmless] * (HOSTS_OF_A_LANE - len(three))
            yield three


def _line(number: int, battle: Battle) -> str:
    wounds = ", ".join(
        f"{w.fault} while {w.state}{'' if w.struck else ' (not made)'}" for w in battle.wounds
    )
    ended = ", ".join(
        f"{count} {fault}: {kind}" for (fault, kind), count in battle.statuses.items()
    )
    reasons = "".join(f"\n  {text}" for text in battle.reasons)
    troubles = "".join(f"\n  trouble: {text}" for text in battle.troubles)
    problems = "".join(f"\n  {problem.kind}: {problem.what}" for problem in battle.problems)
    return (
        f"battle {number}, {battle.seconds:.0f} s: {wounds}; {ended}{reasons}{troubles}{problems}"
    )

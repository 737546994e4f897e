"""Measure the contests of a gate, device by device; running.py measures one of them.

`measure_first` and `measure_fresh` are generators over all contests; the caller closes the sessions.
Every contest ends with evidence: it is cut short if the device is lost half-way, a failure if a side
cannot be measured, and away if the device cannot be reached.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from harness.analysis.gate.contest import Contest, Evidence, Rules
from harness.analysis.gate.findings import Key
from harness.analysis.gate.running import FreshPairs, RunningContest
from harness.errors import HarnessError
from harness.events import Emit, Event, Stopped
from harness.measure import scheduling, sessions
from harness.measure.bench import Bench
from harness.measure.conditions import REAL_TIME, WaitClock
from harness.measure.failures import failure_of
from harness.measure.run import open_engine
from harness.measure.sessions import Session
from harness.protocols import Engine, StopFlag, Work
from harness.types import (
    DEFAULT_CONDITIONS,
    DEFAULT_HOST,
    Conditions,
    Device,
    HostLimits,
    Profile,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContestEnded(Event):
    """A contest has its evidence."""

    name: ClassVar[str] = "contest"
    evidence: Evidence

    def plain(self) -> dict[str, Any]:
        """Return the contest's key; the journal has its launches."""
        return {"event": self.name, **asdict(self.evidence.contest.key)}


@dataclass(frozen=True, slots=True, kw_only=True)
class GateContext:
    """The devices, rules and conditions of a gate, and the receiver of its events."""

    sessions: Mapping[str, Session | HarnessError]
    emit: Emit
    profiles: Mapping[str, Profile]
    rules: Rules
    conditions: Conditions = DEFAULT_CONDITIONS
    limits: HostLimits = DEFAULT_HOST
    timing: WaitClock = REAL_TIME
    engine: Engine | None = None
    resumption: str | None = None
    """The command that continues the gate, as it is typed; None if none does."""

    def close(self) -> None:
        """Close every session."""
        for session in self.sessions.values():
            if isinstance(session, Session):
                session.close()


def measure_first(
    context: GateContext, contests: Sequence[Contest], known: Mapping[Key, Evidence] | None = None
) -> Iterator[Evidence]:
    """Measure every contest once; yield its evidence when it ends.

    `known` is the evidence that an interrupted gate stored: its blocks are not measured again.
    """
    stored = known or {}
    found = [stored.get(one.key) or Evidence(contest=one) for one in contests]
    yield from _measure(context, found, {})


def measure_fresh(
    context: GateContext, found: Sequence[tuple[Evidence, FreshPairs]]
) -> Iterator[Evidence]:
    """Measure these fresh pairs per contest; yield its evidence with them added.

    The fresh blocks are numbered from CONFIRMING.
    """
    wanted = {evidence.contest.key: count for evidence, count in found}
    yield from _measure(context, [evidence for evidence, _ in found], wanted)


def _measure(
    context: GateContext, found: Sequence[Evidence], fresh: Mapping[Key, FreshPairs]
) -> Iterator[Evidence]:
    by_device: dict[str, list[Evidence]] = defaultdict(list)
    for evidence in found:
        by_device[evidence.contest.key.device].append(evidence)
    machines: dict[str, list[Work]] = defaultdict(list)
    for name, share in by_device.items():
        session = context.sessions[name]
        work: Work
        if isinstance(session, HarnessError):
            work = AwayContests(share=tuple(replace(one, away=str(session)) for one in share))
        else:
            work = ContestWork(
                device=session.device,
                ticket=session.ticket,
                profile=context.profiles.get(session.device.profile),
                share=tuple(share),
                fresh=fresh,
                rules=context.rules,
                conditions=context.conditions,
                limits=context.limits,
                timing=context.timing,
                resumption=context.resumption,
            )
        machines[scheduling.machine_of(name, session)].append(work)
    engine = context.engine or open_engine()
    for event in scheduling.together(
        machines, engine, context.emit, ContestEnded, context.sessions
    ):
        yield event.evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class AwayContests:
    """Contests on a device that cannot be reached."""

    share: tuple[Evidence, ...]

    def __call__(self, emit: Emit, stop: StopFlag) -> None:  # noqa: ARG002 - the seam
        """Emit their evidence."""
        for evidence in self.share:
            emit(ContestEnded(evidence=evidence))


@dataclass(frozen=True, slots=True, kw_only=True)
class ContestWork:
    """The contests of one device as data; calling it measures them."""

    device: Device
    ticket: str | None = None
    profile: Profile | None = None
    share: tuple[Evidence, ...]
    fresh: Mapping[Key, FreshPairs] = field(default_factory=dict)
    """Fresh pairs by contest; a contest without an entry is measured for the first time."""
    rules: Rules
    conditions: Conditions = DEFAULT_CONDITIONS
    limits: HostLimits = DEFAULT_HOST
    timing: WaitClock = REAL_TIME
    resumption: str | None = None

    def __call__(self, emit: Emit, stop: StopFlag) -> None:
        """Measure the contests one after the other; emit the evidence of each."""
        ended: set[Key] = set()

        def noted(event: Event) -> None:
            emit(event)
            if isinstance(event, ContestEnded):
                ended.add(event.evidence.contest.key)

        try:
            self._measure(noted, stop)
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001 - a bug in a plug-in ends only its own device
            for evidence in self.share:
                if evidence.contest.key not in ended:
                    emit(ContestEnded(evidence=replace(evidence, failure=failure_of(error))))

    def _cut_short(self, evidence: Evidence, lost: str) -> Evidence:
        """Return the evidence of a contest that was not reached before the device was lost."""
        if evidence.contest.key in self.fresh:
            return replace(evidence, fresh_cut_short=lost, out_of_budget=None)
        return replace(evidence, cut_short=lost)

    def _expect_runtimes(self, bench: Bench) -> None:
        """Let launches have the runtimes of those that are measured already."""
        for evidence in self.share:
            sides = {"baseline": evidence.contest.a, "candidate": evidence.contest.b}
            for reading in evidence.readings:
                bench.watch.expect(sides[reading.side].runtime, reading.launch.runtime)

    def _measure(self, emit: Emit, stop: StopFlag) -> None:
        lost: str | None = None
        with sessions.reached(self.device, self.ticket, None) as session:
            bench = Bench(
                session=session,
                emit=emit,
                profile=self.profile,
                conditions=self.conditions,
                limits=self.limits,
                stop=stop,
                timing=self.timing,
            )
            self._expect_runtimes(bench)
            with bench:
                for evidence in self.share:
                    if lost is not None:
                        emit(ContestEnded(evidence=self._cut_short(evidence, lost)))
                        continue
                    running = RunningContest(
                        rules=self.rules,
                        bench=bench,
                        evidence=evidence,
                        resumption=self.resumption,
                    )
                    lost = running.measure(self.fresh.get(evidence.contest.key))
                    if stop.is_set() and (lost or running.evidence.failure):
                        raise Stopped  # what ended the controller may have ended the agent, too
                    emit(ContestEnded(evidence=running.evidence))
            session.release()

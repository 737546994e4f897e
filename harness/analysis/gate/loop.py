"""Hold contests: pilot, mirrored blocks of one launch of A and one of B, until there is enough.

`first` and `again` are generators over all contests, one machine a thread; the sessions stay open
for the caller to close. What a contest came to is always told: lost half-way, its evidence is cut
short; a side that cannot be measured is its failure; a device that was never there is away.
"""

from __future__ import annotations

import functools
import itertools
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from harness.analysis.gate.contest import (
    CONFIRMING,
    LAUNCH_METRICS,
    Contest,
    Evidence,
    Reading,
    Rules,
    Side,
    SideName,
    pairs,
    unfit,
)
from harness.analysis.gate.findings import Key
from harness.devices.delegation import disagreement
from harness.errors import HarnessError, Inaccurate, LeaseError, TransportError
from harness.measure import blocks, pinning, thermal
from harness.measure.pairs import FIRST_PAIRS, needs_more
from harness.measure.sessions import Session
from harness.measure.worker import Job, Observer, Worker, failure_of, machine_of, refused, together
from harness.types import Agreement, Cell, Failure, LaunchOrder, Profile, ThermalPolicy

SOAKING = -1_000
"""Blocks from here up to the pilot's are launches that only heat."""

_PILOTS = 2


class _Unfit(HarnessError):
    """A launch that was made and must not be judged."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """What contests are held with: live devices, the rules, who is told."""

    sessions: Mapping[str, Session | HarnessError]
    observer: Observer
    profiles: Mapping[str, Profile]
    rules: Rules
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def close(self) -> None:
        """Let go of every device."""
        for session in self.sessions.values():
            if isinstance(session, Session):
                session.close()


def first(lab: Lab, contests: Sequence[Contest]) -> Iterator[Evidence]:
    """Hold every contest once; yield the evidence of each as it is whole."""
    yield from _hold(lab, [Evidence(contest=one) for one in contests], {})


def again(lab: Lab, found: Sequence[tuple[Evidence, int]]) -> Iterator[Evidence]:
    """Measure so many fresh pairs of every contest; yield its evidence with them added.

    The fresh blocks are numbered from CONFIRMING on.
    """
    wanted = {evidence.contest.key: count for evidence, count in found}
    yield from _hold(lab, [evidence for evidence, _ in found], wanted)


def _hold(lab: Lab, found: Sequence[Evidence], fresh: Mapping[Key, int]) -> Iterator[Evidence]:
    by_device: dict[str, list[Evidence]] = defaultdict(list)
    for evidence in found:
        by_device[evidence.contest.key.device].append(evidence)
    machines: dict[str, list[Job[Evidence]]] = defaultdict(list)
    for name, share in by_device.items():
        session = lab.sessions[name]

        def job(
            emit: Callable[[Evidence], None],
            stop: threading.Event,
            share: list[Evidence] = share,
            session: Session | HarnessError = session,
        ) -> None:
            if isinstance(session, HarnessError):
                for evidence in share:
                    emit(replace(evidence, away=str(session)))
                return
            profile = lab.profiles.get(session.device.profile)
            worker = Worker(session=session, observer=lab.observer, profile=profile, stop=stop)
            _DeviceGate(lab=lab, worker=worker).hold(share, fresh, emit)
            session.release()

        machines[machine_of(name, session)].append(job)
    yield from together(machines, lab.sessions)


@dataclass(slots=True, kw_only=True)
class _DeviceGate:
    """The contests of one device, one launch at a time."""

    lab: Lab
    worker: Worker
    pin: pinning.GovernorPin | None = None
    cooling: thermal.Cooling | None = None
    lost: str | None = None

    def hold(
        self,
        share: Sequence[Evidence],
        fresh: Mapping[Key, int],
        emit: Callable[[Evidence], None],
    ) -> None:
        try:
            for evidence in share:
                held = _Held(gate=self, evidence=evidence)
                if self.lost is None:
                    self.lost = held.hold(fresh.get(evidence.contest.key))
                    emit(held.evidence)
                else:
                    emit(replace(evidence, cut_short=self.lost))
        finally:
            if self.pin is not None:
                self.pin.close()

    def settle(self) -> None:
        """Have the governor pinned on the connection there is now, and the idle temperature known."""
        transport = self.worker.session.transport
        if self.cooling is None:
            policy = self.worker.profile.thermal if self.worker.profile else ThermalPolicy()
            if self.lab.rules.soak:
                policy = replace(policy, gate=False)
            self.cooling = thermal.Cooling(
                lambda: thermal.celsius(self.worker.session.transport),
                policy,
                clock=self.lab.clock,
                sleep=self.lab.sleep,
            )
        if self.pin is None or self.pin.transport is not transport:
            if self.pin is not None:
                self.pin.close()
            self.pin = pinning.GovernorPin(transport)


@dataclass(slots=True, kw_only=True)
class _Held:
    """One contest while it is held."""

    gate: _DeviceGate
    evidence: Evidence
    loops: int = 1
    deadline: float = math.inf
    order_cells: tuple[Cell, Cell] = field(init=False)

    def __post_init__(self) -> None:
        contest = self.evidence.contest
        self.order_cells = (contest.a.cell, contest.b.cell)

    def hold(self, fresh: int | None) -> str | None:
        """Measure; returns why the device is lost for the contests after this one, or None."""
        worker, contest = self.gate.worker, self.evidence.contest
        self.deadline = self.gate.lab.clock() + self.gate.lab.rules.budget_seconds
        try:
            worker.bring({s.variant.digest: s.variant.path for s in (contest.a, contest.b)})
            worker.mending(self.gate.settle)
            assert self.gate.pin is not None
            self.evidence = replace(
                self.evidence,
                pinned_mhz=self.gate.pin.pinned_mhz,
                fixed_performance=self.gate.pin.fixed_performance,
            )
            if fresh is None:
                self._prepare()
                self._first()
            else:
                self.loops = self._loops_before()
                self._again(fresh)
        except (TransportError, LeaseError) as error:
            last = max((one.launch.block for one in self.evidence.readings), default=None)
            after = "before the first block" if last is None else f"after block {last % CONFIRMING}"
            reason = f"{contest.key.device} was lost {after} ({error})"
            self.evidence = replace(self.evidence, cut_short=reason)
            return reason
        except _Unfit as error:
            self.evidence = replace(self.evidence, failure=error.failure)
        except HarnessError as error:
            self.evidence = replace(self.evidence, failure=failure_of(error))
            try:
                worker.recover(error)
            except HarnessError as another:
                return f"{contest.key.device} was lost ({another})"
        return None

    # --- before the first block -------------------------------------------------------------

    def _prepare(self) -> None:
        """Check both sides' outputs, find the inner loop, measure memory, heat where asked."""
        contest, worker = self.evidence.contest, self.gate.worker
        for side in (contest.a, contest.b):
            failure = refused(side.cell, worker.profile)
            if failure is not None:
                self.evidence = replace(self.evidence, failure=failure)
                return
            self._check(side)
        pilot = blocks.pilot(contest.a.cell)
        times = []
        for place in range(_PILOTS):
            order = self._placed(contest.a, replace(pilot, position=place))
            times.append(worker.mending(functools.partial(worker.pilot, contest.a.cell, order)))
        scenario = contest.a.cell.dose.scenario
        inference_ns = sorted(times)[len(times) // 2]
        self.loops = blocks.inner_loop(inference_ns, scenario)
        dose = contest.a.cell.dose
        if contest.stretch:
            dose = blocks.stretched(dose, inference_ns)
        self.evidence = replace(self.evidence, dose=dose)
        self._memory(self.gate.lab.rules.memory_pairs, 0)
        if self.gate.lab.rules.soak:
            self._soak()

    def _check(self, side: Side) -> None:
        agreement = self.gate.worker.mending(
            lambda: self.gate.worker.check(side.cell, side.runtime)
        )
        if agreement is None:
            return
        known: Mapping[str, Agreement] = {**self.evidence.agreements, side.cell.id: agreement}
        self.evidence = replace(self.evidence, agreements=known)
        reason = disagreement(agreement, side.cell)
        if reason:
            raise Inaccurate(f"{side.cell.recipe}: {reason}")

    def _memory(self, count: int, start: int) -> None:
        for block in self._turns(count, start):
            for turn in block:
                order = replace(blocks.memory(turn.cell, turn.block), position=turn.position)
                self._launch(turn.cell, order)

    def _soak(self) -> None:
        """Launch A until its latency no longer moves; the launches only heat and are not kept."""
        lab, contest = self.gate.lab, self.evidence.contest
        start = lab.clock()
        points: list[tuple[float, float]] = []
        turn = blocks.Turn(block=SOAKING, position=0, cell=contest.a.cell)
        order = self._placed(contest.a, blocks.order(turn, loops=self.loops))
        while lab.clock() - start < thermal.MAX_SOAK_SECONDS and not thermal.on_plateau(points):
            latency = self.gate.worker.mending(
                lambda: self.gate.worker.pilot(contest.a.cell, order)
            )
            points.append((lab.clock() - start, latency))
        self.deadline = lab.clock() + lab.rules.budget_seconds
        self.evidence = replace(self.evidence, hot=True)

    # --- blocks -------------------------------------------------------------------------------

    def _first(self) -> None:
        """Measure blocks until the stop rule is met, or the time is up."""
        if self.evidence.failure is not None:
            return
        rules = self.gate.lab.rules
        judged = [metric for metric in LAUNCH_METRICS if metric in rules.metrics]
        most = rules.max_pairs if judged else FIRST_PAIRS
        for count, block in enumerate(self._turns(most, 0), start=1):
            self._block(block)
            if not any(
                needs_more(
                    pairs(self.evidence, metric),
                    max_pairs=most,
                    half_width=rules.half_width,
                )
                for metric in judged or ["latency"]
            ):
                return
            if self.gate.lab.clock() >= self.deadline:
                if count < FIRST_PAIRS:
                    reason = (
                        f"the budget of {rules.budget_seconds:g} s was over after block {count - 1}"
                    )
                    self.evidence = replace(self.evidence, cut_short=reason)
                return

    def _again(self, count: int) -> None:
        """Measure this many fresh blocks, or fewer where the time is up."""
        for block in self._turns(count, CONFIRMING):
            self._block(block)
            if self.gate.lab.clock() >= self.deadline:
                return
        if "memory" in self.gate.lab.rules.metrics:
            self._memory(count, CONFIRMING)

    def _block(self, block: Sequence[blocks.Turn]) -> None:
        """Make one launch of A and one of B."""
        for turn in block:
            order = blocks.order(turn, loops=self.loops)
            dose = self.evidence.dose
            self._launch(turn.cell, replace(order, dose=dose) if dose else order)

    def _turns(self, count: int, start: int) -> Iterator[list[blocks.Turn]]:
        """Yield so many blocks of both sides, in mirrored order, numbered from `start`."""
        seed = self.evidence.contest.a.cell.seed + start
        twice = [replace(c, dose=replace(c.dose, launches=count)) for c in self.order_cells]
        turns = blocks.schedule(twice, seed)
        for _, block in itertools.groupby(turns, key=lambda turn: turn.block):
            yield [replace(turn, block=start + turn.block) for turn in block]

    def _launch(self, cell: Cell, order: LaunchOrder) -> None:
        contest, worker = self.evidence.contest, self.gate.worker
        name: SideName = "baseline" if cell.id == contest.a.cell.id else "candidate"
        side = contest.a if name == "baseline" else contest.b
        worker.mending(self.gate.settle)
        cooling = self.gate.cooling
        assert cooling is not None
        flags = worker.mending(lambda: cooling.wait(self.deadline))
        launch = worker.mending(
            lambda: worker.launch(side.cell, self._placed(side, order), flags=flags)
        )
        reading = Reading.of(name, launch)
        self.evidence = replace(self.evidence, readings=(*self.evidence.readings, reading))
        failure = unfit(side.cell, launch)
        if failure is not None:
            raise _Unfit(failure)

    def _placed(self, side: Side, order: LaunchOrder) -> LaunchOrder:
        """Say on which processors and by which runtime a launch is made."""
        facts = self.gate.worker.session.facts
        return replace(
            order, runtime=side.runtime, processors=pinning.processors(facts, side.cell.threads)
        )

    def _loops_before(self) -> int:
        """Return the inner loop of the first look."""
        timed = [one.launch for one in self.evidence.readings if one.launch.kind == "timed"]
        return timed[0].inner_loop if timed else 1

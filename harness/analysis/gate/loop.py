"""Measure contests: a pilot, then mirrored blocks of one launch of A and one of B until enough.

`measure_first` and `measure_fresh` are generators over all contests; the caller closes the sessions.
Every contest ends with evidence: it is cut short if the device is lost half-way, a failure if a side
cannot be measured, and away if the device cannot be reached.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from harness.analysis.gate.contest import (
    CONFIRMING,
    LAUNCH_METRICS,
    Contest,
    Evidence,
    Reading,
    Rules,
    Side,
    SideName,
    doubted,
    pairs,
    unfit,
)
from harness.analysis.gate.findings import Key
from harness.errors import HarnessError, LeaseError, TransportError
from harness.events import Emit, Event, NotMeasured, Stopped
from harness.measure import blocks, scheduling, sessions
from harness.measure.bench import Bench
from harness.measure.conditions import REAL_TIME, WaitClock
from harness.measure.failures import failure_of, refused
from harness.measure.output_check import InaccurateOutputs
from harness.measure.pairs import FIRST_PAIRS, needs_more
from harness.measure.run import open_engine
from harness.measure.sessions import Session
from harness.measure.soaking import soak
from harness.protocols import Engine, StopFlag, Work
from harness.types import (
    DEFAULT_CONDITIONS,
    DEFAULT_HOST,
    Cell,
    Conditions,
    Device,
    Failure,
    HostLimits,
    LaunchOrder,
    Profile,
)

_PILOTS = 2


class _Unfit(HarnessError):
    """A launch succeeded but must not be judged."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


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
    context: GateContext, found: Sequence[tuple[Evidence, int]]
) -> Iterator[Evidence]:
    """Measure this many fresh pairs per contest; yield its evidence with them added.

    The fresh blocks are numbered from CONFIRMING.
    """
    wanted = {evidence.contest.key: count for evidence, count in found}
    yield from _measure(context, [evidence for evidence, _ in found], wanted)


def _measure(
    context: GateContext, found: Sequence[Evidence], fresh: Mapping[Key, int]
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
    fresh: Mapping[Key, int] = field(default_factory=dict)
    """Number of fresh pairs by contest; a contest without an entry is measured for the first time."""
    rules: Rules
    conditions: Conditions = DEFAULT_CONDITIONS
    limits: HostLimits = DEFAULT_HOST
    timing: WaitClock = REAL_TIME

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
            with bench:
                for evidence in self.share:
                    if lost is not None:
                        emit(ContestEnded(evidence=replace(evidence, cut_short=lost)))
                        continue
                    running = _RunningContest(rules=self.rules, bench=bench, evidence=evidence)
                    lost = running.measure(self.fresh.get(evidence.contest.key))
                    emit(ContestEnded(evidence=running.evidence))
            session.release()


@dataclass(slots=True, kw_only=True)
class _RunningContest:
    """One contest while it is measured."""

    rules: Rules
    bench: Bench
    evidence: Evidence
    loops: int = 1
    deadline: float = math.inf
    order_cells: tuple[Cell, Cell] = field(init=False)

    def __post_init__(self) -> None:
        contest = self.evidence.contest
        self.order_cells = (contest.a.cell, contest.b.cell)

    def _clock(self) -> float:
        return self.bench.timing.clock()

    def measure(self, fresh: int | None) -> str | None:
        """Measure; return why the device is lost for the contests after this one, or None."""
        bench, contest = self.bench, self.evidence.contest
        self.deadline = self._clock() + self.rules.budget_seconds
        try:
            bench.bring({s.variant.digest: s.variant.path for s in (contest.a, contest.b)})
            bench.settle()
            self.evidence = replace(
                self.evidence,
                pinned_mhz=bench.held.pinned_mhz,
                fixed_performance=bench.held.fixed_performance,
            )
            if fresh is None:
                if self._lacks_blocks():
                    self._prepare()
                self._first()
            else:
                if self.evidence.dose is None and self._lacks(fresh, CONFIRMING):
                    self._set_dose()
                self.loops = self._loops_before() or self.loops
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
                bench.recover(error)
            except HarnessError as another:
                return f"{contest.key.device} was lost ({another})"
        return None

    # --- before the first block -------------------------------------------------------------

    def _prepare(self) -> None:
        """Check both sides' outputs, find the inner loop, measure memory, soak if wanted."""
        contest, bench = self.evidence.contest, self.bench
        for side in (contest.a, contest.b):
            failure = refused(side.cell, bench.profile)
            if failure is not None:
                self.evidence = replace(self.evidence, failure=failure)
                return
            self._check(side)
        doubt = doubted(self.evidence, include_suspect=self.rules.include_suspect)
        if doubt is not None:
            raise _Unfit(doubt)
        self._set_dose()
        self.loops = self._loops_before() or self.loops
        self._memory(self.rules.memory_pairs, 0)
        if bench.conditions.thermal == "soak":
            soak(bench, contest.a.cell, loops=self.loops, runtime=contest.a.runtime)
            self.deadline = self._clock() + self.rules.budget_seconds
            self.evidence = replace(self.evidence, hot=True)

    def _set_dose(self) -> None:
        """Choose the inner loop and the dose of timed launches from a pilot."""
        contest = self.evidence.contest
        inference_ns = self._pilot(contest.a)
        dose = contest.a.cell.dose
        if self.bench.session.dialect.can.samples:
            self.loops = blocks.inner_loop(inference_ns, dose.scenario)
        if contest.stretch:
            dose = blocks.stretched(dose, inference_ns)
        self.evidence = replace(self.evidence, dose=dose)

    def _pilot(self, side: Side) -> float:
        """Return the longer time per inference of two short launches, ns."""
        pilot = replace(blocks.pilot(side.cell), runtime=side.runtime)
        times = []
        for place in range(_PILOTS):
            order = replace(pilot, position=place)
            pilot_once = functools.partial(self.bench.pilot, side.cell, order)
            times.append(self.bench.recovering(pilot_once))
        return sorted(times)[len(times) // 2]

    def _check(self, side: Side) -> None:
        try:
            checked = self.bench.recovering(lambda: self.bench.check(side.cell, side.runtime))
        except InaccurateOutputs as error:
            self.evidence = self.evidence.with_check(side.cell, error.checked)
            raise InaccurateOutputs(f"{side.cell.recipe}: {error}", error.checked) from error
        self.evidence = self.evidence.with_check(side.cell, checked)

    def _memory(self, count: int, start: int) -> None:
        if not self.bench.can_launch("memory"):
            reason = f"the dialect of {self.bench.name} makes no memory launches"
            for cell in self.order_cells:
                self.bench.emit(NotMeasured(cell=cell.id, what="memory", reason=reason))
            return
        for block in self._turns(count, start):
            if self._has(block, "memory"):
                continue
            for turn in block:
                order = replace(blocks.memory(turn.cell, turn.block), position=turn.position)
                self._launch(turn.cell, order)

    # --- blocks -------------------------------------------------------------------------------

    def _first(self) -> None:
        """Measure blocks until the stop rule is met or the time is up."""
        if self.evidence.failure is not None:
            return
        rules = self.rules
        for count, block in enumerate(self._turns(self._max_pairs, 0), start=1):
            if self._has(block, "timed"):
                continue
            if not self._needs_more():
                return
            self._block(block)
            if self._clock() >= self.deadline:
                if count < FIRST_PAIRS:
                    reason = (
                        f"the budget of {rules.budget_seconds:g} s was over after block {count - 1}"
                    )
                    self.evidence = replace(self.evidence, cut_short=reason)
                return

    @property
    def _judged(self) -> list[str]:
        return [metric for metric in LAUNCH_METRICS if metric in self.rules.metrics]

    @property
    def _max_pairs(self) -> int:
        return self.rules.max_pairs if self._judged else FIRST_PAIRS

    def _needs_more(self) -> bool:
        """Return whether the stop rule wants another block."""
        return any(
            needs_more(
                pairs(self.evidence, metric),
                max_pairs=self._max_pairs,
                half_width=self.rules.half_width,
            )
            for metric in self._judged or ["latency"]
        )

    def _lacks_blocks(self) -> bool:
        """Return whether first blocks are missing: all of them, unless a gate is resumed."""
        timed = [one for one in self.evidence.readings if one.launch.kind == "timed"]
        return not timed or (self._needs_more() and self._lacks(self._max_pairs, 0))

    def _lacks(self, count: int, start: int) -> bool:
        return not all(self._has(block, "timed") for block in self._turns(count, start))

    def _has(self, block: Sequence[blocks.Turn], kind: str) -> bool:
        """Return whether a resumed gate has both launches of a block."""
        have = {
            one.launch.cell_id
            for one in self.evidence.readings
            if one.launch.kind == kind and one.launch.block == block[0].block
        }
        return have == {cell.id for cell in self.order_cells}

    def _again(self, count: int) -> None:
        """Measure this many fresh blocks, fewer if the time is up."""
        for block in self._turns(count, CONFIRMING):
            if self._has(block, "timed"):
                continue
            self._block(block)
            if self._clock() >= self.deadline:
                return
        if "memory" in self.rules.metrics:
            self._memory(count, CONFIRMING)

    def _block(self, block: Sequence[blocks.Turn]) -> None:
        """Make one launch of A and one of B."""
        for turn in block:
            order = blocks.order(turn, loops=self.loops)
            dose = self.evidence.dose
            self._launch(turn.cell, replace(order, dose=dose) if dose else order)

    def _turns(self, count: int, start: int) -> Iterator[list[blocks.Turn]]:
        """Yield this many blocks of both sides in mirrored order, numbered from `start`."""
        seed = self.evidence.contest.a.cell.seed + start
        twice = [replace(c, dose=replace(c.dose, launches=count)) for c in self.order_cells]
        turns = blocks.schedule(twice, seed)
        for _, block in itertools.groupby(turns, key=lambda turn: turn.block):
            yield [replace(turn, block=start + turn.block) for turn in block]

    def _launch(self, cell: Cell, order: LaunchOrder) -> None:
        contest, bench = self.evidence.contest, self.bench
        name: SideName = "baseline" if cell.id == contest.a.cell.id else "candidate"
        side = contest.a if name == "baseline" else contest.b
        order = replace(order, runtime=side.runtime)
        if order.kind == "memory":
            launch = bench.recovering(lambda: bench.optional_launch(side.cell, order))
            if launch is None:
                return
        else:
            flags = self.evidence.check_of(side.cell).flags
            launch = bench.recovering(
                lambda: bench.launch(side.cell, order, flags=flags, until=self.deadline)
            )
        reading = Reading.of(name, launch)
        self.evidence = replace(self.evidence, readings=(*self.evidence.readings, reading))
        failure = unfit(side.cell, launch, include_suspect=self.rules.include_suspect)
        if failure is not None:
            raise _Unfit(failure)

    def _loops_before(self) -> int | None:
        """Return the inner loop of the first pairs; None before them."""
        timed = [one.launch for one in self.evidence.readings if one.launch.kind == "timed"]
        return timed[0].inner_loop if timed else None

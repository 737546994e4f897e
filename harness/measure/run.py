"""The measuring loop: turn cells into outcomes.

`run` is a generator, which progress, storing and tests all use. The work of one machine is done in
order, so two measurements never use one machine at the same time.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from harness import plugins
from harness.devices.delegation import CPU_TARGETS, judge
from harness.devices.throttling import HOT
from harness.errors import (
    AgentError,
    DeviceChanged,
    FellBack,
    HarnessError,
    LeaseError,
    TransportError,
    Unproven,
)
from harness.events import CellEnded, Emit, Event, NotMeasured, Stopped
from harness.measure import blocks, scheduling, sessions
from harness.measure.bench import Bench, launch_of
from harness.measure.failures import failure_of, refused
from harness.measure.leases import Patience
from harness.measure.output_check import UNCHECKED, CheckedOutputs, InaccurateOutputs
from harness.measure.sessions import Session
from harness.measure.soaking import soak
from harness.optimize import reference
from harness.protocols import Engine, OpenEngine, StopFlag, Work
from harness.types import (
    DEFAULT_CONDITIONS,
    DEFAULT_HOST,
    Cell,
    Conditions,
    Device,
    Failure,
    HostLimits,
    Launch,
    LaunchOrder,
    Outcome,
    Profile,
)

__all__ = ["DeviceWork", "Done", "open_engine", "run"]

DEFAULT_ENGINE = "threads"


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The launches that an earlier, interrupted run already has."""

    launches: Mapping[str, Sequence[Launch]] = field(default_factory=dict)
    """By cell id, without samples."""
    bare: frozenset[tuple[str, int]] = frozenset()
    """The devices and numbers of threads that have a bare launch, in whatever cell."""


def open_engine(name: str = DEFAULT_ENGINE) -> Engine:
    """Open an engine by name; raises ConfigError for an unknown one."""
    opener: OpenEngine = plugins.load("harness.engines", name)
    return opener()


def run(
    cells: Sequence[Cell],
    live: Mapping[str, Session | HarnessError],
    emit: Emit,
    *,
    profiles: Mapping[str, Profile],
    done: Done | None = None,
    conditions: Conditions = DEFAULT_CONDITIONS,
    limits: HostLimits = DEFAULT_HOST,
    engine: Engine | None = None,
) -> Iterator[Outcome]:
    """Yield one outcome per cell as soon as it is known; close the sessions at the end.

    Each outcome is emitted before it is yielded. Devices that are one machine (two addresses with
    the same identity) are measured one after the other.
    """
    by_device: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        by_device[cell.device].append(cell)
    machines: dict[str, list[Work]] = defaultdict(list)
    known = done or Done()
    for name, share in by_device.items():
        session = live[name]
        work: Work
        if isinstance(session, HarnessError):
            work = AwayWork(cells=tuple(share), failure=failure_of(session))
        else:
            work = DeviceWork(
                device=session.device,
                ticket=session.ticket,
                profile=profiles.get(session.device.profile),
                cells=tuple(share),
                conditions=conditions,
                limits=limits,
                done={cell.id: tuple(known.launches.get(cell.id, ())) for cell in share},
                bare=tuple(sorted(n for device, n in known.bare if device == name)),
            )
        machines[scheduling.machine_of(name, session)].append(work)
    try:
        for event in scheduling.together(machines, engine or open_engine(), emit, CellEnded, live):
            yield event.outcome
    finally:
        sessions.close_all(live)


@dataclass(frozen=True, slots=True, kw_only=True)
class AwayWork:
    """The cells of a device that cannot be used; each gets the failure."""

    cells: tuple[Cell, ...]
    failure: Failure

    def __call__(self, emit: Emit, stop: StopFlag) -> None:  # noqa: ARG002 - the seam
        """Report the outcomes."""
        for cell in self.cells:
            failure = refused(cell, None) or self.failure
            emit(CellEnded(outcome=Outcome(cell=cell, failure=failure)))


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceWork:
    """All cells of one device, as data. Call it to measure them, in any process."""

    device: Device
    ticket: str | None = None
    """The ticket of a session in the process that made this work."""
    profile: Profile | None = None
    cells: tuple[Cell, ...]
    conditions: Conditions = DEFAULT_CONDITIONS
    limits: HostLimits = DEFAULT_HOST
    """The limits of the reference outputs on this host."""
    done: Mapping[str, tuple[Launch, ...]] = field(default_factory=dict)
    """Launches that an earlier run stored, by cell id."""
    bare: tuple[int, ...] = ()
    """The numbers of threads of which it stored a bare launch, also in other cells."""
    wait_seconds: float = 0.0
    """How long to wait for the lease of another user if this work opens the session."""

    def __call__(self, emit: Emit, stop: StopFlag) -> None:
        """Measure the cells, one launch at a time; emit each outcome as it is known."""
        patience = Patience(seconds=self.wait_seconds, emit=emit)
        ended: set[str] = set()

        def noted(event: Event) -> None:
            emit(event)
            if isinstance(event, CellEnded):
                ended.add(event.outcome.cell.id)

        try:
            with sessions.reached(self.device, self.ticket, patience) as session:
                bench = Bench(
                    session=session,
                    emit=noted,
                    profile=self.profile,
                    conditions=self.conditions,
                    limits=self.limits,
                    stop=stop,
                )
                with bench:
                    _Measuring(work=self, bench=bench).measure()
                session.release()
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001 - a bug in a plug-in ends only its own device
            remaining = tuple(cell for cell in self.cells if cell.id not in ended)
            AwayWork(cells=remaining, failure=failure_of(error))(emit, stop)


@dataclass(slots=True, kw_only=True)
class _Measuring:
    """The state of a DeviceWork in progress."""

    work: DeviceWork
    bench: Bench
    launches: dict[str, list[Launch]] = field(default_factory=dict)
    checked: dict[str, CheckedOutputs] = field(default_factory=dict)
    """The checks of outputs, by cell id."""
    loops: dict[str, int] = field(default_factory=dict)
    flags: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The flags of the timed launches, by cell id."""
    live: dict[str, Cell] = field(default_factory=dict)

    def measure(self) -> None:
        """Prepare every cell, then launch all of them interleaved; end each with an outcome."""
        for cell in self.work.cells:
            failure = refused(cell, self.work.profile) or self._impossible(cell)
            if failure:
                self._end(Outcome(cell=cell, failure=failure))
            else:
                self._begin(cell)
        if not self.live:
            return
        try:
            self.bench.bring(
                {v.digest: v.path for c in self.live.values() for v in [blocks.built(c)]}
            )
            for cell in list(self.live.values()):
                self._attempt(cell, self._prepare)
            self._soak()
            for turn in blocks.schedule(list(self.live.values()), self.work.cells[0].seed):
                if turn.cell.id in self.live:
                    self._attempt(turn.cell, functools.partial(self._timed, turn))
        except HarnessError as error:
            # An error of the device ends its incomplete cells; a cell's own error ended only that.
            for cell in [one for one in self.live.values() if self._lacks(one)]:
                self._fail(cell, error)
        for cell in list(self.live.values()):
            self._finish(cell)

    def _begin(self, cell: Cell) -> None:
        self.live[cell.id] = cell
        self.launches[cell.id] = list(self.work.done.get(cell.id, ()))
        for launch in self.launches[cell.id]:
            self.bench.watch.expect(None, launch.runtime)

    def _impossible(self, cell: Cell) -> Failure | None:
        if cell.cache is not None and not self.bench.session.dialect.can.caches:
            return Failure(
                kind="unsupported",
                reason=f"the dialect of {cell.device} sets no caches; remove run.cache from the plan",
            )
        if self.bench.can_launch("timed"):
            return None
        return Failure(
            kind="unsupported",
            reason=f"the dialect of {cell.device} makes no timed launches",
        )

    # --- one cell -------------------------------------------------------------------------

    def _attempt(self, cell: Cell, action: Callable[[Cell], None]) -> None:
        """Run an action for a cell; its failure ends the cell but not the device's work."""
        try:
            self.bench.recovering(lambda: action(cell), launch_of(cell))
        except (TransportError, LeaseError, DeviceChanged):
            raise
        except HarnessError as error:
            self._fail(cell, error)
            self.bench.recover(error)

    def _prepare(self, cell: Cell) -> None:
        """Check the outputs, measure memory and choose the inner loop, each in its own process.

        The fastest inference of a memory launch serves as the pilot. Without a memory launch, a
        separate pilot launch is made.
        """
        self._check(cell)
        inference_ns = None
        have = {(launch.kind, launch.block) for launch in self.launches[cell.id]}
        if ("bare", 0) not in have and not self._bare_known(cell):
            self._optional(cell, blocks.bare(cell))
        if ("cpu", 0) not in have:
            self._time_on_cpu(cell)
        for block in range(cell.dose.memory_launches):
            if ("memory", block) not in have:
                launch = self._optional(cell, blocks.memory(cell, block))
                inference_ns = blocks.fastest(launch) if launch else None
        timed = [launch for launch in self.launches[cell.id] if launch.kind == "timed"]
        if timed:
            self.loops[cell.id] = timed[0].inner_loop
        elif not self.bench.session.dialect.can.samples:
            # The tool reports a summary of its own loop, so there is no inner loop of ours.
            self.loops[cell.id] = 1
        else:
            if inference_ns is None:
                inference_ns = self.bench.pilot(cell, blocks.pilot(cell))
            self.loops[cell.id] = blocks.inner_loop(inference_ns, cell.dose.scenario)

    def _time_on_cpu(self, cell: Cell) -> None:
        """Time an accelerator's file on the device's CPU as well, if the CPU can run it.

        If both times are alike, the file may not have run on the accelerator.
        """
        if cell.target in CPU_TARGETS or not reference.runs_on_host(blocks.built(cell)):
            return
        try:
            self._optional(cell, blocks.companion(cell))
        except AgentError as error:
            self.bench.emit(NotMeasured(cell=cell.id, what="cpu", reason=str(error)))
            self.bench.recover(error)

    def _bare_known(self, cell: Cell) -> bool:
        return cell.threads in self.work.bare or any(
            launch.kind == "bare" and other.threads == cell.threads
            for other in self.work.cells
            for launch in self.launches.get(other.id, ())
        )

    def _check(self, cell: Cell) -> None:
        try:
            checked = self.bench.check(cell)
        except InaccurateOutputs as error:
            self.checked[cell.id] = error.checked
            raise
        self.checked[cell.id] = checked
        self.flags[cell.id] = checked.flags

    def _soak(self) -> None:
        """Heat the device with the first cell that runs until its latency is constant.

        A resumed run heats it again, unless it has every timed launch already.
        """
        if self.work.conditions.thermal != "soak" or not any(map(self._lacks, self.live.values())):
            return
        for cell in list(self.live.values()):
            self._attempt(cell, lambda cell: soak(self.bench, cell, loops=self.loops[cell.id]))
            if cell.id in self.live:
                break
        for cell_id in self.live:
            self.flags[cell_id] = (*self.flags.get(cell_id, ()), HOT)

    def _lacks(self, cell: Cell) -> bool:
        """Return whether timed launches of the cell are missing."""
        have = sum(launch.kind == "timed" for launch in self.launches[cell.id])
        return have < cell.dose.launches

    def _timed(self, turn: blocks.Turn, cell: Cell) -> None:
        have = {(launch.kind, launch.block) for launch in self.launches[cell.id]}
        if ("timed", turn.block) not in have:
            order = blocks.order(turn, loops=self.loops[cell.id])
            flags = self.flags.get(cell.id, ())
            self._keep(cell, self.bench.launch(cell, order, flags=flags))

    def _optional(self, cell: Cell, order: LaunchOrder) -> Launch | None:
        launch = self.bench.optional_launch(cell, order)
        if launch is not None:
            self._keep(cell, launch)
        return launch

    def _keep(self, cell: Cell, launch: Launch) -> None:
        self.launches[cell.id].append(replace(launch, samples=()))
        verdict = judge(cell, [launch])
        if verdict is not None and not verdict.shown:
            # No later launch can make the row valid.
            kind = FellBack if verdict.status == "fell_back" else Unproven
            raise kind(verdict.reason)

    # --- endings --------------------------------------------------------------------------

    def _finish(self, cell: Cell) -> None:
        del self.live[cell.id]
        self._end(self._outcome(cell, launches=tuple(self.launches[cell.id])))

    def _fail(self, cell: Cell, error: HarnessError) -> None:
        if self.bench.stop.is_set():
            # What ends the controller may have ended the agent, too: no fault of the cell.
            raise Stopped from error
        self.live.pop(cell.id, None)
        self._end(self._outcome(cell, failure=failure_of(error)))

    def _outcome(
        self, cell: Cell, launches: tuple[Launch, ...] = (), failure: Failure | None = None
    ) -> Outcome:
        checked = self.checked.get(cell.id, UNCHECKED)
        return Outcome(
            cell=cell,
            launches=launches,
            failure=failure,
            agreement=checked.agreement,
            selfcheck=checked.selfcheck,
        )

    def _end(self, outcome: Outcome) -> None:
        self.bench.emit(CellEnded(outcome=outcome))

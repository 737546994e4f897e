"""The loop: cells to outcomes.

`run` is a generator, so progress, storing and testing use the same thing. One worker per machine;
a machine is never used by two. This is the only place that turns an error into an outcome's
failure.
"""

from __future__ import annotations

import functools
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from harness.devices.delegation import CPU_TARGETS, disagreement, judge
from harness.errors import (
    AgentError,
    FellBack,
    HarnessError,
    Inaccurate,
    LeaseError,
    TransportError,
    Unproven,
)
from harness.measure import blocks
from harness.measure.sessions import Session
from harness.measure.worker import Job, Observer, Worker, failure_of, machine_of, refused, together
from harness.optimize import reference
from harness.types import Agreement, Cell, Launch, LaunchOrder, Outcome, Profile

__all__ = ["Done", "Observer", "failure_of", "run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What an earlier, interrupted run already has."""

    launches: Mapping[str, Sequence[Launch]] = field(default_factory=dict)
    """By cell id, without samples."""


def run(
    cells: Sequence[Cell],
    sessions: Mapping[str, Session | HarnessError],
    observer: Observer,
    *,
    profiles: Mapping[str, Profile],
    done: Done | None = None,
) -> Iterator[Outcome]:
    """Yield one outcome for every cell, as they are known; closes the sessions at the end.

    Devices that are one machine (the same identity behind two addresses) share a worker, so
    that they are never measured at the same time.
    """
    by_device: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        by_device[cell.device].append(cell)
    machines: dict[str, list[Job[Outcome]]] = defaultdict(list)
    for name, share in by_device.items():
        session = sessions[name]

        def job(
            emit: Callable[[Outcome], None],
            stop: threading.Event,
            share: list[Cell] = share,
            session: Session | HarnessError = session,
        ) -> None:
            if isinstance(session, HarnessError):
                _away(share, session, emit)
                return
            profile = profiles.get(session.device.profile)
            worker = Worker(session=session, observer=observer, profile=profile, stop=stop)
            _DeviceWork(cells=share, worker=worker, done=done or Done(), emit=emit).measure()
            session.release()

        machines[machine_of(name, session)].append(job)

    try:
        yield from together(machines, sessions)
    finally:
        for session in sessions.values():
            if isinstance(session, Session):
                session.close()


def _away(cells: Sequence[Cell], error: HarnessError, emit: Callable[[Outcome], None]) -> None:
    for cell in cells:
        emit(Outcome(cell=cell, failure=refused(cell, None) or failure_of(error)))


@dataclass(slots=True, kw_only=True)
class _DeviceWork:
    """All cells of one device, measured one launch at a time."""

    cells: list[Cell]
    worker: Worker
    done: Done
    emit: Callable[[Outcome], None]
    launches: dict[str, list[Launch]] = field(default_factory=dict)
    agreements: dict[str, Agreement] = field(default_factory=dict)
    loops: dict[str, int] = field(default_factory=dict)
    live: dict[str, Cell] = field(default_factory=dict)

    def measure(self) -> None:
        for cell in self.cells:
            failure = refused(cell, self.worker.profile)
            if failure:
                self.emit(Outcome(cell=cell, failure=failure))
            else:
                self.live[cell.id] = cell
                self.launches[cell.id] = list(self.done.launches.get(cell.id, ()))
        if not self.live:
            return
        try:
            self.worker.bring(
                {v.digest: v.path for c in self.live.values() for v in [blocks.built(c)]}
            )
            for cell in list(self.live.values()):
                self._attempt(cell, self._prepare)
            for turn in blocks.schedule(list(self.live.values()), self.cells[0].seed):
                if turn.cell.id in self.live:
                    self._attempt(turn.cell, functools.partial(self._timed, turn))
        except HarnessError as error:
            # Of the device: a cell's own trouble ended only that cell.
            for cell in list(self.live.values()):
                self._fail(cell, error)
        for cell in list(self.live.values()):
            self._finish(cell)

    # --- one cell -------------------------------------------------------------------------

    def _attempt(self, cell: Cell, action: Callable[[Cell], None]) -> None:
        """Do one thing for a cell; its failure ends the cell, never the device."""
        try:
            self.worker.mending(lambda: action(cell))
        except (TransportError, LeaseError):
            raise
        except HarnessError as error:
            self._fail(cell, error)
            self.worker.recover(error)

    def _prepare(self, cell: Cell) -> None:
        """Check the outputs, measure memory, find the inner loop: each in its own process.

        A memory launch runs a few inferences anyway; the fastest of them is pilot enough. Without
        one there is a launch of its own.
        """
        self._check(cell)
        inference_ns = None
        have = {(launch.kind, launch.block) for launch in self.launches[cell.id]}
        if ("bare", 0) not in have and not self._bare_known(cell):
            self._launch(cell, blocks.bare(cell))
        if ("cpu", 0) not in have:
            self._beside_the_cpu(cell)
        for block in range(cell.dose.memory_launches):
            if ("memory", block) not in have:
                inference_ns = blocks.fastest(self._launch(cell, blocks.memory(cell, block)))
        timed = [launch for launch in self.launches[cell.id] if launch.kind == "timed"]
        if timed:
            self.loops[cell.id] = timed[0].inner_loop
            return
        if inference_ns is None:
            inference_ns = self.worker.pilot(cell, blocks.pilot(cell))
        self.loops[cell.id] = blocks.inner_loop(inference_ns, cell.dose.scenario)

    def _beside_the_cpu(self, cell: Cell) -> None:
        """Time an accelerator's file on the device's CPU, where that runs it: it may look just alike."""
        if cell.target in CPU_TARGETS or not reference.runs_here(blocks.built(cell)):
            return
        try:
            self._launch(cell, blocks.companion(cell))
        except AgentError as error:
            told = {"event": "not_on_the_cpu", "cell": cell.id, "reason": str(error)}
            self.worker.observer.log(told)
            self.worker.recover(error)

    def _bare_known(self, cell: Cell) -> bool:
        return any(
            launch.kind == "bare" and other.threads == cell.threads
            for other in self.cells
            for launch in self.launches.get(other.id, ())
        )

    def _check(self, cell: Cell) -> None:
        """Compare the device's outputs with the host's, before any timing."""
        agreement = self.worker.check(cell)
        if agreement is None:
            return
        self.agreements[cell.id] = agreement
        reason = disagreement(agreement, cell)
        # A compiler's rounding may be its own: there it is a doubt, which the verdict tells.
        if reason and blocks.built(cell).uncompiled is None:
            raise Inaccurate(reason)

    def _timed(self, turn: blocks.Turn, cell: Cell) -> None:
        have = {(launch.kind, launch.block) for launch in self.launches[cell.id]}
        if ("timed", turn.block) not in have:
            self._launch(cell, blocks.order(turn, loops=self.loops[cell.id]))

    def _launch(self, cell: Cell, order: LaunchOrder) -> Launch:
        launch = self.worker.launch(cell, order)
        self.launches[cell.id].append(replace(launch, samples=()))
        verdict = judge(cell, [launch])
        if verdict is not None and not verdict.shown:
            # No later launch can make a number of it.
            kind = FellBack if verdict.status == "fell_back" else Unproven
            raise kind(verdict.reason)
        return launch

    # --- endings --------------------------------------------------------------------------

    def _finish(self, cell: Cell) -> None:
        del self.live[cell.id]
        self.emit(
            Outcome(
                cell=cell,
                launches=tuple(self.launches[cell.id]),
                agreement=self.agreements.get(cell.id),
            )
        )

    def _fail(self, cell: Cell, error: HarnessError) -> None:
        self.live.pop(cell.id, None)
        self.emit(
            Outcome(cell=cell, failure=failure_of(error), agreement=self.agreements.get(cell.id))
        )

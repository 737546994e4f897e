"""The loop: cells to outcomes.

`run` is a generator, so progress, storing and testing use the same thing. One worker per machine;
a machine is never used by two. This is the only place that turns an error into an outcome's
failure.
"""

from __future__ import annotations

import queue
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from harness import assets
from harness.errors import AgentSilent, Crashed, HarnessError, Inaccurate, TransportError
from harness.measure import blocks
from harness.optimize import reference
from harness.protocols import Dialect
from harness.sessions import Session
from harness.types import Agreement, Cell, Failure, Launch, LaunchOrder, Outcome, Profile

RELATIVE_ERROR_LIMIT = 0.1
"""Outputs without classes agree up to this relative error (INTERFACE: a row)."""


class Observer(Protocol):
    """Who is told while a run goes on: the store first, then the screen."""

    def launch_started(self, cell: Cell, order: LaunchOrder) -> None:
        """Say that a launch is under way."""

    def launch(self, launch: Launch) -> None:
        """Receive a launch that is whole; storing it here makes it durable."""

    def log(self, event: Mapping[str, Any]) -> None:
        """Receive something worth a line: a reconnection, a check's result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What an earlier, interrupted run already has."""

    launches: Mapping[str, Sequence[Launch]] = field(default_factory=dict)
    """By cell id, without samples."""


class Stopped(Exception):
    """The run was asked to stop."""


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
    results: queue.Queue[Outcome | BaseException | None] = queue.Queue()
    stop = threading.Event()
    by_device: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        by_device[cell.device].append(cell)
    machines: dict[str, list[_DeviceWork]] = defaultdict(list)
    for name, share in by_device.items():
        session = sessions[name]
        machine = session.facts.identity if isinstance(session, Session) else f"away:{name}"
        machines[machine].append(
            _DeviceWork(
                cells=share,
                session=session,
                observer=observer,
                profiles=profiles,
                done=done or Done(),
                results=results,
                stop=stop,
            )
        )
    threads = [
        threading.Thread(target=_work, args=(works, results), name=f"device-{index}", daemon=True)
        for index, works in enumerate(machines.values())
    ]
    for thread in threads:
        thread.start()
    running = len(threads)
    try:
        while running:
            item = results.get()
            if item is None:
                running -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
    finally:
        stop.set()
        for session in sessions.values():
            if isinstance(session, Session):
                session.close()
        for thread in threads:
            thread.join(timeout=10)


def _work(
    works: Sequence[_DeviceWork], results: queue.Queue[Outcome | BaseException | None]
) -> None:
    try:
        for work in works:
            work.measure()
    except Stopped:
        pass
    except BaseException as error:  # noqa: BLE001 - handed whole to the caller's thread
        results.put(error)
    finally:
        results.put(None)


@dataclass(slots=True, kw_only=True)
class _DeviceWork:
    """All cells of one device, measured one launch at a time."""

    cells: list[Cell]
    session: Session | HarnessError
    observer: Observer
    profiles: Mapping[str, Profile]
    done: Done
    results: queue.Queue[Outcome | BaseException | None]
    stop: threading.Event
    launches: dict[str, list[Launch]] = field(default_factory=dict)
    agreements: dict[str, Agreement] = field(default_factory=dict)
    loops: dict[str, int] = field(default_factory=dict)
    live: dict[str, Cell] = field(default_factory=dict)

    def measure(self) -> None:
        for cell in self.cells:
            failure = self._refused(cell)
            if failure:
                self._fail(cell, failure)
            else:
                self.live[cell.id] = cell
                self.launches[cell.id] = list(self.done.launches.get(cell.id, ()))
        if not self.live:
            return
        if isinstance(self.session, HarnessError):
            self._fail_all(self.session)
            return
        try:
            variants = {v.digest: v.path for c in self.live.values() for v in [blocks.built(c)]}
            self._retrying(self.session, lambda: self._bring(variants))
            for cell in list(self.live.values()):
                self._attempt(cell, self._prepare)
            for turn in blocks.schedule(list(self.live.values()), self._seed()):
                if turn.cell.id in self.live:
                    self._attempt(turn.cell, lambda cell, turn=turn: self._timed(cell, turn))
        except TransportError as error:
            self._fail_all(error)
        for cell in list(self.live.values()):
            self._finish(cell)

    def _seed(self) -> int:
        return self.cells[0].seed

    def _refused(self, cell: Cell) -> Failure | None:
        if isinstance(cell.variant, Failure):
            return cell.variant
        profile_name = self._profile_name()
        profile = self.profiles.get(profile_name or "")
        if profile and cell.target not in profile.targets:
            return Failure(
                kind="unsupported",
                reason=f"profile {profile.name} has no target {cell.target} "
                f"(it has: {', '.join(profile.targets)})",
            )
        variant, accept = cell.variant, cell.accept
        if (
            accept.max_accuracy_drop is not None
            and variant.accuracy is not None
            and variant.accuracy_source_model is not None
            and variant.accuracy_source_model - variant.accuracy > accept.max_accuracy_drop
        ):
            drop = variant.accuracy_source_model - variant.accuracy
            return Failure(
                kind="inaccurate",
                reason=f"on the host {variant.metric} falls by {drop:.4f} against the source model "
                f"(accept.max_accuracy_drop = {accept.max_accuracy_drop})",
            )
        return None

    def _profile_name(self) -> str | None:
        return self.session.device.profile if isinstance(self.session, Session) else None

    def _bring(self, files: Mapping[str, Any]) -> None:
        assert isinstance(self.session, Session)
        self.session.bring(dict(files))

    def _dialect(self) -> Dialect:
        assert isinstance(self.session, Session)
        return self.session.dialect

    # --- one cell -------------------------------------------------------------------------

    def _attempt(self, cell: Cell, action: _Action) -> None:
        """Do one thing for a cell; its failure ends the cell, never the device."""
        if self.stop.is_set():
            raise Stopped
        assert isinstance(self.session, Session)
        try:
            self._retrying(self.session, lambda: action(cell))
        except TransportError:
            raise
        except HarnessError as error:
            self._fail(cell, failure_of(error))
            if isinstance(error, AgentSilent | Crashed):
                self._revive()

    def _retrying(self, session: Session, action: _Thunk) -> None:
        """Do it; after a broken connection, reconnect and do it once more."""
        try:
            action()
        except TransportError as error:
            if self.stop.is_set():
                raise Stopped from error
            self.observer.log(
                {"event": "reconnecting", "device": session.device.name, "reason": str(error)}
            )
            session.reopen()
            self.observer.log({"event": "reconnected", "device": session.device.name})
            action()

    def _revive(self) -> None:
        """Make sure that the agent still answers after a launch that ended badly."""
        assert isinstance(self.session, Session)
        session = self.session
        try:
            session.dialect.hello()
        except HarnessError as error:
            if self.stop.is_set():
                raise Stopped from error
            session.reopen()

    def _prepare(self, cell: Cell) -> None:
        """Check the outputs, measure memory, find the inner loop: each in its own process."""
        self._check(cell)
        have = {(launch.kind, launch.block) for launch in self.launches[cell.id]}
        if ("bare", 0) not in have and not self._bare_known(cell):
            self._launch(cell, blocks.bare(cell))
        for block in range(cell.dose.memory_launches):
            if ("memory", block) not in have:
                self._launch(cell, blocks.memory(cell, block))
        timed = [launch for launch in self.launches[cell.id] if launch.kind == "timed"]
        if timed:
            self.loops[cell.id] = timed[0].inner_loop
            return
        order = blocks.pilot(cell)
        self.observer.launch_started(cell, order)
        pilot = self._dialect().launch(order)
        latencies = sorted(
            s for part in pilot.samples if part.series == "latency" for s in part.value
        )
        self.loops[cell.id] = blocks.inner_loop(latencies[len(latencies) // 2])

    def _bare_known(self, cell: Cell) -> bool:
        return any(
            launch.kind == "bare" and other.threads == cell.threads
            for other in self.cells
            for launch in self.launches.get(other.id, ())
        )

    def _check(self, cell: Cell) -> None:
        """Compare the device's outputs with the host's on the same file, before any timing."""
        if cell.check_inputs is None:
            return
        variant = blocks.built(cell)
        inputs = reference.load_inputs(cell.check_inputs)
        outputs = self._dialect().infer(blocks.accuracy(cell), inputs)
        expected = reference.host_outputs(
            variant.path, inputs, keep=assets.cache_folder() / "outputs"
        )
        agreement = reference.compare(outputs, expected, variant)
        self.observer.log({"event": "checked", "cell": cell.id, **_plain(agreement)})
        self.agreements[cell.id] = agreement
        reason = disagreement(agreement, cell)
        if reason:
            raise Inaccurate(reason)

    def _timed(self, cell: Cell, turn: blocks.Turn) -> None:
        have = {(launch.kind, launch.block) for launch in self.launches[cell.id]}
        if ("timed", turn.block) not in have:
            self._launch(cell, blocks.order(turn, loops=self.loops[cell.id]))

    def _launch(self, cell: Cell, order: LaunchOrder) -> None:
        self.observer.launch_started(cell, order)
        launch = self._dialect().launch(order)
        launch = replace(launch, flags=(*launch.flags, *self._flags(launch)))
        self.observer.launch(launch)
        self.launches[cell.id].append(replace(launch, samples=()))

    def _flags(self, launch: Launch) -> list[str]:
        flags = []
        if launch.before.governor != "performance":
            flags.append("uncontrolled")
        profile = self.profiles.get(self._profile_name() or "")
        if (
            profile
            and profile.xnnpack
            and launch.kind in ("timed", "memory")
            and launch.delegation.delegate == "none"
        ):
            flags.append("no_xnnpack")
        return flags

    # --- endings --------------------------------------------------------------------------

    def _finish(self, cell: Cell) -> None:
        del self.live[cell.id]
        self.results.put(
            Outcome(
                cell=cell,
                launches=tuple(self.launches[cell.id]),
                agreement=self.agreements.get(cell.id),
            )
        )

    def _fail(self, cell: Cell, failure: Failure) -> None:
        self.live.pop(cell.id, None)
        self.results.put(
            Outcome(cell=cell, failure=failure, agreement=self.agreements.get(cell.id))
        )

    def _fail_all(self, error: HarnessError) -> None:
        if self.stop.is_set():
            raise Stopped from error
        for cell in list(self.live.values()):
            self._fail(cell, failure_of(error))


class _Action(Protocol):
    def __call__(self, cell: Cell, /) -> None: ...


class _Thunk(Protocol):
    def __call__(self) -> None: ...


def failure_of(error: HarnessError) -> Failure:
    """Turn an error into the failure of an outcome."""
    return Failure(kind=error.kind, reason=str(error))


def disagreement(agreement: Agreement, cell: Cell) -> str | None:
    """Say why the device's outputs do not count, or None where they agree.

    Random inputs have no true class and may tie, so there a small relative error is enough.
    """
    limit = cell.accept.min_agreement
    close = agreement.relative_error <= RELATIVE_ERROR_LIMIT
    if agreement.top1 is None:
        if close:
            return None
        return (
            f"outputs differ from the host's on the same file: relative error "
            f"{agreement.relative_error:.3g} over {agreement.samples} inputs "
            f"(limit {RELATIVE_ERROR_LIMIT})"
        )
    if agreement.top1 >= limit or ("random_inputs" in cell.flags and close):
        return None
    return (
        f"outputs differ from the host's on the same file: the same class in "
        f"{agreement.top1:.1%} of {agreement.samples} inputs (accept.min_agreement = {limit})"
    )


def _plain(agreement: Agreement) -> dict[str, Any]:
    return {
        "samples": agreement.samples,
        "top1": agreement.top1,
        "relative_error": agreement.relative_error,
    }

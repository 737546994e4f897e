"""What run and gate share: one device's launches, one at a time, reconnecting; many devices at once.

A :class:`Worker` makes launches and checks outputs; what to make and what its end means is the
caller's. A lost connection is mended once an action, other failures come out as they are.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from harness import assets
from harness.devices.delegation import is_software
from harness.errors import (
    AgentSilent,
    Crashed,
    HarnessError,
    Inaccurate,
    LeaseError,
    TransportError,
)
from harness.measure import blocks
from harness.measure.sessions import Session
from harness.optimize import reference
from harness.types import Agreement, Cell, Failure, Launch, LaunchOrder, Profile

STOP_SECONDS = 5.0
"""How long a launch may go on after the work was stopped, before its connection is cut."""

T = TypeVar("T")


class Observer(Protocol):
    """Who is told while launches are made: the store first, then the screen."""

    def launch_started(self, cell: Cell, order: LaunchOrder) -> None:
        """Say that a launch is under way."""

    def launch(self, launch: Launch) -> None:
        """Receive a launch that is whole; storing it here makes it durable."""

    def log(self, event: Mapping[str, Any]) -> None:
        """Receive something worth a line: a reconnection, a check's result."""


class Stopped(Exception):
    """The work was asked to stop."""


@dataclass(slots=True, kw_only=True)
class Worker:
    """One device that answers, and how launches are made on it; not for two threads at once."""

    session: Session
    observer: Observer
    profile: Profile | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    def bring(self, files: Mapping[str, Path]) -> None:
        """Have these files (sha256 to path) on the device, and tell what travelled."""
        self.mending(lambda: self.session.bring(files))
        self._tell_pushes()

    def mending(self, action: Callable[[], T]) -> T:
        """Do it; after a broken connection or a lost lease, mend that and do it once more.

        Raises Stopped where the work was stopped meanwhile, else what the action raises.
        """
        if self.stop.is_set():
            raise Stopped
        name = self.session.device.name
        try:
            return action()
        except (TransportError, LeaseError) as error:
            self._stopped(error)
            word = "lease_lost" if isinstance(error, LeaseError) else "reconnecting"
            self.observer.log({"event": word, "device": name, "reason": str(error)})
            # An agent that lost its lease ends, so that is a new connection too.
            self.session.reopen()
            self.observer.log({"event": "reconnected", "device": name})
            self._tell_pushes()
        try:
            return action()
        except TransportError as error:
            self._stopped(error)
            raise

    def recover(self, error: HarnessError) -> None:
        """Make sure that the agent still answers after a launch that ended badly."""
        if not isinstance(error, AgentSilent | Crashed):
            return
        try:
            self.session.dialect.hello()
        except HarnessError as another:
            self._stopped(another)
            self.session.reopen()

    def _tell_pushes(self) -> None:
        """Log what was sent since the last time, also while reconnecting."""
        pushes, self.session.pushed = self.session.pushed, []
        for push in pushes:
            name = self.session.device.name
            self.observer.log({"event": "pushed", "device": name, **asdict(push)})

    def _stopped(self, error: HarnessError) -> None:
        """A session that was closed to stop the work looks like one that was lost."""
        if self.stop.is_set():
            raise Stopped from error

    def launch(self, cell: Cell, order: LaunchOrder, flags: Sequence[str] = ()) -> Launch:
        """Make a launch, flag what is known of it here, hand it to the observer, return it."""
        self.observer.launch_started(cell, order)
        launch = self._launched(self._aimed(order))
        launch = replace(launch, flags=(*launch.flags, *self._flags(launch), *flags))
        self.observer.launch(launch)
        return launch

    def pilot(self, cell: Cell, order: LaunchOrder) -> float:
        """Make a launch that is not kept; return the median time of an inference, ns."""
        self.observer.launch_started(cell, order)
        launch = self._launched(self._aimed(order))
        latencies = sorted(
            value for part in launch.samples if part.series == "latency" for value in part.value
        )
        return latencies[len(latencies) // 2]

    def check(self, cell: Cell, runtime: str | None = None) -> Agreement | None:
        """Compare the device's outputs with the host's on the same file; None without inputs.

        Of a compiled file the host runs what was compiled. `runtime` is as in a LaunchOrder. Logs the
        agreement. The caller asks :func:`harness.devices.delegation.disagreement` whether it is enough.
        """
        if cell.check_inputs is None:
            return None
        variant = blocks.built(cell)
        file = reference.on_host(variant)
        if file is None:
            return None
        inputs = reference.load_inputs(cell.check_inputs)
        order = replace(blocks.accuracy(cell), runtime=runtime)
        outputs = self.session.dialect.infer(self._aimed(order), inputs)
        kept = assets.cache_folder() / "outputs"
        expected = reference.host_outputs(file, inputs, keep=kept)
        agreement = reference.compare(outputs, expected, variant)
        self.observer.log({"event": "checked", "cell": cell.id, **asdict(agreement)})
        return agreement

    def _launched(self, order: LaunchOrder) -> Launch:
        """Make a launch; a crash says which foreign library was in the process."""
        try:
            return self.session.dialect.launch(order)
        except Crashed as error:
            if order.delegate is None:
                raise
            raise Crashed(
                f"{error}; {order.delegate} was loaded in it: one that was built for another version of "
                "the runtime ends like that"
            ) from error

    def _aimed(self, order: LaunchOrder) -> LaunchOrder:
        """Name the delegate library of the order's target, as the profile and the farm have it."""
        known = self.profile.accelerators if self.profile else ()
        own = self.session.device.delegate_options.get(order.target, {})
        found = next((one for one in known if one.target == order.target), None)
        if found is None:
            return replace(order, delegate_options=own)
        return replace(
            order,
            delegate=found.external_delegate,
            delegate_options={**found.options, **own},
        )

    def _flags(self, launch: Launch) -> list[str]:
        flags = []
        adapter = launch.delegation.adapter
        if "emulated" in self.session.device.tags or (adapter and is_software(adapter)):
            flags.append("emulated")
        if launch.before.governor != "performance":
            flags.append("uncontrolled")
        if (
            self.profile
            and self.profile.xnnpack
            and launch.kind in ("timed", "memory")
            and launch.delegation.delegate == "none"
        ):
            flags.append("no_xnnpack")
        return flags


Job = Callable[[Callable[[T], None], threading.Event], None]
"""The work of one device: hands on what comes of it; the event says that nobody waits any more."""


@dataclass(slots=True)
class _Ended:
    error: BaseException | None = None


@dataclass(slots=True)
class _Item(Generic[T]):
    value: T


def together(
    jobs: Mapping[str, Sequence[Job[T]]], sessions: Mapping[str, Session | HarnessError]
) -> Iterator[T]:
    """Do the jobs of every machine, one machine a thread; yield what comes of them as it comes.

    The jobs of one machine are done one after the other, so that it is never measured twice at
    once. An error of a job is raised here. Left early, the launches under way may end; after five
    seconds the sessions are cut off. Closing them is the caller's.
    """
    results: queue.Queue[_Item[T] | _Ended] = queue.Queue()
    stop = threading.Event()
    threads = [
        threading.Thread(
            target=_do, args=(share, results, stop), name=f"device-{index}", daemon=True
        )
        for index, share in enumerate(jobs.values())
    ]
    for thread in threads:
        thread.start()
    running = len(threads)
    try:
        while running:
            item = results.get()
            if isinstance(item, _Item):
                yield item.value
                continue
            running -= 1
            if item.error is not None:
                raise item.error
    finally:
        stop.set()
        _wait(threads, STOP_SECONDS)
        if any(thread.is_alive() for thread in threads):
            for session in sessions.values():
                # A connection cut under its reader may complain; it is to be cut all the same.
                if isinstance(session, Session):
                    with suppress(OSError, KeyError, ValueError):
                        session.interrupt()
            _wait(threads, STOP_SECONDS)


def _wait(threads: Sequence[threading.Thread], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(timeout=max(0.0, deadline - time.monotonic()))


def _do(
    jobs: Sequence[Job[T]], results: queue.Queue[_Item[T] | _Ended], stop: threading.Event
) -> None:
    ended = _Ended()
    try:
        for job in jobs:
            job(lambda value: results.put(_Item(value)), stop)
    except Stopped:
        pass
    except BaseException as error:  # noqa: BLE001 - handed whole to the caller's thread
        ended.error = error
    finally:
        results.put(ended)


def machine_of(name: str, session: Session | HarnessError) -> str:
    """Name the machine behind a device: two addresses with one identity are one."""
    return session.facts.identity if isinstance(session, Session) else f"away:{name}"


def failure_of(error: HarnessError) -> Failure:
    """Turn an error into the failure of an outcome."""
    return Failure(kind=error.kind, reason=str(error))


def refused(cell: Cell, profile: Profile | None) -> Failure | None:
    """Say why a cell needs no launch to fail: not built, no such target, too much accuracy lost."""
    if isinstance(cell.variant, Failure):
        return cell.variant
    if profile and cell.target not in profile.targets:
        return Failure(
            kind="unsupported",
            reason=f"profile {profile.name} has no target {cell.target} "
            f"(it has: {', '.join(profile.targets)})",
        )
    variant, limit = cell.variant, cell.accept.max_accuracy_drop
    drop = variant.accuracy_drop
    if limit is not None and drop is not None and drop > limit:
        verb = "rises" if variant.accuracy_better == "lower" else "falls"
        return Failure(
            kind=Inaccurate.kind,
            reason=f"on the host {variant.metric} {verb} by {drop:.4f} against the source model "
            f"(accept.max_accuracy_drop = {limit})",
        )
    return None

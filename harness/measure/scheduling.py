"""Schedule the work of all devices: machines in parallel, the work of one machine in order."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from harness.errors import HarnessError
from harness.events import Emit, Event, Stopped
from harness.measure.sessions import Session
from harness.protocols import Engine, Work

STOP_SECONDS = 2.0
"""How long a launch may continue after the work was stopped; then its connection is cut.

With `CUT_SECONDS` and `sessions.CLOSE_SECONDS` this is well below the 7 s that a CI runner waits.
"""
CUT_SECONDS = 1.0
"""How long the work may continue after its connection was cut."""

E = TypeVar("E", bound=Event)


@dataclass(slots=True)
class _Ended:
    error: BaseException | None = None


def machine_of(name: str, session: Session | HarnessError) -> str:
    """Return the identity of a device's machine; two addresses may have the same one."""
    return session.facts.identity if isinstance(session, Session) else f"away:{name}"


def together(
    machines: Mapping[str, Sequence[Work]],
    engine: Engine,
    emit: Emit,
    wanted: type[E],
    sessions: Mapping[str, Session | HarnessError],
) -> Iterator[E]:
    """Do the work of all machines, one thread per machine; yield the events of the wanted kind.

    Every event is emitted in the thread of its machine. The work of one machine is done in order,
    so it is never measured twice at the same time. An error of the work is raised here. If the
    caller stops early, the current launches may end; after two seconds the connections are cut.
    The caller closes the sessions.
    """
    found: queue.Queue[E | _Ended] = queue.Queue()
    stop = threading.Event()
    queues = [
        _MachineQueue(share=share, engine=engine, emit=emit, wanted=wanted, found=found, stop=stop)
        for share in machines.values()
    ]
    threads = [
        threading.Thread(target=one.run, name=f"device-{index}", daemon=True)
        for index, one in enumerate(queues)
    ]
    for thread in threads:
        thread.start()
    running = len(threads)
    try:
        while running:
            item = found.get()
            if not isinstance(item, _Ended):
                yield item
                continue
            running -= 1
            if item.error is not None:
                raise item.error
    finally:
        stop.set()
        _wait(threads, STOP_SECONDS)
        if any(thread.is_alive() for thread in threads):
            _wait([*_interrupted(sessions.values()), *threads], CUT_SECONDS)


@dataclass(slots=True, kw_only=True)
class _MachineQueue(Generic[E]):
    """The work of one machine, done in order in its own thread."""

    share: Sequence[Work]
    engine: Engine
    emit: Emit
    wanted: type[E]
    found: queue.Queue[E | _Ended]
    stop: threading.Event

    def run(self) -> None:
        """Do the work in order; at the end, tell the caller how it ended."""
        ended = _Ended()
        events: Iterator[Event] = iter(())
        try:
            for work in self.share:
                events = self.engine.submit(work, self.stop)
                for event in events:
                    self.emit(event)
                    if isinstance(event, self.wanted):
                        self.found.put(event)
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            ended.error = error
            self.stop.set()
        finally:
            # The caller must know first: closing waits for the launch that is under way.
            self.found.put(ended)
            if isinstance(events, Generator):
                events.close()


def _interrupted(sessions: Iterable[Session | HarnessError]) -> list[threading.Thread]:
    """Cut all connections at once; return the threads that do it."""

    def cut(session: Session) -> None:
        # Closing a connection that another thread reads may raise; it must be cut anyway.
        with suppress(OSError, KeyError, ValueError):
            session.interrupt()

    cutting = [
        threading.Thread(target=cut, args=(one,), name="cut", daemon=True)
        for one in sessions
        if isinstance(one, Session)
    ]
    for thread in cutting:
        thread.start()
    return cutting


def _wait(threads: Sequence[threading.Thread], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(timeout=max(0.0, deadline - time.monotonic()))

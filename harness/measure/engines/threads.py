"""threads: run the work in a thread of this process.

The work continues only after the consumer has processed each event. So a launch is stored before
the next one starts.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

from harness.events import Event, Stopped
from harness.protocols import StopFlag, Work


class ThreadsEngine:
    """Runs each submitted work in its own thread."""

    def submit(self, work: Work, stop: StopFlag) -> Iterator[Event]:
        """Run the work, yield its events as they come, and raise what the work raises."""
        handover: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        taken = threading.Semaphore(0)
        failures: list[BaseException] = []
        abandoned = threading.Event()

        def emit(event: Event) -> None:
            if not abandoned.is_set():
                handover.put(event)
                taken.acquire()
            if abandoned.is_set():
                raise Stopped

        def run() -> None:
            try:
                work(emit, stop)
            except BaseException as error:  # noqa: BLE001 - raised again by the consumer
                failures.append(error)
            finally:
                handover.put(None)

        thread = threading.Thread(target=run, name="work", daemon=True)
        thread.start()
        try:
            while (event := handover.get()) is not None:
                yield event
                taken.release()
        finally:
            # If the consumer leaves early, the work ends at its next event.
            abandoned.set()
            taken.release()
            thread.join()
        if failures:
            raise failures[0]


def open_threads() -> ThreadsEngine:
    """Open the engine: the entry point `threads` of the group `harness.engines`."""
    return ThreadsEngine()

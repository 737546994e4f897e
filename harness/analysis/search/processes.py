"""The processes of a search: this one alone, or several that share the study."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from harness import errors
from harness.analysis.search import studies
from harness.analysis.search.folder import Folder
from harness.analysis.search.records import Job, TrialEnded, TrialStarted
from harness.analysis.search.trials import attempt
from harness.errors import HarnessError
from harness.events import Emit, Event, ignore
from harness.optimize import workers

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

_SAFE_PATH = "PYTHONSAFEPATH"
_POLL_SECONDS, _LAST_POLL_SECONDS = 0.5, 0.1
_END_SECONDS = 5.0
"""Time for all interrupted processes to release their device and end their workers."""


def allowed(wanted: int) -> int:
    """Return the number of processes, limited by the cores and by the memory for a worker each."""
    return max(1, min(wanted, workers.available_cores(), workers.max_tensorflow_workers()))


def run(job: Job, *, processes: int, emit: Emit = ignore) -> tuple[str, ...]:
    """Run trials until the plan's number is done; return notes for the result.

    `emit` gets a TrialStarted and a TrialEnded per trial.

    Raises the error of a process (the device is away, the disk is full) or KeyboardInterrupt after
    all processes have ended. Finished trials are kept, and the same call continues from there.
    """
    folder = Folder(path=job.folder)
    with folder.writer():
        with studies.opened(job) as study:
            study.begin()
        counted = CountedTrials(emit=emit, done=len(folder.trials()))
        if processes == 1:
            work(job, 0, counted)
            return ()
        return _run_in_processes(job, processes, counted)


@dataclass(slots=True, kw_only=True)
class CountedTrials:
    """Counts the trials that ended, in the order in which they are emitted.

    Two processes that end trials at the same time would both count both of them.
    """

    emit: Emit
    done: int

    def __call__(self, event: Event) -> None:
        """Emit the event, a TrialEnded with its number."""
        if isinstance(event, TrialEnded):
            self.done += not event.again
            event = replace(event, done=self.done)
        self.emit(event)


def work(job: Job, process: int, emit: Emit, is_wanted: Callable[[], bool] = lambda: True) -> None:
    """Run trials in this process until enough are done, or until `is_wanted` returns false."""
    with studies.opened(job, process=process) as study:
        while is_wanted() and (trial := study.next()) is not None:
            recipe = job.space.draw(trial)
            emit(TrialStarted(recipe=recipe.name, process=process))
            result, again = attempt(job, recipe, trial.number)
            study.record(trial, result)
            emit(TrialEnded(trial=result, again=again, done=study.done(), wanted=study.wanted))


def _run_in_processes(job: Job, processes: int, emit: Emit) -> tuple[str, ...]:
    context = multiprocessing.get_context("spawn")
    reports: Any = context.Queue()
    started = [
        context.Process(target=_child, args=(job, number, reports), daemon=False)
        for number in range(processes)
    ]
    failures: list[HarnessError] = []
    try:
        with _safe_path():
            for process in started:
                process.start()
        while not failures and any(process.is_alive() for process in started):
            _pass_on(reports, emit, failures, _POLL_SECONDS)
        while _pass_on(reports, emit, failures, _LAST_POLL_SECONDS):
            pass
    finally:
        _end(started)
        reports.close()
    if failures:
        raise failures[0]
    return tuple(
        f"process {number} of the search ended with {process.exitcode}; its trial is open and "
        "--resume tries it again"
        for number, process in enumerate(started)
        if process.exitcode
    )


@contextmanager
def _safe_path() -> Iterator[None]:
    """Let a Python that is spawned in this block import nothing from the current folder."""
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SAFE_PATH]
        else:
            os.environ[_SAFE_PATH] = before


def _pass_on(reports: Any, emit: Emit, failures: list[HarnessError], seconds: float) -> bool:  # noqa: ANN401 - a queue of another process
    """Emit the next event or add the next failure; return false if none came in time."""
    try:
        report = reports.get(timeout=seconds)
    except queue.Empty:
        return False
    if isinstance(report, Event):
        emit(report)
    else:
        name, message = report
        failures.append(getattr(errors, name, HarnessError)(message))
    return True


def _child(job: Job, number: int, reports: Any) -> None:  # noqa: ANN401 - a queue of another process
    """Run trials in a spawned process; an error is sent as its class name and message.

    The controller handles Ctrl-C and the end of the terminal, and ends this process with SIGTERM. If
    the controller is gone, this process ends after the trial under way.
    """
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    controller = multiprocessing.parent_process()
    assert controller is not None
    try:
        work(job, number, reports.put, controller.is_alive)
    except HarnessError as error:
        reports.put((type(error).__name__, str(error)))
    except KeyboardInterrupt:
        return


def _end(started: Sequence[BaseProcess]) -> None:
    """Interrupt the processes that still run, and wait for them."""
    for process in started:
        if process.pid is not None:
            process.terminate()
    deadline = time.monotonic() + _END_SECONDS
    for process in started:
        if process.pid is None:
            continue
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()

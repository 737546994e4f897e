"""The processes of a search: one here, or several that share the study."""

from __future__ import annotations

import multiprocessing
import queue
import signal
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from harness import errors
from harness.analysis.search import studies
from harness.analysis.search.folder import Folder
from harness.analysis.search.records import Job, TrialEnded, TrialStarted
from harness.analysis.search.trials import attempt
from harness.errors import HarnessError
from harness.optimize import workers

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

Tell = Callable[[TrialStarted | TrialEnded], None]

_LOOK_SECONDS, _LAST_LOOK_SECONDS = 0.5, 0.1
_LAST_SECONDS = 30.0
"""How long an interrupted process has to let go of its device and its workers."""


def allowed(asked: int) -> int:
    """Return how many processes there may be: no more than cores, nor than memory for each."""
    return max(1, min(asked, workers.available_cores(), workers.max_tensorflow_workers()))


def run(
    job: Job,
    *,
    processes: int,
    tell: Callable[[TrialEnded], None],
    began: Callable[[TrialStarted], None] = lambda _: None,
) -> tuple[str, ...]:
    """Try recipes until the plan's trials are done; returns what is to be said beside the answer.

    `began` is told of a recipe when work on it starts, `tell` of what became of it.

    Raises what a process raised (the device is away, the disk is full) and KeyboardInterrupt,
    when every process has ended; what was tried is kept, and the same call goes on from there.
    """

    def pass_on(event: TrialStarted | TrialEnded) -> None:
        if isinstance(event, TrialEnded):
            tell(event)
        else:
            began(event)

    with Folder(path=job.folder).writer():
        with studies.opened(job) as study:
            study.begin()
        if processes == 1:
            work(job, 0, pass_on)
            return ()
        return _together(job, processes, pass_on)


def work(job: Job, process: int, tell: Tell, alive: Callable[[], bool] = lambda: True) -> None:
    """Be one process of a search: draw, try, tell, until enough was tried or `alive` says no."""
    with studies.opened(job, process=process) as study:
        while alive() and (trial := study.next()) is not None:
            recipe = job.space.draw(trial)
            tell(TrialStarted(recipe=recipe.name, process=process))
            tried, again = attempt(job, recipe, trial.number)
            study.tell(trial, tried)
            tell(TrialEnded(tried=tried, again=again, done=study.done(), of=study.wanted))


def _together(job: Job, processes: int, tell: Tell) -> tuple[str, ...]:
    context = multiprocessing.get_context("spawn")
    told: Any = context.Queue()
    started = [
        context.Process(target=_child, args=(job, place, told), daemon=False)
        for place in range(processes)
    ]
    failures: list[HarnessError] = []
    try:
        for process in started:
            process.start()
        while not failures and any(process.is_alive() for process in started):
            _take(told, tell, failures, _LOOK_SECONDS)
        while _take(told, tell, failures, _LAST_LOOK_SECONDS):
            pass
    finally:
        _end(started)
        told.close()
    if failures:
        raise failures[0]
    return tuple(
        f"process {place} of the search ended with {process.exitcode}; its trial is open and "
        "--resume tries it again"
        for place, process in enumerate(started)
        if process.exitcode
    )


def _take(told: Any, tell: Tell, failures: list[HarnessError], seconds: float) -> bool:  # noqa: ANN401 - a queue of another process
    try:
        item = told.get(timeout=seconds)
    except queue.Empty:
        return False
    if isinstance(item, (TrialStarted, TrialEnded)):
        tell(item)
    else:
        word, message = item
        kind = getattr(errors, word, HarnessError)
        failures.append(kind(message))
    return True


def _child(job: Job, place: int, told: Any) -> None:  # noqa: ANN401 - a queue of another process
    """Run in a spawned process; errors travel by name.

    Ctrl-C is the controller's to handle, which ends us by SIGTERM; without it we end by ourselves.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    controller = multiprocessing.parent_process()
    assert controller is not None
    try:
        work(job, place, told.put, controller.is_alive)
    except HarnessError as error:
        told.put((type(error).__name__, str(error)))
    except KeyboardInterrupt:
        return


def _end(started: Sequence[BaseProcess]) -> None:
    """Interrupt what still runs, and wait for it."""
    for process in started:
        if process.pid is not None:
            process.terminate()
    for process in started:
        if process.pid is None:
            continue
        process.join(_LAST_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()

"""Parallel build workers: spawned processes, at most one per core.

A worker that crashes or is killed for memory fails only its own job, with the signal and the last
line of its stderr. TensorFlow jobs have separate workers, so that the light ones stay small; a
worker that has grown too large is ended before its next job.

A job has a deadline and a memory limit (`HostLimits`), because a stranger's file may never end or
ask for all memory. A thread looks at every busy worker and its child processes each 50 ms.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal, Self

from harness import errors, spawning
from harness.errors import HarnessError, RecipeError
from harness.optimize import processes
from harness.types import DEFAULT_HOST, HostLimits

Kind = Literal["light", "tensorflow", "training"]
"""The jobs of a worker: without TensorFlow, conversion with it, training with it."""
_RETIRE_BYTES = 900_000_000
"""Resident memory above which a worker gets no further job."""
_TENSORFLOW_BYTES = 1_400_000_000
"""Memory of one TensorFlow worker; free memory limits their number."""
_STDERR_BYTES = 2_000
_WATCH_SECONDS = 0.05
_ALIVE = '{"alive": true}\n'
_FIRST_BUILDS = 10
"""A later job may take this many times as long as the first build, besides the plan's seconds."""
_BUILDS = ("float_file", "step")
_TRAINING_SHARE = 0.75
"""Share of the machine's memory that a step that trains may use."""
_MEMORY_ERRORS = ("MemoryError", "bad_alloc", "out of memory", "Cannot allocate memory")
_QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "KERAS_BACKEND": "tensorflow",
    "CUDA_VISIBLE_DEVICES": "-1",
    "PYTHONWARNINGS": "ignore",
}
"""Quiet logs, and no GPU: TensorFlow would reserve all its memory for work that needs none."""
_TRAINING = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "KERAS_BACKEND": "tensorflow",
    "PYTHONWARNINGS": "ignore",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "TF_USE_LEGACY_KERAS": "1",
}
"""Training uses all GPUs and reserves only the memory it needs; tf.keras is tf_keras."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """The result or the error of a job."""

    ticket: object
    result: Mapping[str, Any] | None = None
    error: HarnessError | None = None
    peak_rss_bytes: int | None = None
    """Peak memory of the worker since its start (VmHWM)."""


@dataclass(slots=True, eq=False)
class BuildWorker:
    """One child process and its current job."""

    kind: Kind
    process: subprocess.Popen[str]
    stderr: IO[bytes]
    busy: bool = False
    ticket: object | None = None
    stage: str = ""
    """The current stage, for display."""
    file: str = ""
    """The user's file that the job is for, for display."""
    verb: str = ""
    trains: bool = False
    """Whether the job is a step that trains, whose limits are its own."""
    started: float = 0.0
    alive: float = 0.0
    """The time of the last progress, by time.monotonic(); the job's start if there was none."""
    stopped: str | None = None
    """Why the watch ended it."""
    works: bool = False
    """Whether its answer is still awaited; `busy` lasts until `wait` takes the answer."""
    extra_seconds: float = 0.0
    """Added to the deadline: the time that a step gives a compiler."""

    @property
    def subject(self) -> str:
        """What the job does to which file, for messages."""
        return f"{self.file + ': ' if self.file else ''}{self.stage}"


class Pool:
    """Up to `limit` workers. As a context manager, it ends every worker on exit."""

    def __init__(self, limit: int | None = None, limits: HostLimits = DEFAULT_HOST) -> None:
        """Start no worker yet; each starts with the first job that needs it."""
        cores = available_cores()
        self.limit = cores if limit is None else max(1, min(limit, cores))
        self.limits = limits
        self._first_build: float | None = None
        self._closed = threading.Event()
        self._watch: threading.Thread | None = None
        self._ending = (
            threading.Lock()
        )  # a process is reaped only when the watch does not look at it
        self._workers: list[BuildWorker] = []
        self._answers: queue.Queue[tuple[BuildWorker, str | None]] = queue.Queue()

    def __enter__(self) -> Self:
        """Return the pool."""
        return self

    def __exit__(self, *_: object) -> None:
        """End every worker."""
        self._closed.set()
        for worker in list(self._workers):
            self._end(worker)

    def free(self, kind: Kind) -> BuildWorker | None:
        """Return a free worker of the kind, started if necessary; None if there can be none now."""
        if kind == "training" and not _has_accelerator():
            kind = "tensorflow"  # without one both are alike; this saves a second start
        for worker in self._workers:
            if worker.kind == kind and not worker.busy:
                return worker
        if kind != "light" and self._tensorflow_is_full():
            return None
        if len(self._workers) >= self.limit:
            idle = next((worker for worker in self._workers if not worker.busy), None)
            if idle is None:
                return None
            self._end(idle)
        return self._start(kind)

    def give(
        self,
        worker: BuildWorker,
        ticket: object,
        verb: str,
        order: Mapping[str, Any],
        *,
        stage: str | None = None,
        file: str = "",
        trains: bool = False,
        extra_seconds: float = 0.0,
    ) -> None:
        """Give a free worker its job; `wait` returns the result with this ticket.

        `stage` and `file` (the user's) are for messages; `trains` chooses the limits of training,
        and `extra_seconds` are added to the deadline.
        """
        worker.ticket, worker.verb, worker.stage, worker.file = ticket, verb, stage or verb, file
        worker.trains, worker.extra_seconds = trains, extra_seconds
        worker.started = worker.alive = time.monotonic()
        worker.busy = worker.works = True
        job: dict[str, Any] = {"verb": verb, "order": order}
        if worker.kind == "light":
            job["memory_bytes"] = self.limits.memory_bytes
        assert worker.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died: `wait` gets its end of file
            worker.process.stdin.write(json.dumps(job) + "\n")
            worker.process.stdin.flush()

    def do(
        self,
        verb: str,
        order: Mapping[str, Any],
        kind: Kind = "light",
        *,
        stage: str | None = None,
        file: str = "",
    ) -> Mapping[str, Any]:
        """Run one job while no other is in progress; raises the job's error."""
        worker = self.free(kind)
        assert worker is not None
        self.give(worker, verb, verb, order, stage=stage, file=file)
        answer = self.wait()
        if answer.error is not None:
            raise answer.error
        return answer.result or {}

    def wait(self) -> JobResult:
        """Return the result of the next job that ends."""
        while True:
            worker, line = self._answers.get()
            if worker not in self._workers:
                continue
            busy, worker.busy = worker.busy, False
            ticket = worker.ticket
            if line is None:
                failure = RecipeError(self._failure(worker))
                self._end(worker)
                if busy:
                    return JobResult(ticket=ticket, error=failure)
                continue
            answer = json.loads(line)
            if answer["memory"]["now"] > _RETIRE_BYTES or worker.stopped is not None:
                self._end(worker)
            peak = answer["memory"]["peak"]
            if "error" in answer:
                error = self._answered(worker, answer["error"])
                return JobResult(ticket=ticket, error=error, peak_rss_bytes=peak)
            if self._first_build is None and worker.verb in _BUILDS and not worker.trains:
                self._first_build = time.monotonic() - worker.started
            return JobResult(ticket=ticket, result=answer["result"], peak_rss_bytes=peak)

    def _tensorflow_is_full(self) -> bool:
        running = sum(worker.kind != "light" for worker in self._workers)
        free = _free_memory_bytes()
        return running > 0 and free is not None and free < _TENSORFLOW_BYTES

    def _start(self, kind: Kind) -> BuildWorker:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)
        stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the worker ends
        process = subprocess.Popen(
            # -P: a json.py or a harness/ in the user's current folder is not imported.
            [sys.executable, "-P", "-m", "harness.optimize.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # only the controller handles Ctrl-C
            env=spawning.environment(
                **(_TRAINING if kind == "training" else _QUIET), PYTHONPATH=path
            ),
        )
        worker = BuildWorker(kind=kind, process=process, stderr=stderr)
        self._workers.append(worker)
        threading.Thread(target=self._read_answers, args=(worker,), daemon=True).start()
        if self._watch is None:
            self._watch = threading.Thread(target=self._look, daemon=True)
            self._watch.start()
        return worker

    def _look(self) -> None:
        """Stop workers that are over a limit, until the pool is closed."""
        while not self._closed.wait(_WATCH_SECONDS):
            for worker in list(self._workers):
                with self._ending:
                    if worker.works and worker.stopped is None and worker in self._workers:
                        worker.stopped = self._over(worker)
                        if worker.stopped is not None:
                            processes.end(worker.process.pid)

    def _over(self, worker: BuildWorker) -> str | None:
        """Return why a busy worker must end: its time or its memory; else None."""
        seconds, memory = self._bounds(worker)
        if time.monotonic() - worker.alive > seconds:
            if worker.trains:
                return (
                    f"{worker.subject} had not ended on this host after {seconds:,.0f} s and was "
                    "stopped; if it needs longer, raise host.training_seconds in the plan"
                )
            return (
                f"{worker.subject} had not ended on this host after {seconds:,.0f} s and was stopped "
                f"(does the model loop without end?); if it needs longer, raise host.seconds in the "
                f"plan, or add --host-seconds {2 * seconds:.0f}"
            )
        used = processes.resident_bytes(processes.tree(worker.process.pid))
        return self._out_of_memory(worker, memory) if used > memory else None

    def _bounds(self, worker: BuildWorker) -> tuple[float, int]:
        """Return the seconds and the bytes of a worker's job."""
        if worker.trains:
            share = int(_TRAINING_SHARE * processes.total_memory_bytes())
            return self.limits.training_seconds, max(self.limits.memory_bytes, share)
        seconds = self.limits.seconds + _FIRST_BUILDS * (self._first_build or 0.0)
        return seconds + worker.extra_seconds, self.limits.memory_bytes

    def _out_of_memory(self, worker: BuildWorker, memory: int, said: str = "") -> str:
        allowed = f"{memory // 1_000_000:,} MB of memory"
        what = f" needed more than {allowed} on this host and was stopped"
        if said:
            what = f": {said}, as where it gets no more than the {allowed} allowed on this host"
        return (
            f"{worker.subject}{what}; if the model is meant to need more, raise host.memory_mb in "
            f"the plan, or add --host-memory-mb {2 * memory // 1_000_000}"
        )

    def _answered(self, worker: BuildWorker, answer: Mapping[str, str]) -> HarnessError:
        """Make the error that a job answered with; running out of memory has its way out."""
        if answer["class"] == "MemoryError":
            return RecipeError(
                self._out_of_memory(worker, self._bounds(worker)[1], answer["message"])
            )
        return _error(answer)

    def _read_answers(self, worker: BuildWorker) -> None:
        assert worker.process.stdout is not None
        with worker.process.stdout as lines:
            for line in lines:
                if line == _ALIVE:
                    worker.alive = time.monotonic()
                    continue
                worker.works = False
                self._answers.put((worker, line))
        worker.works = False
        self._answers.put((worker, None))

    def _end(self, worker: BuildWorker) -> None:
        with self._ending:
            if worker in self._workers:
                self._workers.remove(worker)
            if worker.process.poll() is None:
                processes.end(worker.process.pid)
            worker.process.wait()
        with contextlib.suppress(OSError):
            assert worker.process.stdin is not None
            worker.process.stdin.close()
        worker.stderr.close()

    def _failure(self, worker: BuildWorker) -> str:
        with self._ending:
            code = worker.process.wait()
        if worker.stopped is not None:
            return worker.stopped
        size = worker.stderr.seek(0, os.SEEK_END)
        worker.stderr.seek(max(0, size - _STDERR_BYTES))
        text = worker.stderr.read().decode("utf-8", "replace").strip()
        lines = [line for line in text.splitlines() if not line.startswith("INFO:")]
        last = f"; last line of its stderr: {lines[-1].strip()}" if lines else ""
        if code != -signal.SIGKILL and any(sign in text for sign in _MEMORY_ERRORS):
            return self._out_of_memory(worker, self._bounds(worker)[1])
        if code == -signal.SIGKILL:
            return (
                f"the worker was killed during {worker.stage}, most likely for memory; "
                f"free memory, or use fewer workers{last}"
            )
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"the worker crashed during {worker.stage} ({how}){last}"


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def max_tensorflow_workers() -> int:
    """Return the number of TensorFlow workers that fit into free memory; at least 1."""
    free = _free_memory_bytes()
    return available_cores() if free is None else max(1, free // _TENSORFLOW_BYTES)


def _has_accelerator() -> bool:
    """Return whether this machine may have a GPU or a TPU for training."""
    devices = Path("/dev")
    return bool(os.environ.get("TPU_NAME") or [*devices.glob("nvidia[0-9]*"), *devices.glob("kfd")])


def once(
    verb: str,
    order: Mapping[str, Any],
    *,
    limits: HostLimits = DEFAULT_HOST,
    build_seconds: float = 0.0,
    stage: str | None = None,
    file: str = "",
) -> Mapping[str, Any]:
    """Run one job in a separate worker; raises the job's error.

    `build_seconds` is the time that the file's build took, which lengthens the deadline as a first
    build does; `stage` and `file` are for messages.
    """
    chosen = replace(limits, seconds=limits.seconds + _FIRST_BUILDS * build_seconds)
    with Pool(1, chosen) as pool:
        return pool.do(verb, order, stage=stage, file=file)


def _free_memory_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["MemAvailable"].split()[0]) * 1024


def _error(answer: Mapping[str, str]) -> HarnessError:
    kind = getattr(errors, answer["class"], RecipeError)
    error: HarnessError = kind(answer["message"])
    return error

"""Parallel build workers: spawned processes, at most one per core.

A worker that crashes or is killed for memory fails only its own job, with the signal and the last
line of its stderr. TensorFlow jobs have separate workers, so that the light ones stay small; a
worker that has grown too large is ended before its next job.
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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Self

from harness import errors
from harness.errors import HarnessError, RecipeError

Kind = Literal["light", "tensorflow", "training"]
"""The jobs of a worker: without TensorFlow, conversion with it, training with it."""
_RETIRE_BYTES = 900_000_000
"""Resident memory above which a worker gets no further job."""
_TENSORFLOW_BYTES = 1_400_000_000
"""Memory of one TensorFlow worker; free memory limits their number."""
_STDERR_BYTES = 2_000
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


class Pool:
    """Up to `limit` workers. As a context manager, it ends every worker on exit."""

    def __init__(self, limit: int | None = None) -> None:
        """Start no worker yet; each starts with the first job that needs it."""
        cores = available_cores()
        self.limit = cores if limit is None else max(1, min(limit, cores))
        self._workers: list[BuildWorker] = []
        self._answers: queue.Queue[tuple[BuildWorker, str | None]] = queue.Queue()

    def __enter__(self) -> Self:
        """Return the pool."""
        return self

    def __exit__(self, *_: object) -> None:
        """End every worker."""
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

    @staticmethod
    def give(
        worker: BuildWorker,
        ticket: object,
        verb: str,
        order: Mapping[str, Any],
        stage: str | None = None,
    ) -> None:
        """Give a free worker its job; `wait` returns the result with this ticket."""
        worker.busy, worker.ticket, worker.stage = True, ticket, stage or verb
        assert worker.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died: `wait` gets its end of file
            worker.process.stdin.write(json.dumps({"verb": verb, "order": order}) + "\n")
            worker.process.stdin.flush()

    def do(self, verb: str, order: Mapping[str, Any], kind: Kind = "light") -> Mapping[str, Any]:
        """Run one job while no other is in progress; raises the job's error."""
        worker = self.free(kind)
        assert worker is not None
        self.give(worker, verb, verb, order)
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
                error = RecipeError(self._failure(worker))
                self._end(worker)
                if busy:
                    return JobResult(ticket=ticket, error=error)
                continue
            answer = json.loads(line)
            if answer["memory"]["now"] > _RETIRE_BYTES:
                self._end(worker)
            peak = answer["memory"]["peak"]
            if "error" in answer:
                return JobResult(ticket=ticket, error=_error(answer["error"]), peak_rss_bytes=peak)
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
            [sys.executable, "-m", "harness.optimize.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # only the controller handles Ctrl-C
            env={
                **os.environ,
                **(_TRAINING if kind == "training" else _QUIET),
                "PYTHONPATH": path,
            },
        )
        worker = BuildWorker(kind=kind, process=process, stderr=stderr)
        self._workers.append(worker)
        threading.Thread(target=self._read_answers, args=(worker,), daemon=True).start()
        return worker

    def _read_answers(self, worker: BuildWorker) -> None:
        assert worker.process.stdout is not None
        with worker.process.stdout as lines:
            for line in lines:
                self._answers.put((worker, line))
        self._answers.put((worker, None))

    def _end(self, worker: BuildWorker) -> None:
        if worker in self._workers:
            self._workers.remove(worker)
        worker.process.kill()
        worker.process.wait()
        with contextlib.suppress(OSError):
            assert worker.process.stdin is not None
            worker.process.stdin.close()
        worker.stderr.close()

    @staticmethod
    def _failure(worker: BuildWorker) -> str:
        code = worker.process.wait()
        size = worker.stderr.seek(0, os.SEEK_END)
        worker.stderr.seek(max(0, size - _STDERR_BYTES))
        text = worker.stderr.read().decode("utf-8", "replace").strip()
        lines = [line for line in text.splitlines() if not line.startswith("INFO:")]
        last = f"; last line of its stderr: {lines[-1].strip()}" if lines else ""
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


def once(verb: str, order: Mapping[str, Any], kind: Kind = "light") -> Mapping[str, Any]:
    """Run one job in a separate worker; raises the job's error."""
    with Pool(1) as pool:
        return pool.do(verb, order, kind)


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

"""Parallel build workers: spawned processes, at most one per core, each answering for itself.

A worker that crashes or is killed for memory fails the job it had, with the signal and its last
words, and nothing else. TensorFlow jobs have workers of their own, so that the light ones stay
small; a worker that has grown is let go before its next job.
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
"""What a worker is for: without TensorFlow, converting with it, training with it."""
_RETIRE_BYTES = 900_000_000
"""Resident memory above which a worker does no further job."""
_TENSORFLOW_BYTES = 1_400_000_000
"""What one TensorFlow worker may come to; free memory limits how many there are."""
_WORDS_BYTES = 2_000
_QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "KERAS_BACKEND": "tensorflow",
    "CUDA_VISIBLE_DEVICES": "-1",
    "PYTHONWARNINGS": "ignore",
}
"""Quiet logs; and no GPU, whose memory TensorFlow would take whole for work that needs none."""
_TRAINING = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "KERAS_BACKEND": "tensorflow",
    "PYTHONWARNINGS": "ignore",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "TF_USE_LEGACY_KERAS": "1",
}
"""Training sees the GPUs there are, and takes of their memory what it needs; tf.keras is tf_keras."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """What became of a job."""

    ticket: object
    result: Mapping[str, Any] | None = None
    error: HarnessError | None = None
    peak_rss_bytes: int | None = None
    """VmHWM of the worker so far."""


@dataclass(slots=True, eq=False)
class BuildWorker:
    """One child process and the job it has."""

    kind: Kind
    process: subprocess.Popen[str]
    words: IO[bytes]
    busy: bool = False
    ticket: object | None = None
    stage: str = ""
    """What it is at, in words for a person."""


class Pool:
    """Up to `limit` workers. Use as a context manager: on leaving, every worker is ended."""

    def __init__(self, limit: int | None = None) -> None:
        """Start nothing yet; workers come with the first jobs that need them."""
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
        """Return a worker of the kind for one job, started if need be; None if none can be."""
        if kind == "training" and not _accelerated():
            kind = "tensorflow"  # then they are alike, and a second start of TensorFlow is saved
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
        """Give a free worker its job; `wait` tells what became of it, by the ticket."""
        worker.busy, worker.ticket, worker.stage = True, ticket, stage or verb
        assert worker.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died: its end of file is on the way
            worker.process.stdin.write(json.dumps({"verb": verb, "order": order}) + "\n")
            worker.process.stdin.flush()

    def do(self, verb: str, order: Mapping[str, Any], kind: Kind = "light") -> Mapping[str, Any]:
        """Do one job while nothing else is under way; raises what the job raised."""
        worker = self.free(kind)
        assert worker is not None
        self.give(worker, verb, verb, order)
        answer = self.wait()
        if answer.error is not None:
            raise answer.error
        return answer.result or {}

    def wait(self) -> JobResult:
        """Wait for the next job that ends."""
        while True:
            worker, line = self._answers.get()
            if worker not in self._workers:
                continue
            busy, worker.busy = worker.busy, False
            ticket = worker.ticket
            if line is None:
                error = RecipeError(self._last_words(worker))
                self._end(worker)
                if busy:
                    return JobResult(ticket=ticket, error=error)
                continue
            told = json.loads(line)
            if told["memory"]["now"] > _RETIRE_BYTES:
                self._end(worker)
            peak = told["memory"]["peak"]
            if "error" in told:
                return JobResult(ticket=ticket, error=_raised(told["error"]), peak_rss_bytes=peak)
            return JobResult(ticket=ticket, result=told["result"], peak_rss_bytes=peak)

    def _tensorflow_is_full(self) -> bool:
        running = sum(worker.kind != "light" for worker in self._workers)
        free = _free_memory_bytes()
        return running > 0 and free is not None and free < _TENSORFLOW_BYTES

    def _start(self, kind: Kind) -> BuildWorker:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)
        words = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the worker ends
        process = subprocess.Popen(
            [sys.executable, "-m", "harness.optimize.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=words,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is the controller's to handle
            env={
                **os.environ,
                **(_TRAINING if kind == "training" else _QUIET),
                "PYTHONPATH": path,
            },
        )
        worker = BuildWorker(kind=kind, process=process, words=words)
        self._workers.append(worker)
        threading.Thread(target=self._listen, args=(worker,), daemon=True).start()
        return worker

    def _listen(self, worker: BuildWorker) -> None:
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
        worker.words.close()

    @staticmethod
    def _last_words(worker: BuildWorker) -> str:
        code = worker.process.wait()
        size = worker.words.seek(0, os.SEEK_END)
        worker.words.seek(max(0, size - _WORDS_BYTES))
        text = worker.words.read().decode("utf-8", "replace").strip()
        lines = [line for line in text.splitlines() if not line.startswith("INFO:")]
        said = f"; its last words: {lines[-1].strip()}" if lines else ""
        if code == -signal.SIGKILL:
            return (
                f"the worker was killed during {worker.stage}, most likely for memory; "
                f"free some, or use fewer workers{said}"
            )
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"the worker crashed during {worker.stage} ({how}){said}"


def available_cores() -> int:
    """Count the cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def max_tensorflow_workers() -> int:
    """Count the TensorFlow workers that free memory is enough for; one may always be."""
    free = _free_memory_bytes()
    return available_cores() if free is None else max(1, free // _TENSORFLOW_BYTES)


def _accelerated() -> bool:
    """Return whether there may be a GPU or a TPU to train on."""
    devices = Path("/dev")
    return bool(os.environ.get("TPU_NAME") or [*devices.glob("nvidia[0-9]*"), *devices.glob("kfd")])


def once(verb: str, order: Mapping[str, Any], kind: Kind = "light") -> Mapping[str, Any]:
    """Do one job in a worker of its own; raises what the job raised."""
    with Pool(1) as pool:
        return pool.do(verb, order, kind)


def _free_memory_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["MemAvailable"].split()[0]) * 1024


def _raised(told: Mapping[str, str]) -> HarnessError:
    kind = getattr(errors, told["class"], RecipeError)
    error: HarnessError = kind(told["message"])
    return error

"""What the benchmark scripts share: paths, the command under test, processes and their memory."""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "benchmarks"
CACHE = ROOT / ".cache" / "bench"
DATA = ROOT.parent / "shared" / "data"
KEYWORD_INT8 = DATA / "kws" / "kws_ref_model.tflite"
KEYWORD_MODEL = DATA / "kws" / "saved_model"
COMMAND = Path(sys.executable).parent / "edge-harness"


class NotAsked(Exception):
    """A figure cannot be measured here; the message says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A finished process: its output and how long it took."""

    stdout: str
    stderr: str
    seconds: float
    cpu_seconds: float
    """Of the process and of those that it waited for."""


def run(
    argv: Sequence[str | Path],
    *,
    timeout: float = 600,
    ends: Sequence[int] = (0,),
    cwd: Path = ROOT,
    **environment: str,
) -> Done:
    """Run a command to its end; another exit than `ends` raises with the tail of what it said."""
    used, began = _children_seconds(), time.perf_counter()
    done = subprocess.run(
        [str(word) for word in argv],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        cwd=cwd,
        env=os.environ | environment,
    )
    seconds, cpu_seconds = time.perf_counter() - began, _children_seconds() - used
    if done.returncode not in ends:
        raise RuntimeError(
            f"{' '.join(map(str, argv))} ended with {done.returncode}:\n"
            f"{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
        )
    return Done(stdout=done.stdout, stderr=done.stderr, seconds=seconds, cpu_seconds=cpu_seconds)


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def need(path: Path, what: str) -> Path:
    """Return `path`, or say that this figure cannot be measured without it."""
    if not path.exists():
        raise NotAsked(f"{what} is not here: {path}")
    return path


def mobilenet() -> Path:
    """Return the folder of the untrained MobileNetV2 224, made once: a SavedModel, its int8 file
    and 20 calibration samples. TensorFlow runs in a process of its own."""
    folder = CACHE / "mobilenet_v2"
    if not (folder / "complete").exists():
        run([sys.executable, HERE / "make_mobilenet.py", folder], TF_CPP_MIN_LOG_LEVEL="2")
    return folder


def stack() -> Path:
    """Return the folder of a CNN of about 200 us and its twin with a layer more, made once."""
    folder = CACHE / "stack"
    if not (folder / "complete").exists():
        run([sys.executable, HERE / "make_stack.py", folder], TF_CPP_MIN_LOG_LEVEL="2")
    return folder


def digits(seed: int) -> Path:
    """Return the digits CNN of the demo trained from a seed, made once: a .keras file."""
    path = CACHE / "digits" / f"digits-{seed}.keras"
    if not path.exists():
        run(
            [sys.executable, HERE / "make_digits.py", path.parent, str(seed)],
            TF_CPP_MIN_LOG_LEVEL="2",
        )
    return path


def digest(path: Path) -> str:
    """sha256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def status_bytes(pid: int, field: str) -> int | None:
    """Read a memory field (VmRSS, VmHWM) of a process; None where it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    for line in text.splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None


def children(pid: int) -> list[int]:
    """Every living descendant of a process."""
    found: list[int] = []
    try:
        tasks = list(Path(f"/proc/{pid}/task").glob("*/children"))
    except (FileNotFoundError, ProcessLookupError):
        return []
    for task in tasks:
        try:
            words = task.read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for word in words:
            found += [int(word), *children(int(word))]
    return found


@contextmanager
def peaks_of_descendants(pid: int, every_seconds: float = 0.02) -> Iterator[dict[int, int]]:
    """Watch the descendants of a process; gives the highest VmHWM seen of each, by pid.

    The kernel keeps the high-water mark, so a peak between two looks is not lost; only a rise in
    the last few milliseconds before an exit can be.
    """
    peaks: dict[int, int] = {}
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(every_seconds):
            for child in children(pid):
                peak = status_bytes(child, "VmHWM")
                if peak is not None:
                    peaks[child] = max(peak, peaks.get(child, 0))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        stop.set()
        thread.join()

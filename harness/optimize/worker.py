"""A build worker: one child process that runs one job after another and reports each result.

    python -P -m harness.optimize.worker

It reads lines {"verb": ..., "order": {...}} from stdin and writes lines {"result": ...} or
{"error": ...} to the original stdout, and {"alive": true} while a job makes progress on the user's
data; the output of libraries goes to stderr. It ends when stdin closes, even during a job, so it
never outlives its controller.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import queue
import resource
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import IO, Any

from harness.errors import HarnessError
from harness.optimize import cache, jobs, library_errors
from harness.optimize.beats import BEATS
from harness.tflite import rewrite

_FULL = (errno.ENOSPC, errno.EDQUOT)


def main() -> None:
    """Serve jobs until stdin closes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    BEATS.send = lambda: _write(answers, {"alive": True})
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read_jobs, args=(lines,), daemon=True).start()
    while True:
        job = json.loads(lines.get())
        BEATS.reset()
        _limit_address_space(job.get("memory_bytes"))
        answer = _answer(job["verb"], job["order"])
        _limit_address_space(None)
        _write(answers, {**answer, "memory": memory()})


def _write(answers: IO[str], answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _limit_address_space(memory_bytes: int | None) -> None:
    """Allow this much more address space than there is now, or any if None.

    It ends at once what the controller's watch would see up to 50 ms later. TensorFlow reserves more
    than it uses, so its workers have no such limit.
    """
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if memory_bytes is None or "tensorflow" in sys.modules:
        limit = hard
    else:
        # Each thread of a library reserves a stack and an arena.
        spare = min(max(64_000_000 * (os.cpu_count() or 1), 256_000_000), 4_000_000_000)
        limit = _status().get("VmSize", 0) + memory_bytes + spare
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def memory() -> dict[str, int]:
    """Return this process's peak and current resident memory in bytes.

    The peak is VmHWM, which starts anew at exec. ru_maxrss does not, and is used only without /proc.
    """
    found = _status()
    if found:
        return {"peak": found["VmHWM"], "now": found["VmRSS"]}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak": peak if sys.platform == "darwin" else peak * 1024, "now": 0}


def _status() -> dict[str, int]:
    """Return this process's peak, resident and virtual memory in bytes; empty without /proc."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:  # noqa: PTH123 - one line, no path work
            fields = dict(line.split(":", 1) for line in file)
        return {name: int(fields[name].split()[0]) * 1024 for name in ("VmHWM", "VmRSS", "VmSize")}
    except (OSError, KeyError):
        return {}


def _read_jobs(lines: queue.Queue[str]) -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


def _answer(verb: str, order: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"result": jobs.VERBS[verb](order)}
    except Exception as error:  # noqa: BLE001 - the edge of the process: the controller raises it again
        kind, message = _described(error, order)
        return {"error": {"class": kind, "message": message}}


def _described(error: Exception, order: dict[str, Any]) -> tuple[str, str]:
    """Return the name of the controller's exception and its text."""
    if full := _full_disk(error, order):
        return "StoreError", full
    if isinstance(error, HarnessError):
        return type(error).__name__, str(error)
    if isinstance(error, MemoryError):
        return "MemoryError", rewrite.NO_REASON if str(error) == rewrite.NO_REASON else ""
    traceback.print_exception(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{os.path.basename(last.filename)}:{last.lineno}"  # noqa: PTH119 - a name, not a path
    return "RecipeError", f"{type(error).__name__}: {library_errors.brief(error)} (at {where})"


def _full_disk(error: Exception, order: dict[str, Any]) -> str | None:
    """Return the text for a disk that is full, which is no fault of the model; None for others.

    Libraries put the system's text into errors of their own.
    """
    reasons = [os.strerror(number) for number in _FULL]
    text = f"{os.strerror(error.errno or 0) if isinstance(error, OSError) else ''} {error}"
    reason = next((one for one in reasons if one in text), None)
    if reason is None:
        return None
    named = getattr(error, "filename2", None) or getattr(error, "filename", None)
    named = named if isinstance(named, str) else None
    workdir = order.get("workdir")
    if workdir and (named is None or named.startswith(workdir)):
        return str(cache.unwritable(Path(workdir).parent.parent, reason))
    folder = os.path.dirname(named or order.get("out") or "") or tempfile.gettempdir()  # noqa: PTH120
    return f"temporary folder {folder}: {reason}; free disk space there, or set TMPDIR"


if __name__ == "__main__":
    main()

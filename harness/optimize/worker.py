"""A build worker: one child process that runs one job after another and reports each result.

    python -m harness.optimize.worker

It reads lines {"verb": ..., "order": {...}} from stdin and writes lines {"result": ...} or
{"error": ...} to the original stdout; the output of libraries goes to stderr. It ends when stdin
closes, even during a job, so it never outlives its controller.
"""

from __future__ import annotations

import json
import os
import queue
import resource
import sys
import threading
import traceback
from typing import Any

from harness.errors import HarnessError
from harness.optimize import jobs, library_errors


def main() -> None:
    """Serve jobs until stdin closes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read_jobs, args=(lines,), daemon=True).start()
    while True:
        job = json.loads(lines.get())
        answer = _answer(job["verb"], job["order"])
        answers.write(json.dumps({**answer, "memory": memory()}) + "\n")
        answers.flush()


def memory() -> dict[str, int]:
    """Return this process's peak and current resident memory in bytes.

    The peak is VmHWM, which starts anew at exec. ru_maxrss does not, and is used only without /proc.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as file:  # noqa: PTH123 - one line, no path work
            fields = dict(line.split(":", 1) for line in file)
        kilo = {name: int(fields[name].split()[0]) for name in ("VmHWM", "VmRSS")}
        return {"peak": kilo["VmHWM"] * 1024, "now": kilo["VmRSS"] * 1024}
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"peak": peak if sys.platform == "darwin" else peak * 1024, "now": 0}


def _read_jobs(lines: queue.Queue[str]) -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


def _answer(verb: str, order: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"result": jobs.VERBS[verb](order)}
    except HarnessError as error:
        return {"error": {"class": type(error).__name__, "message": str(error)}}
    except MemoryError:
        return {"error": {"class": "RecipeError", "message": "the worker ran out of memory"}}
    except Exception as error:  # noqa: BLE001 - the edge of the process: the controller raises it again
        traceback.print_exc()
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(last.filename)}:{last.lineno}"  # noqa: PTH119 - a name, not a path
        message = f"{type(error).__name__}: {library_errors.brief(error)} (at {where})"
        return {"error": {"class": "RecipeError", "message": message}}


if __name__ == "__main__":
    main()

"""A build worker: one child process that does one job after another and says how it went.

    python -m harness.optimize.worker

A line {"verb": ..., "order": {...}} comes in on stdin, a line {"result": ...} or {"error": ...}
goes out on what was stdout; everything that libraries print goes to stderr. It ends with its
controller: when stdin closes, also in the middle of a job.
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
from harness.optimize import jobs


def main() -> None:
    """Serve jobs until stdin closes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()
    while True:
        asked = json.loads(lines.get())
        answer = _answer(asked["verb"], asked["order"])
        answers.write(json.dumps({**answer, "memory": memory()}) + "\n")
        answers.flush()


def memory() -> dict[str, int]:
    """Return this process's peak and present resident memory in bytes.

    The peak is VmHWM, which starts anew at exec; ru_maxrss does not, and stands in where there is
    no /proc.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as file:  # noqa: PTH123 - one line, no path work
            fields = dict(line.split(":", 1) for line in file)
        kilo = {name: int(fields[name].split()[0]) for name in ("VmHWM", "VmRSS")}
        return {"peak": kilo["VmHWM"] * 1024, "now": kilo["VmRSS"] * 1024}
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"peak": peak if sys.platform == "darwin" else peak * 1024, "now": 0}


def _listen(lines: queue.Queue[str]) -> None:
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
        message = f"{type(error).__name__}: {error} (at {where})"
        return {"error": {"class": "RecipeError", "message": message}}


if __name__ == "__main__":
    main()

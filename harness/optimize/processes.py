"""Watch a worker and its child processes, as Linux's /proc shows them: memory, and the end of all.

On a system without /proc only the worker itself is ended, and its memory is not watched.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

_PROC = Path("/proc")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_MAX_PROCESSES = 1_000


def tree(root: int) -> list[int]:
    """Return a process and all its descendants, as process ids."""
    found = [root]
    for pid in found:
        if len(found) > _MAX_PROCESSES:
            break
        found += [child for child in _children(pid) if child not in found]
    return found


def resident_bytes(pids: list[int]) -> int:
    """Return the resident memory of processes together; one that has ended counts nothing."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, IndexError, ValueError):
            total += int((_PROC / str(pid) / "statm").read_text("ascii").split()[1])
    return total * _PAGE_BYTES


def total_memory_bytes() -> int:
    """Return this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * _PAGE_BYTES


def end(root: int) -> None:
    """Kill a process and all its descendants; none of them can start another meanwhile."""
    _send(root, signal.SIGSTOP)
    pids = tree(root)
    for pid in pids[1:]:
        _send(pid, signal.SIGSTOP)
    for pid in reversed(tree(root) if len(pids) > 1 else pids):
        _send(pid, signal.SIGKILL)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _children(pid: int) -> list[int]:
    """Return the children of all threads of a process."""
    found: list[int] = []
    try:
        threads = os.listdir(_PROC / str(pid) / "task")  # noqa: PTH208 - names are wanted, 20 times a second
    except OSError:
        return []
    for thread in threads:
        with contextlib.suppress(OSError, ValueError):
            text = (_PROC / str(pid) / "task" / thread / "children").read_text("ascii")
            found += [int(word) for word in text.split()]
    return found

"""A limit of memory for a device: a control group of the kernel, version 1 or 2.

A hosted device is limited by the machine's kernel; a whole machine limits its own sshd, by version 2.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from .device import Hosted
from .machine import Machine
from .tools import LabError

_FIRST, _SECOND = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
_EMPTY_SECONDS = 5.0


def why_not() -> str | None:
    """Return why no limit can be set on this machine; None if one can."""
    try:
        _controller()
    except (LabError, OSError) as error:
        return str(error)
    return None


@contextmanager
def limited_inside(device: Machine, megabytes: int) -> Iterator[None]:
    """Limit the memory of all processes that a machine's sshd starts; raises LabError."""
    group, top = "/sys/fs/cgroup/lab", "/sys/fs/cgroup"
    listener = "pgrep -o -x sshd"
    script = (
        f"echo +memory > {top}/cgroup.subtree_control; mkdir {group}; "
        f"echo {megabytes}000000 > {group}/memory.max; {listener} > {group}/cgroup.procs"
    )
    device.as_root(["sh", "-euc", script])
    try:
        yield
    finally:
        device.as_root(["sh", "-euc", f"{listener} > {top}/cgroup.procs"])


@contextmanager
def limited(device: Hosted, megabytes: int) -> Iterator[None]:
    """Limit the memory of all processes of a device together; raises LabError.

    Above the limit the kernel kills the largest of them. At the end they return to their group.
    """
    top, limit = _controller()
    group = top / f"edge-lab-{device.box.pid}"
    group.mkdir()
    try:
        (group / limit).write_text(str(megabytes * 1_000_000))
        for pid in (device.box.pid, *device.processes()):
            (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        _dissolve(group, top)


def confine(pid: int, megabytes: int) -> Callable[[], None]:
    """Limit the additional memory of a process; returns a function that removes the limit."""
    top, limit = _controller()
    group = top / f"edge-lab-{pid}"
    group.mkdir()
    (group / limit).write_text(str(megabytes * 1_000_000))
    with suppress(ProcessLookupError):
        (group / "cgroup.procs").write_text(str(pid))
    return partial(_dissolve, group, top)


def _controller() -> tuple[Path, str]:
    """Return the folder of control groups and the name of their limit file."""
    if (_FIRST / "memory.limit_in_bytes").exists():
        return _FIRST, "memory.limit_in_bytes"
    available = _SECOND / "cgroup.controllers"
    if not available.exists() or "memory" not in available.read_text().split():
        raise LabError(f"no memory controller under {_SECOND}")
    (_SECOND / "cgroup.subtree_control").write_text("+memory")
    return _SECOND, "memory.max"


def _dissolve(group: Path, top: Path) -> None:
    """Move the processes back and remove the group, once it is empty."""
    deadline = time.monotonic() + _EMPTY_SECONDS
    while True:
        for pid in (group / "cgroup.procs").read_text().split():
            try:
                (top / "cgroup.procs").write_text(pid)
            except ProcessLookupError:  # it ended
                continue
        try:
            group.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return

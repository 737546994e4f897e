"""Find the processes that use a device's processors: read /proc twice, half a second apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.protocols import Commands

_SECONDS = 30.0
_MARK = b"edge-harness-busy "
_MIN_SHARE = 0.1
_MAX_NAMED = 5
_MAX_PID = 1 << 31
_MAX_SHARE = 1e5
_OWNER = 2
"""Index of the owner's column of `ls -ldn`."""

_KERNEL_THREAD = 0x200000
"""PF_KTHREAD: a thread of the kernel, which no user can end."""

# A POSIX shell is enough: the device prints the files, and this host parses them.
_SCRIPT = r"""
exec 2>/dev/null
snapshot() { cat /proc/uptime; cat /proc/[0-9]*/stat; }
printf '\nedge-harness-busy %s\n' "$(getconf CLK_TCK || echo 100)"
snapshot
sleep 0.5 || sleep 1
printf '\nedge-harness-busy again\n'
snapshot
printf '\nedge-harness-busy end\n'
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BusyProcess:
    """A process that uses a processor."""

    pid: int
    name: str
    share: float
    """In processors: 2.0 is the whole time of two processors."""


def measure(transport: Commands) -> tuple[BusyProcess, ...] | None:
    """Return the busiest processes, five at most; None if /proc of the device cannot be read."""
    return read(transport.run(["sh", "-c", _SCRIPT], _SECONDS).stdout)


def owners(transport: Commands, processes: Sequence[BusyProcess]) -> set[int]:
    """Return the ids of the users who own these processes."""
    paths = [f"/proc/{one.pid}" for one in processes]
    return read_owners(transport.run(["ls", "-ldn", *paths], _SECONDS).stdout)


def read_owners(listed: bytes) -> set[int]:
    """Parse the third column of `ls -ldn`; skip lines without a number there."""
    lines = (line.split() for line in listed.decode(errors="replace").splitlines())
    numbers = (_numbers(columns[_OWNER : _OWNER + 1]) for columns in lines)
    return {number for found in numbers if found for number in found}


def read(answer: bytes) -> tuple[BusyProcess, ...] | None:
    """Parse the output of the script; None if it is incomplete."""
    _, _, marked = answer.partition(_MARK)
    first, _, rest = marked.partition(_MARK)
    second, _, end = rest.partition(_MARK)
    ticks, _, earlier = first.partition(b"\n")
    if not (end.startswith(b"end") and ticks.isdigit() and len(ticks) < len(b"100000")):
        return None
    began, before = _snapshot(earlier)
    ended, after = _snapshot(second.partition(b"\n")[2])
    if began is None or ended is None or ended <= began or not int(ticks):
        return None
    shares = (
        BusyProcess(
            pid=pid, name=name, share=(used - before[pid, start][1]) / int(ticks) / (ended - began)
        )
        for (pid, start), (name, used) in after.items()
        if (pid, start) in before
    )
    busy = [one for one in shares if _MIN_SHARE <= one.share < _MAX_SHARE]
    return tuple(sorted(busy, key=lambda one: -one.share))[:_MAX_NAMED]


def _snapshot(text: bytes) -> tuple[float | None, Mapping[tuple[int, int], tuple[str, int]]]:
    """Return the seconds since boot, and the name and ticks of each process by pid and start time."""
    lines = text.decode(errors="replace").strip().split("\n")
    found = {}
    for line in lines[1:]:
        columns = line.rpartition(")")[2].split()
        name = line.partition("(")[2].rpartition(")")[0]
        numbers = _numbers([line.partition(" ")[0], *(columns[at : at + 1] for at in _COLUMNS)])
        if numbers is None:
            continue
        pid, flags, user, system, start = numbers
        if 0 < pid < _MAX_PID and not flags & _KERNEL_THREAD:
            found[pid, start] = _name(name), user + system
    try:
        return float(lines[0].split()[0]), found
    except (ValueError, IndexError):
        return None, found


_COLUMNS = (6, 11, 12, 19)
"""Columns of /proc/PID/stat behind the name: flags, user and system ticks, start time.

Their numbers in proc(5) are larger by three.
"""


def _numbers(columns: Sequence[str | list[str]]) -> list[int] | None:
    texts = ["".join(column) for column in columns]
    if all(text.isascii() and text.isdigit() and len(text) <= len(str(1 << 64)) for text in texts):
        return [int(text) for text in texts]
    return None


def _name(text: str) -> str:
    return "".join(letter for letter in text if letter.isprintable())[:40]

"""Which processes use a device's processors: two looks at /proc, half a second apart."""

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
"""Column of `ls -ldn`."""

_KERNEL_THREAD = 0x200000
"""PF_KTHREAD: nobody can end the kernel's own threads."""

# A POSIX shell is enough: the device only prints files, this host reads them.
_SCRIPT = r"""
exec 2>/dev/null
look() { cat /proc/uptime; cat /proc/[0-9]*/stat; }
printf '\nedge-harness-busy %s\n' "$(getconf CLK_TCK || echo 100)"
look
sleep 0.5 || sleep 1
printf '\nedge-harness-busy again\n'
look
printf '\nedge-harness-busy end\n'
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """A process that computes."""

    pid: int
    name: str
    share: float
    """Of one processor; 2.0 uses two of them."""


def ask(transport: Commands) -> tuple[Busy, ...] | None:
    """Return the busiest processes, five at most; None if the device does not show them."""
    return read(transport.run(["sh", "-c", _SCRIPT], _SECONDS).stdout)


def owners(transport: Commands, processes: Sequence[Busy]) -> set[int]:
    """Return the numbers of the users whose processes these are."""
    paths = [f"/proc/{one.pid}" for one in processes]
    return read_owners(transport.run(["ls", "-ldn", *paths], _SECONDS).stdout)


def read_owners(listed: bytes) -> set[int]:
    """Read the third column of `ls -ldn`; lines that have none are left out."""
    lines = (line.split() for line in listed.decode(errors="replace").splitlines())
    numbers = (_numbers(words[_OWNER : _OWNER + 1]) for words in lines)
    return {number for found in numbers if found for number in found}


def read(answer: bytes) -> tuple[Busy, ...] | None:
    """Read the script's answer; None if it is none."""
    _, _, marked = answer.partition(_MARK)
    first, _, rest = marked.partition(_MARK)
    second, _, end = rest.partition(_MARK)
    ticks, _, earlier = first.partition(b"\n")
    if not (end.startswith(b"end") and ticks.isdigit() and len(ticks) < len(b"100000")):
        return None
    began, before = _look(earlier)
    ended, after = _look(second.partition(b"\n")[2])
    if began is None or ended is None or ended <= began or not int(ticks):
        return None
    shares = (
        Busy(
            pid=pid, name=name, share=(used - before[pid, start][1]) / int(ticks) / (ended - began)
        )
        for (pid, start), (name, used) in after.items()
        if (pid, start) in before
    )
    busy = [one for one in shares if _MIN_SHARE <= one.share < _MAX_SHARE]
    return tuple(sorted(busy, key=lambda one: -one.share))[:_MAX_NAMED]


def _look(text: bytes) -> tuple[float | None, Mapping[tuple[int, int], tuple[str, int]]]:
    """Return the seconds since boot; and by pid and start time, each process's name and ticks."""
    lines = text.decode(errors="replace").strip().split("\n")
    found = {}
    for line in lines[1:]:
        words = line.rpartition(")")[2].split()
        name = line.partition("(")[2].rpartition(")")[0]
        numbers = _numbers([line.partition(" ")[0], *(words[at : at + 1] for at in _COLUMNS)])
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
"""Of /proc/PID/stat after the name: flags, user and system ticks, start time (proc(5) less three)."""


def _numbers(words: Sequence[str | list[str]]) -> list[int] | None:
    texts = ["".join(word) for word in words]
    if all(text.isascii() and text.isdigit() and len(text) <= len(str(1 << 64)) for text in texts):
        return [int(text) for text in texts]
    return None


def _name(text: str) -> str:
    return "".join(letter for letter in text if letter.isprintable())[:40]

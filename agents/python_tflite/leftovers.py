"""Find the processes that launches left running, and end them: daemons of delegates and vendors' tools.

A daemon leaves its launch's process group. It still has the launch's mark in its environment, or keeps the
launch's pipes open. Processes that have neither are not found. The mark names the agent and its work folder:
the launches of another agent that runs are never taken for leftovers.
"""

import os
import signal
import time
from contextlib import suppress
from typing import Dict, List, Optional, Set, Tuple

import lease as leases
import sysfs

MARK = "EDGE_HARNESS_LAUNCH"
_MARK = MARK.encode() + b"="
_END_SECONDS = 1.0
_PAUSE_SECONDS = 0.02
_GROUP, _START = 2, 19
_MAX_NAMED = 8


class Leftovers:
    """The processes of this user that launches left running."""

    def __init__(self, folder: str) -> None:
        """Know none yet; the first look also finds those of agents of this folder that ended."""
        self._folder = os.path.abspath(folder)
        self._seen: Set[int] = set()
        self._left: Dict[int, str] = {}
        """The start of each, by its pid: a number may be used again."""

    def mark(self) -> str:
        """Return the value of MARK for this agent's launches."""
        return "{} {} {}".format(os.getpid(), leases.start(os.getpid()), self._folder)

    def look(self, group: int, pipes: Set[str]) -> None:
        """Look at the processes that are new since the last look, after the launch `group` ended.

        `pipes` are the pipes of that launch that a process still keeps open, as `pipe:[1234]`.
        """
        current = {int(name) for name in sysfs.names("/", "proc") if name.isdigit()}
        for pid in current - self._seen - {os.getpid()}:
            found = _stat(pid)
            # The rest of the launch's own group was killed just now.
            if found is None or found[1][_GROUP] == str(group):
                continue
            if self._is_marked(pid) or (pipes and _holds(pid, pipes)):
                self._left[pid] = found[1][_START]
        self._seen = current

    def _is_marked(self, pid: int) -> bool:
        """Return whether a launch of ours started it, or one of an agent of this folder that ended."""
        try:
            with open("/proc/{}/environ".format(pid), "rb") as file:
                entries = file.read(1 << 20).split(b"\0")
        except OSError:
            return False
        mark = next((one[len(_MARK) :] for one in entries if one.startswith(_MARK)), b"")
        agent, start, folder = (os.fsdecode(mark).split(" ", 2) + [""] * 3)[:3]
        number = sysfs.whole(agent)
        # In another pid namespace, the agent's number means another process.
        if number is None or folder != self._folder or not leases.is_here(start):
            return False
        return number == os.getpid() or leases.start(number) != start

    def alive(self) -> List[str]:
        """Return those that still run, as `name (pid 1234)`."""
        names = {}
        for pid, start in self._left.items():
            found = _stat(pid)
            if found is not None and found[1][_START] == start:
                names[pid] = found[0]
        self._left = {pid: self._left[pid] for pid in names}
        return ["{} (pid {})".format(names[pid], pid) for pid in sorted(names)[:_MAX_NAMED]]

    def end(self) -> None:
        """End those that still run: SIGTERM, after a second SIGKILL. Never raises."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            self.alive()
            for pid in self._left:
                with suppress(OSError):
                    os.kill(pid, number)
            until = time.monotonic() + _END_SECONDS
            while self.alive() and time.monotonic() < until:
                time.sleep(_PAUSE_SECONDS)


def _stat(pid: int) -> Optional[Tuple[str, List[str]]]:
    """Return a process's name and the fields after it; None if it has ended."""
    head, _, rest = (sysfs.text("/", "proc/{}/stat".format(pid)) or "").rpartition(")")
    fields = rest.split()
    if len(fields) <= _START or fields[0] in "ZX":
        return None
    name = head.partition("(")[2]
    return "".join(one if one.isprintable() else "?" for one in name), fields


def _holds(pid: int, pipes: Set[str]) -> bool:
    folder = "/proc/{}/fd".format(pid)
    for name in sysfs.names("/", folder):
        with suppress(OSError):
            if os.readlink(os.path.join(folder, name)) in pipes:
                return True
    return False

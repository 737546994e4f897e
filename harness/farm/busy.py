"""Which processes use a device's processors: two looks at /proc, half a second apart."""

from __future__ import annotations

import json
from dataclasses import dataclass

from harness.devices.dialects.python_agent.options import AgentOptions
from harness.protocols import Commands
from harness.types import Device

_SECONDS = 30.0
_MARK = b"edge-harness-busy "
_LEAST_SHARE = 0.1
_MOST_NAMED = 5
_MOST_PID = 1 << 31
_MOST_SHARE = 1e5

_SCRIPT = r"""
import json, os, sys, time
def look():
    found = {}
    for pid in os.listdir("/proc"):
        if pid.isdigit() and int(pid) != os.getpid():
            try:
                with open("/proc/" + pid + "/stat", "rb") as file:
                    text = file.read().decode("utf-8", "replace")
                words = text.rpartition(")")[2].split()
                name = text.partition("(")[2].rpartition(")")[0]
                if not int(words[6]) & 0x200000:  # PF_KTHREAD: nobody can end the kernel's own
                    found[int(pid), words[19]] = name, int(words[11]) + int(words[12])
            except (OSError, ValueError, IndexError):
                pass
    return time.monotonic(), found
began, first = look()
time.sleep(0.5)
ended, second = look()
per = os.sysconf("SC_CLK_TCK") * (ended - began)
used = [[(ticks - first[key][1]) / per, key[0], name]
        for key, (name, ticks) in second.items() if key in first]
print("edge-harness-busy " + json.dumps(sorted(used, reverse=True)[:5]))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """A process that computes."""

    pid: int
    name: str
    share: float
    """Of one processor; 2.0 uses two of them."""


def ask(transport: Commands, device: Device) -> tuple[Busy, ...] | None:
    """Return the busiest processes, five at most; None where the device does not tell."""
    reply = transport.run([AgentOptions.of(device).python, "-c", _SCRIPT], _SECONDS)
    lines = [line for line in reply.stdout.splitlines() if line.startswith(_MARK)]
    return read(lines[-1][len(_MARK) :]) if lines else None


def read(line: bytes) -> tuple[Busy, ...] | None:
    """Read the script's answer; None where it is none."""
    try:
        found = [
            Busy(pid=int(pid), name=str(name)[:40], share=float(share))
            for share, pid, name in json.loads(line)
        ]
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None
    plausible = (
        one for one in found if 0 < one.pid < _MOST_PID and _LEAST_SHARE <= one.share < _MOST_SHARE
    )
    return tuple(plausible)[:_MOST_NAMED]

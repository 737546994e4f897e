"""The lab's devices are up soon: three x86 hosts, an arm64 board, a whole machine.

From nothing but a warm cache (which the first start of each fills, unmeasured) to a greeting of
its sshd.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.common import NotAsked
from benchmarks.figure import Figure
from tests.lab import arm, machine, x86
from tests.lab.lab import Lab
from tests.lab.tools import run, why_not

ROUNDS = 3
X86_SECONDS, BOARD_SECONDS, MACHINE_SECONDS = 2.0, 5.0, 20.0
NAMES = ("x86-1", "x86-2", "x86-3")

Start = Callable[[Lab], object]


def figures() -> Iterator[Figure]:
    reason = why_not((*x86.TOOLS, *arm.tools(arm.PI_4), *machine.TOOLS))
    if reason:
        raise NotAsked(reason)
    yield _figure("lab.three_x86_hosts", lambda lab: lab.x86_hosts(NAMES), X86_SECONDS)
    yield _figure("lab.arm64_board", lambda lab: lab.board("pi4", arm.PI_4), BOARD_SECONDS)
    yield _figure("lab.machine_to_ssh", lambda lab: lab.machine("vm"), MACHINE_SECONDS)


def _figure(name: str, start: Start, bound: float) -> Figure:
    seconds = [_up(start) for _ in range(ROUNDS + 1)][1:]
    value = statistics.median(seconds)
    empty = min(
        _timed(lambda: run(["unshare", "--mount", "--net", "--pid", "--fork", "true"]))
        for _ in range(ROUNDS)
    )
    return Figure(
        name=name,
        value=value,
        unit="s",
        bound=f"< {bound:.0f} s",
        holds=value < bound,
        against=f"namespaces with nothing in them: {empty * 1000:.0f} ms",
        detail=f"median of {', '.join(f'{each:.2f}' for each in seconds)}",
    )


def _up(start: Start) -> float:
    with tempfile.TemporaryDirectory(prefix="bench-lab-") as name, Lab(Path(name) / "lab") as lab:
        return _timed(lambda: start(lab))


def _timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began

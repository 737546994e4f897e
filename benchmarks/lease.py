"""What having a device for oneself costs: taking it, letting go, and the checks around every launch."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import server
from benchmarks.common import ROOT, digest
from benchmarks.figure import Figure
from harness.assets import EMBEDDED_MODEL
from harness.devices import opening
from harness.measure.sessions import Session
from harness.protocols import Leasing
from harness.types import Dose, LaunchOrder

CELL_MS = 50.0
ROUNDS = 100
LAUNCHES_BESIDE = 2
"""Of a cell, beside its timed and memory launches: the bare one and the check of the outputs."""


def figures() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="bench-lease-") as name:
        folder = Path(name)
        os.environ["EDGE_HARNESS_LEASES"] = name
        try:
            with server.device(folder) as device:
                session = Session(opening.with_options(device, python=sys.executable))
                try:
                    yield _cell(session)
                finally:
                    session.close()
        finally:
            del os.environ["EDGE_HARNESS_LEASES"]


def _cell(session: Session) -> Figure:
    """Take every step's median: a cell's whole time spreads by more than all of this."""
    dialect = session.dialect
    assert isinstance(dialect, Leasing)

    def taken() -> None:
        dialect.hold()
        dialect.release()

    look = _median(dialect.holder)
    take = _median(taken)
    check, renew = _in_the_agent()
    dose = Dose()
    launches = dose.launches + dose.memory_launches + LAUNCHES_BESIDE
    launch = _launch(session)
    # Looked at before, after, and once a second of each launch; renewed every ten seconds.
    milliseconds = look + take + launches * check * (2 + launch / 1000) + renew
    return Figure(
        name="lease.cell",
        value=milliseconds,
        unit="ms",
        bound=f"< {CELL_MS:.0f} ms",
        holds=milliseconds < CELL_MS,
        against=f"one launch over the same connection: {launch:.0f} ms",
        detail=f"looking {look:.2f}, taking and letting go {take:.2f}, a check {check:.3f} around each "
        f"of {launches} launches, medians of {ROUNDS}",
    )


def _in_the_agent() -> tuple[float, float]:
    """Return what a check and a renewal take where the agent makes them, ms."""
    sys.path.insert(0, str(ROOT / "agents" / "python_tflite"))
    try:
        import lease
    finally:
        del sys.path[0]
    own = lease.Lease("bench")
    own.take("benchbench", "the benchmark")
    check, renew = _median(lambda: own.check(own.epoch)), _median(own.renew)
    own.drop()
    return check, renew


def _launch(session: Session) -> float:
    session.bring({digest(EMBEDDED_MODEL): EMBEDDED_MODEL})
    order = LaunchOrder(
        cell_id="lease",
        kind="timed",
        block=0,
        position=0,
        variant_digest=digest(EMBEDDED_MODEL),
        target="xnnpack",
        threads=1,
        dose=Dose(),
    )
    return statistics.median(_times(lambda: session.dialect.launch(order), 3))


def _median(call: Callable[[], object]) -> float:
    return statistics.median(_times(call, ROUNDS))


def _times(call: Callable[[], object], count: int) -> list[float]:
    """Return how long each call took, ms."""
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        call()
        taken.append((time.perf_counter() - began) * 1000)
    return taken

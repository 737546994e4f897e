"""Heat a device to a plateau before it is measured (docs/measurement.md, `thermal = "soak"`)."""

from __future__ import annotations

from harness.measure import blocks, thermal
from harness.measure.bench import Bench, launch_of
from harness.types import Cell

SOAKING = -1_000
"""The block number of launches that only heat the device; they are not kept."""


def soak(bench: Bench, cell: Cell, *, loops: int, runtime: str | None = None) -> None:
    """Launch a file until its latency is constant, for at most ten minutes."""
    clock = bench.timing.clock
    start = clock()
    points: list[tuple[float, float]] = []
    turn = blocks.Turn(block=SOAKING, position=0, cell=cell)
    order = blocks.order(turn, loops=loops, runtime=runtime)
    while clock() - start < thermal.MAX_SOAK_SECONDS and not thermal.on_plateau(points):
        latency = bench.recovering(lambda: bench.pilot(cell, order), launch_of(cell))
        points.append((clock() - start, latency))

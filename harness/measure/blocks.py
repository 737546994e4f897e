"""Which launch comes next: interleaved, mirrored blocks, decided as data.

A block holds one launch of every cell of a device. Odd blocks are in random order, the following
even block is its mirror (A B C, C B A), so a linear drift of the device touches every cell alike.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from harness.types import Cell, Dose, Kind, Launch, LaunchOrder, Scenario, Variant

SMALLEST_TIMED_NS = 10_000
LOOPED_AT_LEAST_NS = 20_000
LOOPED_AT_MOST_NS = 500_000
OFFLINE_BLOCK_NS = 10_000_000
"""About how long the inferences of one offline sample take: the clock is read once for all."""

PILOT_BLOCK = -1

FLOOR_INFERENCES = 1_000
"""So many let a compared launch be judged by its fastest hundredth."""
LONGEST_SECONDS = 3.0
"""No compared launch is stretched beyond this for their sake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One place in the schedule of a device."""

    block: int
    position: int
    cell: Cell


def schedule(cells: Sequence[Cell], seed: int) -> Iterator[Turn]:
    """Yield the turns of all blocks; a cell takes part in as many blocks as its dose launches.

    The order is a pure function of the cells and the seed, so an interrupted run continues with
    the very turns that are missing.
    """
    order: list[Cell] = []
    for block in range(max((cell.dose.launches for cell in cells), default=0)):
        if block % 2 == 0:
            order = list(cells)
            random.Random(f"{seed}/{block}").shuffle(order)  # noqa: S311 - order, not secrets
        else:
            order.reverse()
        position = 0
        for cell in order:
            if block < cell.dose.launches:
                yield Turn(block=block, position=position, cell=cell)
                position += 1


def inner_loop(inference_ns: float, scenario: Scenario = "single") -> int:
    """How many inferences one sample averages, so that the clock does not matter.

    1 from 10 us up; below, the smallest K with K*t >= 20 us, never more than 500 us in all. A frame
    of a stream is one inference; offline, a sample is a block of about 10 ms.
    """
    if scenario == "stream":
        return 1
    if scenario == "offline":
        return max(1, round(OFFLINE_BLOCK_NS / max(inference_ns, 1.0)))
    if inference_ns >= SMALLEST_TIMED_NS:
        return 1
    fastest = max(inference_ns, 1.0)
    return min(math.ceil(LOOPED_AT_LEAST_NS / fastest), int(LOOPED_AT_MOST_NS / fastest))


def stretched(dose: Dose, inference_ns: float) -> Dose:
    """Return the dose of a compared launch: 1,000 inferences where they fit into 3 s.

    A neighbour that comes for a second or two covers a short launch whole; of a longer one the
    fastest hundredth is undisturbed still. Source: docs/gate-statistics.md.
    """
    wanted = min(FLOOR_INFERENCES * inference_ns * 1e-9, LONGEST_SECONDS, dose.max_seconds)
    return replace(dose, min_seconds=max(dose.min_seconds, wanted))


def fastest(launch: Launch) -> float | None:
    """Return the shortest inference of a memory launch, ns; None where it brought none."""
    times = [value for part in launch.samples if part.series == "pilot" for value in part.value]
    return min(times, default=None)


def order(turn: Turn, *, loops: int, runtime: str | None = None) -> LaunchOrder:
    """Write the order of a timed launch."""
    return LaunchOrder(
        cell_id=turn.cell.id,
        kind="timed",
        block=turn.block,
        position=turn.position,
        variant_digest=built(turn.cell).digest,
        target=turn.cell.target,
        threads=turn.cell.threads,
        dose=turn.cell.dose,
        inner_loop=loops,
        seed=turn.cell.seed,
        runtime=runtime,
        timeout_seconds=deadline(turn.cell.dose),
    )


def pilot(cell: Cell) -> LaunchOrder:
    """Order a short launch that only tells how long one inference takes, in any scenario."""
    made = _apart(cell, "timed", PILOT_BLOCK)
    dose = replace(
        made.dose,
        min_inferences=5,
        min_seconds=0.02,
        max_seconds=2.0,
        warmup_seconds=0.05,
        warmup_max_seconds=1.0,
    )
    return replace(made, dose=dose)


def companion(cell: Cell) -> LaunchOrder:
    """Order a short launch of an accelerator's file on the CPU, to hold its time against."""
    made = pilot(cell)
    dose = replace(made.dose, min_inferences=20)
    return replace(made, kind="cpu", block=0, target="xnnpack", dose=dose)


def memory(cell: Cell, block: int = 0) -> LaunchOrder:
    """Order a launch of its own for memory, never timed."""
    return _apart(cell, "memory", block)


def bare(cell: Cell) -> LaunchOrder:
    """Order a launch with the runtime and no model: what a model costs is the difference."""
    return _apart(cell, "bare", 0)


def accuracy(cell: Cell) -> LaunchOrder:
    """Order the run of real inputs whose outputs are compared with the host's."""
    return _apart(cell, "accuracy", 0)


def _apart(cell: Cell, kind: Kind, block: int) -> LaunchOrder:
    """Order a launch in which no scenario is played, so that it has no scenario's deadline."""
    dose = replace(cell.dose, scenario="single", period_ms=None)
    turn = Turn(block=block, position=0, cell=replace(cell, dose=dose))
    return replace(order(turn, loops=1), kind=kind)


def deadline(dose: Dose) -> float:
    """Seconds after which a launch is hung: its longest honest length and a slow board's start."""
    sustained = dose.scenario == "sustained"
    measured = dose.sustained_minutes * 60.0 if sustained else dose.max_seconds
    return dose.warmup_max_seconds + measured + 100.0


def built(cell: Cell) -> Variant:
    """Return the cell's variant; the caller has sorted out cells whose build failed."""
    assert isinstance(cell.variant, Variant)
    return cell.variant

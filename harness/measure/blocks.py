"""The order of launches: interleaved, mirrored blocks, decided as data.

A block has one launch of each cell of a device. Odd blocks are in random order, and the following
even block is the mirror (A B C, C B A), so a linear drift of the device affects all cells equally.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from harness.errors import HarnessError
from harness.types import Cell, Dose, Kind, Launch, LaunchOrder, Scenario, Variant

MIN_TIMED_NS = 10_000
MIN_LOOPED_NS = 20_000
MAX_LOOPED_NS = 500_000
OFFLINE_BLOCK_NS = 10_000_000
"""About how long the inferences of one offline sample take; the clock is read once per sample."""

PILOT_BLOCK = -1

FLOOR_INFERENCES = 1_000
"""With this many inferences, a compared launch can be judged by its fastest hundredth."""
MAX_STRETCH_SECONDS = 3.0
"""A compared launch is not made longer than this to reach FLOOR_INFERENCES."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One launch in the schedule of a device."""

    block: int
    position: int
    cell: Cell


def schedule(cells: Sequence[Cell], seed: int) -> Iterator[Turn]:
    """Yield the turns of all blocks; a cell is in as many blocks as its dose has launches.

    The order depends only on the cells and the seed, so an interrupted run continues with exactly
    the turns that are missing.
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
    """Return how many inferences one sample averages, so that the clock's resolution is no issue.

    1 from 10 us up; below that, the smallest K with K*t >= 20 us, but at most 500 us in total. A
    frame of a stream is one inference; an offline sample is a block of about 10 ms.
    """
    if scenario == "stream":
        return 1
    if scenario == "offline":
        return max(1, round(OFFLINE_BLOCK_NS / max(inference_ns, 1.0)))
    if inference_ns >= MIN_TIMED_NS:
        return 1
    fastest = max(inference_ns, 1.0)
    return min(math.ceil(MIN_LOOPED_NS / fastest), int(MAX_LOOPED_NS / fastest))


def stretched(dose: Dose, inference_ns: float) -> Dose:
    """Return the dose of a compared launch: 1,000 inferences if they fit into 3 s.

    Another process that is active for a second or two can disturb all of a short launch, but the
    fastest hundredth of a longer launch is still undisturbed. Source: docs/gate-statistics.md.
    """
    wanted = min(FLOOR_INFERENCES * inference_ns * 1e-9, MAX_STRETCH_SECONDS, dose.max_seconds)
    return replace(dose, min_seconds=max(dose.min_seconds, wanted))


def seconds(dose: Dose, inference_ns: float) -> float:
    """Return about how long a launch of this dose warms up and measures, s."""
    inference = inference_ns * 1e-9
    warm_up = max(dose.warmup_seconds, dose.warmup_min_inferences * inference)
    if dose.scenario == "sustained":
        measured = dose.sustained_minutes * 60.0
    else:
        each = dose.period_ms * 1e-3 if dose.period_ms is not None else inference
        measured = min(max(dose.min_seconds, dose.min_inferences * each), dose.max_seconds)
    return min(warm_up, dose.warmup_max_seconds) + measured


def fastest(launch: Launch) -> float | None:
    """Return the shortest inference of a memory launch, ns; None if it reported no inferences."""
    times = [value for part in launch.samples if part.series == "pilot" for value in part.value]
    return min(times, default=None)


def order(turn: Turn, *, loops: int, runtime: str | None = None) -> LaunchOrder:
    """Return the order of a timed launch."""
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
        limits=_limits(built(turn.cell)),
        cache=turn.cell.cache,
    )


def _limits(variant: Variant) -> Mapping[str, int]:
    """Return the largest index that each input may hold, by tensor name; read once per file."""
    return _limits_of(variant.path, variant.digest)


@cache
def _limits_of(path: Path, digest: str) -> Mapping[str, int]:
    from harness.tflite import indices

    del digest  # a part of the key: the path may get another file
    try:
        return {name: limit.high for name, limit in indices.read(path).items()}
    except HarnessError:  # the file is gone or damaged, which the launch itself reports
        return {}


def pilot(cell: Cell) -> LaunchOrder:
    """Return the order of a short launch that measures how long one inference takes."""
    made = _without_scenario(cell, "timed", PILOT_BLOCK)
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
    """Return the order of a short launch of an accelerator's file on the CPU, for comparison."""
    made = pilot(cell)
    dose = replace(made.dose, min_inferences=20)
    return replace(made, kind="cpu", block=0, target="xnnpack", dose=dose)


def memory(cell: Cell, block: int = 0) -> LaunchOrder:
    """Return the order of a separate launch that measures memory and is not timed."""
    return _without_scenario(cell, "memory", block)


def bare(cell: Cell) -> LaunchOrder:
    """Return the order of a launch with the runtime only; a model's memory is the difference."""
    return _without_scenario(cell, "bare", 0)


def accuracy(cell: Cell) -> LaunchOrder:
    """Return the order of the run whose outputs are compared with the host's."""
    return _without_scenario(cell, "accuracy", 0)


def _without_scenario(cell: Cell, kind: Kind, block: int) -> LaunchOrder:
    """Return the order of a launch without the cell's scenario and its deadline."""
    dose = replace(cell.dose, scenario="single", period_ms=None)
    turn = Turn(block=block, position=0, cell=replace(cell, dose=dose))
    return replace(order(turn, loops=1), kind=kind)


def deadline(dose: Dose) -> float:
    """Return the seconds after which a launch has hung: its maximum length plus a slow start."""
    sustained = dose.scenario == "sustained"
    measured = dose.sustained_minutes * 60.0 if sustained else dose.max_seconds
    return dose.warmup_max_seconds + measured + 100.0


def built(cell: Cell) -> Variant:
    """Return the cell's variant; the caller has removed the cells whose build failed."""
    assert isinstance(cell.variant, Variant)
    return cell.variant

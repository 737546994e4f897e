"""What faults cost: every state of the conversation with every kind of fault, at random, in bursts.

Runs of the real command on x86 devices of the lab, three at a time; what is left after each is
looked at from outside (tests/lab/aftermath.py). `FAULTS_CROSSED` sets how many of the crossed faults
are made (all by default), `FAULTS_RANDOM` how many random ones follow, `FAULTS_BURSTS` how many
bursts of two to five faults within ten seconds, and `FAULTS_LANES` how many runs go on at the same
time. The whole takes about half an hour.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from benchmarks.common import NotAsked
from benchmarks.figure import Figure
from tests.lab import campaign, x86
from tests.lab.tools import why_not

SEED = 20261122
RANDOM, BURSTS, LANES = 50, 45, 3
FEWEST_FAULTS, FEWEST_CELLS = 200, 2000


def figures() -> Iterator[Figure]:
    reason = why_not(x86.TOOLS)
    if reason:
        raise NotAsked(reason)
    crossed = campaign.crossed()
    random.Random(SEED).shuffle(crossed)
    planned = crossed[: _setting("FAULTS_CROSSED", len(crossed))]
    planned += islice(campaign.at_random(SEED), _setting("FAULTS_RANDOM", RANDOM))
    planned += islice(campaign.bursts(SEED), _setting("FAULTS_BURSTS", BURSTS))
    lanes = _setting("FAULTS_LANES", LANES)
    with tempfile.TemporaryDirectory(prefix="bench-faults-") as name:
        os.environ["EDGE_HARNESS_CACHE"] = f"{name}/cache"
        with campaign.Campaign(Path(name) / "lab", lanes, report=_tell) as running:
            results = running.run(planned)
    yield from of(results)


def of(results: Sequence[campaign.FaultRunResult]) -> Iterator[Figure]:
    """Sum the results up."""
    planned = [fault for result in results for fault in result.planned_faults]
    made = [fault for fault in planned if fault.injected_at is not None]
    states = {(fault.state, fault.fault) for fault in made if not fault.more}
    cells = sum(result.cells for result in results)
    problems = Counter(problem.kind for result in results for problem in result.problems)
    ended = sum((result.statuses for result in results), Counter[tuple[str, str]]())
    faults = sum(fault.injected for fault in planned)
    in_bursts = [fault for fault in made if fault.name == campaign.BURST]
    everything = (
        f"{faults} faults, {sum(fault.injected for fault in in_bursts)} of them in "
        f"{len(in_bursts)} bursts, over {cells} cells in {len(results)} runs"
    )
    wanted = {(fault.state, fault.fault) for fault in campaign.crossed()}
    yield _count(
        "faults.made",
        faults,
        FEWEST_FAULTS,
        f"{len(wanted - states)} of the {len(wanted)} pairs of state and fault were not met",
    )
    yield _count("faults.cells", cells, FEWEST_CELLS, _words(ended))
    yield _none("faults.outcomes_lost", problems["lost"] + problems["unreadable"], everything)
    yield _none("faults.outcomes_doubled", problems["doubled"], everything)
    yield _none("faults.wrong_files", problems["wrong file"] + problems["stray"], everything)
    yield _none("faults.orphan_processes", problems["orphan"], everything)
    noticed = [fault.notice_seconds for fault in made if fault.notice_seconds is not None]
    overlooked = sum(fault.overlooked for fault in made)
    slowest = max(noticed, default=0.0)
    yield Figure(
        name="faults.dead_link_noticed",
        value=slowest,
        unit="s",
        bound=f"<= {campaign.NOTICED_SECONDS:.0f} s",
        holds=bool(noticed) and slowest <= campaign.NOTICED_SECONDS and not overlooked,
        against=f"{len(noticed)} links dead for {campaign.DEAD_LINK_SECONDS:.0f} s",
        detail=f"the slowest; {overlooked} overlooked",
    )
    passed = {key: count for key, count in ended.items() if key[0] in campaign.PASSING_FAULTS}
    failed = sum(count for (_, kind), count in passed.items() if kind != "ok")
    yield _none(
        "faults.cells_left_unmeasured",
        failed,
        f"{sum(passed.values())} cells of devices that came back within the patience",
    )


def _setting(name: str, default: int) -> int:
    return int(os.environ.get(name, default))


def _count(name: str, value: int, least: int, detail: str) -> Figure:
    return Figure(
        name=name,
        value=value,
        unit="",
        bound=f">= {least}",
        holds=value >= least,
        against="the plan of the campaign",
        detail=detail,
    )


def _none(name: str, value: int, against: str) -> Figure:
    return Figure(name=name, value=value, unit="", bound="0", holds=value == 0, against=against)


def _words(ended: Counter[tuple[str, str]]) -> str:
    kinds: Counter[str] = Counter()
    for (_, kind), count in ended.items():
        kinds[kind] += count
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")

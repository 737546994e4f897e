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
    wounds = crossed[: _setting("FAULTS_CROSSED", len(crossed))]
    wounds += islice(campaign.at_random(SEED), _setting("FAULTS_RANDOM", RANDOM))
    wounds += islice(campaign.bursts(SEED), _setting("FAULTS_BURSTS", BURSTS))
    lanes = _setting("FAULTS_LANES", LANES)
    with tempfile.TemporaryDirectory(prefix="bench-faults-") as name:
        os.environ["EDGE_HARNESS_CACHE"] = f"{name}/cache"
        with campaign.Campaign(Path(name) / "lab", lanes, report=_tell) as fighting:
            battles = fighting.run(wounds)
    yield from of(battles)


def of(battles: Sequence[campaign.FaultRunResult]) -> Iterator[Figure]:
    """Sum the battles up."""
    wounds = [wound for battle in battles for wound in battle.planned_faults]
    made = [wound for wound in wounds if wound.injected_at is not None]
    states = {(wound.state, wound.fault) for wound in made if not wound.more}
    cells = sum(battle.cells for battle in battles)
    problems = Counter(problem.kind for battle in battles for problem in battle.problems)
    ended = sum((battle.statuses for battle in battles), Counter[tuple[str, str]]())
    faults = sum(wound.injected for wound in wounds)
    in_bursts = [wound for wound in made if wound.name == campaign.BURST]
    everything = (
        f"{faults} faults, {sum(wound.injected for wound in in_bursts)} of them in "
        f"{len(in_bursts)} bursts, over {cells} cells in {len(battles)} runs"
    )
    wanted = {(wound.state, wound.fault) for wound in campaign.crossed()}
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
    noticed = [wound.notice_seconds for wound in made if wound.notice_seconds is not None]
    overlooked = sum(wound.overlooked for wound in made)
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

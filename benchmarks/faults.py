"""What faults cost: every state of the conversation with every kind of fault, then at random.

Runs of the real command on x86 devices of the lab, three at a time; what is left after each is
looked at from outside (tests/lab/aftermath.py). `FAULTS_RANDOM` sets how many random faults come after
the crossed ones, `FAULTS_LANES` how many runs go on at the same time.
"""

from __future__ import annotations

import os
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
RANDOM, LANES = 50, 3
FEWEST_FAULTS, FEWEST_CELLS = 200, 2000
MENDED = frozenset(
    {
        "reset",
        "short silence",
        "dead link",
        "loss 5 %",
        "10 Mbit/s",
        "200 ms",
        "sshd killed",
        "agent killed",
        "power cut",
        "controller killed",
        "Ctrl-C",
    }
)
"""Faults that pass, so that they need not cost a cell; the others end a launch or take its files."""


def figures() -> Iterator[Figure]:
    reason = why_not(x86.TOOLS)
    if reason:
        raise NotAsked(reason)
    wounds = campaign.crossed()
    wounds += islice(campaign.at_random(SEED), int(os.environ.get("FAULTS_RANDOM", RANDOM)))
    lanes = int(os.environ.get("FAULTS_LANES", LANES))
    with tempfile.TemporaryDirectory(prefix="bench-faults-") as name:
        os.environ["EDGE_HARNESS_CACHE"] = f"{name}/cache"
        with campaign.Campaign(Path(name) / "lab", lanes, report=_tell) as fighting:
            battles = fighting.run(wounds)
    yield from of(battles)


def of(battles: Sequence[campaign.FaultRunResult]) -> Iterator[Figure]:
    """Sum the battles up."""
    wounds = [wound for battle in battles for wound in battle.planned_faults]
    made = [wound for wound in wounds if wound.injected_at is not None]
    states = {(wound.state, wound.fault) for wound in made}
    cells = sum(battle.cells for battle in battles)
    problems = Counter(problem.kind for battle in battles for problem in battle.problems)
    ended = sum((battle.statuses for battle in battles), Counter[tuple[str, str]]())
    everything = f"{len(made)} faults over {cells} cells in {len(battles)} runs"
    wanted = {(wound.state, wound.fault) for wound in campaign.crossed()}
    yield _count(
        "faults.made",
        len(made),
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
    mended = {key: count for key, count in ended.items() if key[0] in MENDED}
    failed = sum(count for (_, kind), count in mended.items() if kind != "ok")
    yield Figure(
        name="faults.cells_mended",
        value=100 * (1 - failed / max(1, sum(mended.values()))),
        unit="%",
        bound="no bound",
        holds=True,
        against=f"{sum(mended.values())} cells of devices whose fault passed",
        detail=f"{failed} failed all the same",
    )


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

"""A stored gate of generated samples, to time what is done with stored ones."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from harness.analysis.gate import judging
from harness.analysis.gate.contest import Contest, Evidence, Reading, Rules, Side, SideName
from harness.analysis.gate.document import FILE, Result
from harness.analysis.gate.findings import Key
from harness.records.store import RunRecord, RunWriter, Store
from harness.records.store.codec import encode
from harness.types import Cell, Delegation, Launch, Outcome, Plan, Samples, Variant

CONTESTS, PAIRS = 10, 20
SIDES: tuple[SideName, SideName] = ("baseline", "candidate")


def store_a_gate(folder: Path, samples: int) -> int:
    """Store a gate of about so many samples in a results folder; returns how many it has."""
    each = samples // (CONTESTS * PAIRS * len(SIDES))
    contests = [_contest(number) for number in range(CONTESTS)]
    cells = [side.cell for one in contests for side in (one.a, one.b)]
    plan = Plan(path=None, digest="0" * 64, models=())
    record = RunRecord.new(plan=plan, cells=cells, devices={}, kind="gate")
    with Store(folder).create(record) as writer:
        found = [_measured(writer, contest, each) for contest in contests]
        result = judging.judge_again(
            found, Result(baseline="a", candidate="b", run=record.id), rules=Rules()
        )
        (writer.path / FILE).write_text(encode(result.plain()) + "\n", encoding="utf-8")
        writer.finish()
    return len(cells) * PAIRS * each


def _contest(number: int) -> Contest:
    cells = [
        Cell(
            model=f"m{number}",
            recipe=f"{side}:as_is",
            target="xnnpack",
            device="generated",
            threads=1,
            variant=Variant(
                model=f"m{number}",
                recipe="as_is",
                target="xnnpack",
                path=Path("m.tflite"),
                digest=f"{number:02}" * 32,
                size_bytes=1000,
            ),
        )
        for side in SIDES
    ]
    key = Key(model=f"m{number}", device="generated", recipe="as_is")
    return Contest(key=key, a=Side(cell=cells[0]), b=Side(cell=cells[1]))


def _measured(writer: RunWriter, contest: Contest, each: int) -> Evidence:
    readings = tuple(_readings(writer, contest, each))
    evidence = Evidence(contest=contest, readings=readings)
    for name, side in zip(SIDES, (contest.a, contest.b), strict=True):
        writer.outcome(Outcome(cell=side.cell, launches=evidence.launches(name)))
    return evidence


def _readings(writer: RunWriter, contest: Contest, each: int) -> Iterator[Reading]:
    chance = np.random.default_rng(int(contest.key.model[1:]))
    for block in range(PAIRS):
        for name, side in zip(SIDES, (contest.a, contest.b), strict=True):
            launch = Launch(
                id=f"{side.cell.id}-{block}",
                cell_id=side.cell.id,
                kind="timed",
                block=block,
                position=0,
                seed=0,
                runtime="generated 0",
                delegation=Delegation(delegate="none"),
                wall_ns=1,
                samples=(
                    Samples(
                        series="latency",
                        at_ns=array("q", range(each)),
                        value=array("d", 50_000 * np.exp(np.abs(chance.normal(0, 0.02, each)))),
                        count=array("q", [1] * each),
                    ),
                ),
            )
            writer.launch(launch)
            yield Reading.of(name, launch)

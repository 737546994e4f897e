"""Stored gates with known launches, for the tests of what reads them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import synthetic_runs as synthetic

from harness.analysis.gate import document, judging
from harness.analysis.gate.contest import CONFIRMING, Contest, Evidence, Reading, Rules, Side
from harness.analysis.gate.document import Result
from harness.analysis.gate.findings import Key, Row
from harness.analysis.gate.noise import DeviceNoise
from harness.records.store import RunWriter, Store
from harness.types import Outcome

NOISY = DeviceNoise(
    half_width=0.06,
    run="20260101-000000-m-aaaaaa",
    created="2026-01-01T00:00:00+00:00",
    model="m",
    digest="a" * 64,
    threads=1,
    false_alarms=0.003,
)
KEY = Key(model="kws", recipe="as_is", device="pi")


def contest(key: Key = KEY) -> Contest:
    cells = [
        synthetic.cell(f"{side}:as_is", key.device, model=key.model, variant=variant)
        for side, variant in (
            ("baseline", synthetic.variant("as_is")),
            ("candidate", synthetic.variant("as_is 2")),
        )
    ]
    return Contest(key=key, a=Side(cell=cells[0]), b=Side(cell=cells[1]))


def store(
    folder: Path,
    *,
    ratio: float = 2.27,
    spread: float = 0.005,
    noise: DeviceNoise | None = None,
    pairs: int = 6,
    fresh: int = 10,
    accuracy: Row | None = None,
    rules: Rules | None = None,
    with_verdict: bool = True,
    with_outcomes: bool = True,
) -> dict[str, Any]:
    """Store a gate of one contest; return its document.

    Without a verdict, as it is left by a kill, return its id only.
    """
    one = contest()
    used = rules or Rules(metrics=("latency", "size", "accuracy"))
    record = synthetic.record(
        [one.a.cell, one.b.cell], kind="gate", plan={"gate": {"metrics": list(used.metrics)}}
    )
    call = {"plan": "plan.toml", "baseline": "a.tflite", "candidate": "b.tflite"}
    blocks = (*range(pairs), *range(CONFIRMING, CONFIRMING + fresh))
    with Store(folder).create(replace(record, call=call)) as writer:
        readings = tuple(_readings(writer, one, ratio, spread, blocks))
        evidence = Evidence(contest=one, readings=readings, noise=noise)
        sides = (("baseline", one.a), ("candidate", one.b))
        for name, side in sides if with_outcomes else ():
            launches = evidence.launches("baseline" if name == "baseline" else "candidate")
            writer.outcome(Outcome(cell=side.cell, launches=launches))
        if not with_verdict:
            return {"run": writer.id}
        result = judging.judge_again(
            [evidence],
            Result(baseline="a.tflite", candidate="b.tflite", run=writer.id),
            rules=used,
            accuracies={} if accuracy is None else {one.key: accuracy},
        )
        text = document.stored(result, writer.record.key)
        (writer.path / document.FILE).write_text(text, encoding="utf-8")
        writer.finish()
    return result.plain()


def _readings(
    writer: RunWriter, one: Contest, ratio: float, spread: float, blocks: Sequence[int]
) -> Iterator[Reading]:
    chance = random.Random(7)
    for block in blocks:
        for side, scale in ((one.a, 1.0), (one.b, ratio)):
            level = 50_000 * scale * (1 + chance.gauss(0, spread))
            made = synthetic.launch(side.cell, [level] * 20, block)
            writer.launch(made)
            yield Reading.of("baseline" if side is one.a else "candidate", made)

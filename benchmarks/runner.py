"""The gate on summaries of benchmark_model, and its parsers under a fuzzer.

The launches of benchmarks/launches/runner.jsonl.xz are real processes of the stand-in, which runs the
keyword model by the real runtime (collected by runner_launches.py). They are dealt as comparisons as
gate_replay.py does it. `EDGE_FUZZ_SECONDS` sets the fuzzer's time (300).
"""

from __future__ import annotations

import json
import lzma
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

from benchmarks.common import ROOT, NotAsked
from benchmarks.figure import Figure
from benchmarks.gate_replay import LAUNCHES, Dealt, Kept, Said, Series, deal, ours
from harness.devices import android
from harness.devices.dialects.benchmark_model import (
    bundle,
    elf,
    facts,
    result_file,
    runtime_info,
    scripts,
    sensors,
    tool_output,
)
from harness.devices.dialects.benchmark_model.elf import MalformedElf
from harness.devices.dialects.benchmark_model.tool_output import UnknownFormat
from harness.devices.dialects.benchmark_model.wire import MalformedMessage
from harness.errors import HarnessError
from harness.stats import paired

UNCHANGED, SLOWER = 2_000, 500
FUZZ_SECONDS = float(os.environ.get("EDGE_FUZZ_SECONDS", "300"))
SEED = 20261130


def figures() -> Iterator[Figure]:
    series = read()
    same = _replay(series, UNCHANGED, 1.0)
    alarms = 100 * sum(one.red for one in same) / len(same)
    size = f"{len(series.launches)} launches"
    yield Figure(
        name="runner.alarms: summaries, A/A",
        value=alarms,
        unit="%",
        bound="at most 1 %",
        holds=alarms <= 1,
        against=f"{size}, {len(same)} comparisons",
        detail=f"first verdicts slower {sum(one.slower_first for one in same) / len(same):.2%}",
    )
    slower = _replay(series, SLOWER, 1.05)
    found = 100 * sum(one.slower_first for one in slower) / len(slower)
    yield Figure(
        name="runner.power: summaries, +5 %",
        value=found,
        unit="%",
        bound="at least 90 %",
        holds=found >= 90,
        against=f"{size}, {len(slower)} comparisons",
        detail=f"{sum(one.pairs for one in slower) / len(slower):.1f} pairs",
    )
    count, faults = fuzz(FUZZ_SECONDS)
    yield Figure(
        name="runner.fuzz: unhandled",
        value=len(faults),
        unit="",
        bound="none",
        holds=not faults,
        against=f"{count:,} inputs in {FUZZ_SECONDS:.0f} s",
        detail="; ".join(faults[:3]),
    )


def read() -> Series:
    """Read the packed launches; every quantile of a summary is its only value."""
    path = LAUNCHES / "runner.jsonl.xz"
    if not path.exists():
        raise NotAsked("no launches: `python benchmarks/runner_launches.py 1000`")
    header, *lines = lzma.decompress(path.read_bytes()).decode().splitlines()
    launches = []
    for number, line in enumerate(lines):
        one = json.loads(line)
        value = float(one["latency"])
        launches.append(
            Kept(
                side="ab"[number % 2],
                at=one["at"],
                n=1,
                share=None,
                quantiles=dict.fromkeys(paired.QUANTILES, value),
                samples=(value,),
            )
        )
    return Series(name="runner", machine=json.loads(header)["machine"], launches=tuple(launches))


def _replay(series: Series, count: int, scale: float) -> list[Said]:
    chance = random.Random(f"{SEED}/{scale}")
    return [ours(_counted(deal(series, chance, scale=scale))) for _ in range(count)]


def _counted(dealt: Dealt) -> Dealt:
    """Cut the scaled values to whole microseconds, which is all that the program reports."""

    def cut(one: Kept) -> Kept:
        quantiles = {q: value // 1000 * 1000 for q, value in one.quantiles.items()}
        return replace(one, quantiles=quantiles)

    return replace(dealt, a=tuple(map(cut, dealt.a)), b=tuple(map(cut, dealt.b)))


# --- the fuzzer -----------------------------------------------------------------------------------


def fuzz(seconds: float) -> tuple[int, list[str]]:
    """Change real inputs of every parser at random; return the inputs and the unhandled errors."""
    sys.path[:0] = [str(ROOT / "tests" / "standins"), str(ROOT / "tests" / "unit")]
    from runner_bundles import elf_file
    from test_runner_output import LITERT, TFLITE, result
    from test_runner_placement import GPU, NET, details
    from test_runner_sensors import BATTERY, SURVEY, THERMAL

    seeds: list[tuple[Callable[[bytes], object], bytes]] = [
        (lambda data: tool_output.read(data.decode("utf-8", "replace")), TFLITE.encode()),
        (lambda data: tool_output.read(data.decode("utf-8", "replace")), LITERT.encode()),
        (result_file.read, result()),
        (lambda data: runtime_info.delegation(data, "gpu"), details(NET, {GPU: (0, 2)})),
        (elf.read, elf_file(needed=("libc.so",), api=31, soname="x.so")),
        (bundle.of_manifest, b'{"name": "a", "version": "1", "files": [{"name": "x"}]}'),
        (lambda data: facts.read(scripts.parse(data), "phone"), SURVEY + scripts.END),
        (
            sensors.series,
            b"100.10 rss 1000\n100.10 mhz 1800000 4\ncost 1\n0m0.01s 0m0.0s\n0m0.0s 0m0.0s\n",
        ),
        (lambda data: android.thermal(data.decode("utf-8", "replace")), THERMAL.encode()),
        (lambda data: android.battery(data.decode("utf-8", "replace")), BATTERY.encode()),
    ]
    chance, count, faults = random.Random(SEED), 0, []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        parse, seed = seeds[count % len(seeds)]
        data = _changed(seed, chance, chance.choice(seeds)[1])
        count += 1
        try:
            with suppress(UnknownFormat, MalformedMessage, MalformedElf, HarnessError):
                parse(data)
        except Exception as error:  # noqa: BLE001 - what is looked for
            faults.append(f"{type(error).__name__}: {error} on {data[:60]!r}")
    return count, faults


def _changed(data: bytes, chance: random.Random, other: bytes) -> bytes:
    made = bytearray(data)
    if chance.random() < 0.3:
        # Lines of another format, as in a log of two programs.
        lines = other.splitlines(keepends=True)
        first = chance.randrange(len(lines))
        made += b"".join(lines[first : first + chance.randrange(1, 6)])
        lines = bytes(made).splitlines(keepends=True)
        made = bytearray(b"".join(chance.sample(lines, chance.randrange(1, len(lines) + 1))))
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(made) + 1)
        kind = chance.randrange(4)
        if kind == 0:
            made[at : at + chance.randrange(1, 9)] = b""
        elif kind == 1:
            made[at:at] = chance.randbytes(chance.randrange(1, 9))
        elif kind == 2 and made:
            made[min(at, len(made) - 1)] = chance.choice(b"\x00\x7f\x80\xff0 9-.\n")
        else:
            start = chance.randrange(len(made) + 1)
            made[at:at] = made[start : start + chance.randrange(1, 60)]
    return bytes(made)

"""The gate's promises, replayed on real launches, and how long it takes.

The launches lie in benchmarks/launches (collected by gate_launches.py on the machine its header
names): three models, both sides one file, and two real slower twins. Every line shows beside our gate what
the usual rules say of the very same launches: how often each says slower.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.common import COMMAND, KEYWORD_INT8, KEYWORD_MODEL, ROOT, Done, need, run, stack
from benchmarks.figure import Figure
from benchmarks.gate_replay import Shares, nights, read, replay
from benchmarks.stored_gate import store_a_gate

COMPARISONS = 200
NIGHTS = int(os.environ.get("EDGE_BENCH_NIGHTS", "1000"))
UNCHANGED = {"keyword": 20, "stack": 10, "mobilenet": 10}
"""Series of one file, with the pairs that each may take."""

SAMPLES = 1_000_000


def figures() -> Iterator[Figure]:
    for name, max_pairs in UNCHANGED.items():
        yield from _unchanged_and_scaled(name, max_pairs)
    for name in ("stack-layer", "stack-thread"):
        shares = replay(read(name), comparisons=COMPARISONS, max_pairs=10)
        yield _power(f"{name}, real", shares, 0.99)
    yield _alarms("keyword, drift 10 % in 10 min", replay(read("keyword"), drift=0.1), 0.02)
    yield _alarms("stack, drift 10 % in 10 min", replay(read("stack"), drift=0.1), 0.02)
    loaded = read("keyword-load")
    yield _alarms("keyword, both cores busy", replay(loaded), 0.01)
    yield _power("keyword, both cores busy, +5 %", replay(loaded, scale=1.05), 0.90)
    yield _nights()
    yield _small_confirmed()
    yield from _one_gate()
    yield from _edit_to_verdict()
    yield _analysis()


def _unchanged_and_scaled(name: str, max_pairs: int) -> Iterator[Figure]:
    series = read(name)
    for scale, least in ((1.0, None), (1.05, 0.95), (1.10, 0.99)):
        shares = replay(series, comparisons=COMPARISONS, scale=scale, max_pairs=max_pairs)
        if least is None:
            yield _alarms(f"{name}, A against A", shares, 0.01)
        else:
            yield _power(f"{name}, +{scale - 1:.0%}", shares, least)


def _alarms(name: str, shares: Shares, most: float) -> Figure:
    return Figure(
        name=f"gate.alarms: {name}",
        value=100 * shares.red,
        unit="%",
        bound=f"at most {most:.0%}",
        holds=shares.red <= most,
        against=shares.beside(),
        detail=_detail(shares),
    )


def _power(name: str, shares: Shares, least: float) -> Figure:
    return Figure(
        name=f"gate.power: {name}",
        value=100 * shares.slower_first,
        unit="%",
        bound=f"at least {least:.0%}",
        holds=shares.slower_first >= least,
        against=shares.beside(),
        detail=_detail(shares),
    )


def _detail(shares: Shares) -> str:
    return (
        f"{shares.comparisons} comparisons, first verdict slower {shares.slower_first:.1%}, red in the end "
        f"{shares.red:.1%}, {shares.pairs:.1f} pairs"
    )


def _nights() -> Figure:
    series = [read(name) for name in UNCHANGED]
    found = list(nights(series, count=NIGHTS))
    red = sum(1 for _, reds in found if reds)
    first = sum(1 for firsts, _ in found if firsts)
    return Figure(
        name="gate.nights with a false red",
        value=100 * red / len(found),
        unit="%",
        bound="at most 1 %",
        holds=red <= 0.01 * len(found),
        against=f"nights with a first verdict of REGRESSION: {first / len(found):.1%}",
        detail=f"{len(found)} nights of 600 cells, confirmation included",
    )


def _small_confirmed() -> Figure:
    """Time a gate of a 50 us model and a candidate twice as slow, to the confirmed verdict."""
    sys.path.insert(0, str(ROOT / "tests"))
    from standins import graphs

    with tempfile.TemporaryDirectory(prefix="bench-gate-") as folder:
        sides = [
            graphs.chain(Path(folder) / f"{name}.tflite", ["TANH"] * count, (1, 2048))
            for name, count in (("small", 112), ("twice", 224))
        ]
        plan = _plan(Path(folder), sides[0], "as_is")
        words = ["--baseline", sides[0], "--candidate", sides[1], "--json"]
        load = os.getloadavg()[0]
        done = _gate(plan, words)
    document = json.loads(done.stdout)
    row = next(one for one in document["rows"] if one["metric"] == "latency")
    verdict = f"{row['verdict']}{', confirmed' if row['confirmed'] else ''}"
    return Figure(
        name="gate.50 us model, confirmed regression",
        value=done.seconds,
        unit="s",
        bound="at most 90 s at a load under 2, REGRESSION confirmed",
        holds=done.seconds <= 90 and verdict == "REGRESSION, confirmed",
        against=f"load {load:.1f} at its start",
        detail=f"{verdict}: {row['a'] / 1e3:.0f} us and {row['b'] / 1e3:.0f} us, {row['pairs']} pairs "
        f"and {row['fresh']['pairs'] if row['fresh'] else 0} fresh ones",
    )


def _one_gate() -> Iterator[Figure]:
    """Time a whole gate of the keyword model beside itself, as a person would start it."""
    model = need(KEYWORD_INT8, "the keyword model")
    words = ["--baseline", model, "--candidate", model, "--measure-identical"]
    with tempfile.TemporaryDirectory(prefix="bench-gate-") as folder:
        plan = _plan(Path(folder), model, "as_is")
        done = [_gate(plan, words) for _ in range(3)]
        slower = [
            "--baseline",
            stack() / "stack.tflite",
            "--candidate",
            stack() / "stack_layer.tflite",
        ]
        confirmed = [_gate(plan, slower) for _ in range(3)]
    seconds = [one.seconds for one in done]
    yield Figure(
        name="gate.one model, one device",
        value=statistics.median(seconds),
        unit="s",
        bound="under 120 s",
        holds=max(seconds) < 120,
        against=f"slowest of {len(seconds)}: {max(seconds):.0f} s",
        detail=done[-1].stdout.splitlines()[-1],
    )
    seconds = [one.seconds for one in confirmed]
    yield Figure(
        name="gate.one slower model, confirmed",
        value=statistics.median(seconds),
        unit="s",
        bound="under 120 s",
        holds=max(seconds) < 120,
        against=f"slowest of {len(seconds)}: {max(seconds):.0f} s",
        detail=confirmed[-1].stdout.splitlines()[-1],
    )


def _edit_to_verdict() -> Iterator[Figure]:
    """Time from a changed SavedModel to the verdict: convert, quantise, check, gate."""
    source = need(KEYWORD_MODEL, "the keyword SavedModel")
    with tempfile.TemporaryDirectory(prefix="bench-edit-") as folder:
        plan = _plan(Path(folder), source, "int8")
        words = ["--baseline", KEYWORD_INT8, "--candidate", source]
        done = _gate(plan, words, EDGE_HARNESS_CACHE=f"{folder}/cache")
    yield Figure(
        name="gate.edit to verdict",
        value=done.seconds,
        unit="s",
        bound="under 180 s",
        holds=done.seconds < 180,
        against="TensorFlow's conversion included, nothing in the cache",
        detail=done.stdout.splitlines()[-1],
    )


def _plan(folder: Path, model: Path, recipe: str) -> Path:
    plan = folder / "plan.toml"
    plan.write_text(
        f'[model]\nname = "kws"\npath = "{model}"\n'
        '[data]\ncalibration = "random"\n'
        f'[run]\nrecipes = ["{recipe}"]\ndevices = ["this-machine"]\n'
        '[gate]\nmetrics = ["latency", "size"]\n',
        encoding="utf-8",
    )
    return plan


def _gate(plan: Path, words: Sequence[str | Path], **environment: str) -> Done:
    """Run a gate; whatever it says, it must have been able to judge."""
    results = {"EDGE_HARNESS_RESULTS": str(plan.parent / "runs")}
    return run([COMMAND, "gate", plan, *words], ends=(0, 1, 2), **results, **environment)


def _analysis() -> Figure:
    """Time `judge` of a stored gate of a million samples, from process start to verdicts."""
    with tempfile.TemporaryDirectory(prefix="bench-judge-") as folder:
        samples = store_a_gate(Path(folder), SAMPLES)
        seconds = []
        for _ in range(5):
            began = time.perf_counter()
            run([str(COMMAND), "judge", "latest", "--json"], EDGE_HARNESS_RESULTS=folder)
            seconds.append(time.perf_counter() - began)
    return Figure(
        name="gate.stored samples to verdicts",
        value=statistics.median(seconds),
        unit="s",
        bound="under 2 s",
        holds=statistics.median(seconds) < 2,
        against=f"slowest of {len(seconds)}: {max(seconds):.2f} s",
        detail=f"{samples:,} generated samples, process start included",
    )

"""Our p50 is the p50 of a bare loop on Interpreter.invoke, and reading the clock costs nothing.

Launches of ours and of `bare_loop.py` alternate (the order turns round every pair), so that a
machine that slows down slows both. Pairs are added until the 95 % interval is tight, never until
it agrees. Both sides run on the same processors, a thread each, so that placement is not what
differs. Where launches of the bare loop alone spread so far that two bare loops beside each other
would not stay inside the bound, the figure says so: then it is the machine that cannot show it.
"""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.common import HERE, KEYWORD_INT8, digest, mobilenet, need, run
from benchmarks.figure import Figure, Ratio, paired_ratio
from harness.measure import pinning
from harness.measure.sessions import Session
from harness.types import Device, Dose, LaunchOrder

LOW, HIGH = 0.97, 1.03
LEAST_PAIRS = 10
MOST_PAIRS = {1: 300, 2: 800}
"""By threads. Where a neighbour of the host works on the other thread of a core, launches of one and
the same program differ by 13 % with one thread and 15-30 % with two from second to second; only
number helps then."""
TIGHT = {1: 0.015, 2: 0.015}
"""Half-width of the interval, by threads, at which no more pairs are added."""
WARMUP_SECONDS = 0.2
"""On both sides; short, so that the two launches of a pair meet the same machine."""

SHORT_NS = 50_000


def figures() -> Iterator[Figure]:
    models = {
        "kws_int8": need(KEYWORD_INT8, "the keyword model"),
        "mobilenet_v2_int8": mobilenet() / "int8.tflite",
    }
    with tempfile.TemporaryDirectory(prefix="bench-fidelity-") as folder:
        session = Session(
            Device(
                name="bench",
                profile="linux_x86_64",
                address="local:",
                dialect_options={"python": sys.executable, "workdir": folder},
            )
        )
        try:
            session.bring({digest(path): path for path in models.values()})
            for name, path in models.items():
                for threads in (1, 2):
                    ours, bare = _alternate(session, path, threads)
                    yield _figure(f"fidelity.{name}.{threads}t", ours, bare)
        finally:
            session.close()
    yield _clock()


def _alternate(session: Session, path: Path, threads: int) -> tuple[list[float], list[float]]:
    ours: list[float] = []
    bare: list[float] = []
    wanted = digest(path)
    for pair in range(MOST_PAIRS[threads]):
        if pair % 2:
            bare.append(_bare(session, path, threads))
            ours.append(_ours(session, wanted, threads, pair))
        else:
            ours.append(_ours(session, wanted, threads, pair))
            bare.append(_bare(session, path, threads))
        if len(ours) >= LEAST_PAIRS and paired_ratio(ours, bare).half_width <= TIGHT[threads]:
            break
    return ours, bare


def _ours(session: Session, wanted: str, threads: int, block: int) -> float:
    launch = session.dialect.launch(
        LaunchOrder(
            cell_id="bench",
            kind="timed",
            block=block,
            position=0,
            variant_digest=wanted,
            target="xnnpack",
            threads=threads,
            dose=Dose(launches=1, warmup_seconds=WARMUP_SECONDS),
            seed=block,
            processors=pinning.processors(session.facts, threads),
        )
    )
    (latency,) = [part for part in launch.samples if part.series == "latency"]
    return statistics.median(latency.value)


def _bare(session: Session, path: Path, threads: int) -> float:
    processors = map(str, pinning.processors(session.facts, threads))
    argv = [sys.executable, str(HERE / "bare_loop.py"), str(path), str(threads), *processors]
    return float(run(argv, WARMUP_SECONDS=str(WARMUP_SECONDS)).stdout.split()[0])


def _figure(name: str, ours: list[float], bare: list[float]) -> Figure:
    ratio: Ratio = paired_ratio(ours, bare)
    spread = 100 * statistics.stdev(map(math.log, bare))
    return Figure(
        name=name,
        value=ratio.value,
        unit="x",
        bound=f"95 % inside {LOW}-{HIGH}",
        holds=ratio.low >= LOW and ratio.high <= HIGH,
        against=f"bare loop, p50 {statistics.median(bare) / 1000:.1f} us",
        detail=f"[{ratio.low:.3f}, {ratio.high:.3f}], {ratio.pairs} pairs; "
        f"launches of the bare loop alone spread {spread:.1f} %, so two bare loops would span "
        f"+-{1.96 * math.sqrt(2 / ratio.pairs) * spread:.1f} %",
    )


_CLOCK_SCRIPT = """
import statistics, time
clock = time.perf_counter_ns
samples = []
for _ in range(200_000):
    began = clock()
    samples.append(clock() - began)
print(statistics.median(samples))
"""


def _clock() -> Figure:
    own = [float(run([sys.executable, "-c", _CLOCK_SCRIPT]).stdout) for _ in range(5)]
    share = statistics.median(own) / SHORT_NS
    return Figure(
        name="fidelity.timing_overhead",
        value=100 * share,
        unit="%",
        bound="< 1 % of 50 us",
        holds=share < 0.01,
        against=f"two clock reads with nothing between: {statistics.median(own):.0f} ns",
    )

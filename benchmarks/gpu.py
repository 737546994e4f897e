"""Our p50 of a GPU is the p50 of run and read by hand.

Twice: inference by inference in one process (`gpu_beside.py`), and whole launches of ours alternating with
`bare_gpu_loop.py`, the order turning round every pair, until the 95 % interval is tight; on a busy machine it is the
first that can tell, since launches then differ among themselves by more than the bound. The GPU is SwiftShader's, on
the processor: the ratio is about our code, the times are about no GPU. With OWN_GPU=1 it is this machine's own.
"""

from __future__ import annotations

import math
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from unittest import mock

from benchmarks.common import DATA, HERE, NotAsked, digest, need, run
from benchmarks.figure import Figure, paired_ratio
from harness.devices.delegation import Timing, judge
from harness.devices.delegation.judging import MAX_ENQUEUE_SHARE
from harness.measure.sessions import Session
from harness.types import Cell, Device, Dose, Launch, LaunchOrder, Variant
from tests.lab import swiftshader
from tests.lab.tools import LabError

LOW, HIGH = 0.95, 1.05
LEAST_PAIRS, MOST_PAIRS = 10, 60
TIGHT = 0.02
"""Half-width of the interval at which no more pairs are added; never whether it agrees."""
WARMUP_SECONDS = 0.2
PROCESSES = 5


def figures() -> Iterator[Figure]:
    models = {
        "kws_float32": need(DATA / "kws" / "kws_ref_model_float32.tflite", "the keyword model"),
        "mobilenet_v1_int8": need(
            DATA / "coral" / "mobilenet_v1_0.25_128_quant.tflite", "the MobileNet"
        ),
    }
    with (
        mock.patch.dict(os.environ, _adapter()),
        tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder,
    ):
        device = Device(
            name="bench",
            profile="linux_x86_64",
            address="local:",
            dialect_options={"python": sys.executable, "workdir": folder},
        )
        session = Session(device)
        try:
            session.bring({digest(path): path for path in models.values()})
            launches: list[Launch] = []
            for name, path in models.items():
                yield _beside(f"gpu.inference.{name}", path)
                yield _figure(f"gpu.launch.{name}", *_alternate(session, path, launches))
            yield from _judged(launches)
        finally:
            session.close()


def _adapter() -> Mapping[str, str]:
    if os.environ.get("OWN_GPU"):
        return {}
    try:
        return swiftshader.environment()
    except (LabError, OSError) as error:
        raise NotAsked(f"the software GPU is not here: {error}") from error


def _alternate(
    session: Session, path: Path, launches: list[Launch]
) -> tuple[list[float], list[float]]:
    ours: list[float] = []
    bare: list[float] = []
    for pair in range(MOST_PAIRS):
        if pair % 2:
            bare.append(_bare(path))
            launches.append(_ours(session, path, pair))
        else:
            launches.append(_ours(session, path, pair))
            bare.append(_bare(path))
        ours.append(_p50(launches[-1]))
        if len(ours) >= LEAST_PAIRS and paired_ratio(ours, bare).half_width <= TIGHT:
            break
    return ours, bare


def _ours(session: Session, path: Path, block: int) -> Launch:
    dose = Dose(
        launches=1,
        min_inferences=30,
        min_seconds=0.3,
        warmup_seconds=WARMUP_SECONDS,
        warmup_max_seconds=WARMUP_SECONDS,
    )
    return session.dialect.launch(
        LaunchOrder(
            cell_id="bench",
            kind="timed",
            block=block,
            position=0,
            variant_digest=digest(path),
            target="gpu",
            threads=1,
            dose=dose,
            seed=block,
        )
    )


def _p50(launch: Launch) -> float:
    (latency,) = [part for part in launch.samples if part.series == "latency"]
    return statistics.median(latency.value)


def _judged(launches: Sequence[Launch]) -> Iterator[Figure]:
    """Judge the launches as they are, and with the time of handing over as theirs."""
    variant = Variant(
        model="m", recipe="as_is@gpu", target="gpu", path=Path("m"), digest="0" * 64, size_bytes=1
    )
    cell = Cell(
        model="m", recipe="as_is@gpu", target="gpu", device="bench", threads=1, variant=variant
    )
    refused = shown = lies = 0
    for launch in launches:
        handed, whole = launch.delegation.handed_ns, launch.delegation.whole_ns
        assert handed is not None
        assert whole is not None
        honest = judge(cell, [launch])
        refused += honest is None or not honest.shown
        if handed < MAX_ENQUEUE_SHARE * whole:
            lies += 1
            lie = judge(cell, [launch], Timing(own=float(handed), cpu=None))
            shown += lie is None or lie.shown
    yield Figure(
        name="gpu.honest_refused",
        value=refused,
        unit="",
        bound=f"0 of {len(launches)}",
        holds=refused == 0,
        against="the launches of the ratios above",
    )
    if not lies and os.environ.get("OWN_GPU"):
        return  # a driver that waits while work is handed over leaves no such lie to tell
    yield Figure(
        name="gpu.handing_over_shown",
        value=shown,
        unit="",
        bound=f"0 of {lies}",
        holds=shown == 0 and lies > 0,
        against="the same with the time of run without read, where that is up to half of both",
    )


def _beside(name: str, path: Path) -> Figure:
    """Inference by inference in one process; several, for each places its threads anew."""
    argv = [sys.executable, str(HERE / "gpu_beside.py"), str(path)]
    lines = [run(argv).stdout.splitlines()[-1] for _ in range(PROCESSES)]
    told = [list(map(float, line.split())) for line in lines]
    return _figure(name, [one[0] for one in told], [one[1] for one in told])


def _bare(path: Path) -> float:
    argv = [sys.executable, str(HERE / "bare_gpu_loop.py"), str(path)]
    return float(run(argv, WARMUP_SECONDS=str(WARMUP_SECONDS)).stdout.split()[-1])


def _figure(name: str, ours: list[float], bare: list[float]) -> Figure:
    where = "this machine's GPU" if os.environ.get("OWN_GPU") else "the software GPU"
    ratio = paired_ratio(ours, bare)
    spread = 100 * statistics.stdev(map(math.log, bare))
    return Figure(
        name=name,
        value=ratio.value,
        unit="x",
        bound=f"{LOW}-{HIGH}",
        holds=LOW <= ratio.value <= HIGH,
        against=f"run and read by hand, p50 {statistics.median(bare) / 1e6:.2f} ms on {where}",
        detail=f"95 % [{ratio.low:.3f}, {ratio.high:.3f}], {ratio.pairs} pairs; by hand alone they "
        f"spread {spread:.1f} %, so two of those would span "
        f"+-{1.96 * math.sqrt(2 / ratio.pairs) * spread:.1f} %",
    )

"""Our p50 of a GPU is the p50 of run and read by hand.

Launches of ours and of `bare_gpu_loop.py` alternate, the order turning round every pair, until the 95 % interval
is tight. The GPU is SwiftShader's, on the processor: the ratio is about our code, the times are about no GPU.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from benchmarks.common import DATA, HERE, NotAsked, digest, need, run
from benchmarks.figure import Figure, paired_ratio
from harness.sessions import Session
from harness.types import Device, Dose, LaunchOrder
from tests.lab import swiftshader
from tests.lab.tools import LabError

LOW, HIGH = 0.95, 1.05
LEAST_PAIRS, MOST_PAIRS = 10, 60
TIGHT = 0.02
"""Half-width of the interval at which no more pairs are added; never whether it agrees."""
WARMUP_SECONDS = 0.2


def figures() -> Iterator[Figure]:
    models = {
        "kws_float32": need(DATA / "kws" / "kws_ref_model_float32.tflite", "the keyword model"),
        "mobilenet_v1_int8": need(
            DATA / "coral" / "mobilenet_v1_0.25_128_quant.tflite", "the MobileNet"
        ),
    }
    try:
        environment = swiftshader.environment()
    except (LabError, OSError) as error:
        raise NotAsked(f"the software GPU is not here: {error}") from error
    with (
        mock.patch.dict(os.environ, environment),
        tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder,
    ):
        device = Device(
            name="bench",
            profile="linux_x86_64",
            address="local:",
            python=sys.executable,
            workdir=folder,
        )
        session = Session(device)
        try:
            session.bring({digest(path): path for path in models.values()})
            for name, path in models.items():
                yield _figure(f"gpu.{name}", *_alternate(session, path))
        finally:
            session.close()


def _alternate(session: Session, path: Path) -> tuple[list[float], list[float]]:
    ours: list[float] = []
    bare: list[float] = []
    for pair in range(MOST_PAIRS):
        if pair % 2:
            bare.append(_bare(path))
            ours.append(_ours(session, path, pair))
        else:
            ours.append(_ours(session, path, pair))
            bare.append(_bare(path))
        if len(ours) >= LEAST_PAIRS and paired_ratio(ours, bare).half_width <= TIGHT:
            break
    return ours, bare


def _ours(session: Session, path: Path, block: int) -> float:
    dose = Dose(
        launches=1,
        min_inferences=30,
        min_seconds=0.3,
        warmup_seconds=WARMUP_SECONDS,
        warmup_max_seconds=WARMUP_SECONDS,
    )
    launch = session.dialect.launch(
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
    (latency,) = [part for part in launch.samples if part.series == "latency"]
    return statistics.median(latency.value)


def _bare(path: Path) -> float:
    argv = [sys.executable, str(HERE / "bare_gpu_loop.py"), str(path)]
    return float(run(argv, WARMUP_SECONDS=str(WARMUP_SECONDS)).stdout.split()[-1])


def _figure(name: str, ours: list[float], bare: list[float]) -> Figure:
    ratio = paired_ratio(ours, bare)
    return Figure(
        name=name,
        value=ratio.value,
        unit="x",
        bound=f"{LOW}-{HIGH}",
        holds=LOW <= ratio.value <= HIGH,
        against=f"run and read by hand, p50 {statistics.median(bare) / 1e6:.2f} ms on the software GPU",
        detail=f"95 % [{ratio.low:.3f}, {ratio.high:.3f}], {ratio.pairs} pairs",
    )

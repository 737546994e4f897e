"""Four variants of an untrained MobileNetV2 224 from a SavedModel, against four TFLiteConverter calls.

Both sides are fresh processes that check nothing; they alternate. Each round of ours starts with an
empty build cache, and one more process then asks for the same variants again.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.common import HERE, mobilenet, peaks_of_descendants, run
from benchmarks.figure import Figure

ROUNDS = 3
RATIO = 0.5
CACHED_SECONDS = 1.0
WORKER_GB = 1.4


def figures() -> Iterator[Figure]:
    folder = mobilenet()
    inputs = [folder / "saved_model", folder / "calibration.npz"]
    ours: list[float] = []
    theirs: list[float] = []
    again: list[float] = []
    peaks: list[int] = []
    workers: list[int] = []
    with tempfile.TemporaryDirectory(prefix="bench-build-") as name:
        for turn in range(ROUNDS):
            cache = Path(name, f"cache-{turn}")
            argv: list[str | Path] = [sys.executable, HERE / "four_builds.py", *inputs, cache]
            reference: list[str | Path] = [
                sys.executable,
                HERE / "four_conversions.py",
                *inputs,
                Path(name, "out"),
            ]
            if turn % 2:
                theirs.append(run(reference, TF_CPP_MIN_LOG_LEVEL="3").seconds)
            with peaks_of_descendants(os.getpid()) as seen:
                done = run(argv)
            ours.append(done.seconds)
            peaks.append(max(seen.values()))
            workers.append(sum(peak > WORKER_GB * 1e8 for peak in seen.values()))
            again.append(run(argv).seconds)
            if not turn % 2:
                theirs.append(run(reference, TF_CPP_MIN_LOG_LEVEL="3").seconds)
        converted = {path.stem: path.stat().st_size for path in Path(name, "out").iterdir()}
    built: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    ratio = statistics.median(ours) / statistics.median(theirs)
    yield Figure(
        name="build.four_variants",
        value=ratio,
        unit="x",
        bound=f"<= {RATIO}",
        holds=ratio <= RATIO,
        against=f"four TFLiteConverter calls, {statistics.median(theirs):.1f} s",
        detail=f"ours {_words(ours)} s; int8 {built['int8']} B, theirs {converted['int8']} B",
    )
    seconds = statistics.median(again)
    yield Figure(
        name="build.from_cache",
        value=seconds,
        unit="s",
        bound=f"< {CACHED_SECONDS:.0f} s",
        holds=seconds < CACHED_SECONDS,
        against=f"building them, {statistics.median(ours):.1f} s",
        detail="process start and the digest of the source included",
    )
    peak = max(peaks) / 1e9
    yield Figure(
        name="build.worker_peak",
        value=peak,
        unit="GB",
        bound=f"<= {WORKER_GB}",
        holds=peak <= WORKER_GB,
        against=f"a worker that has imported TensorFlow: {_tensorflow_alone() / 1e9:.2f} GB",
        detail=f"VmHWM of the largest process; {max(workers)} over 0.14 GB",
    )


def _tensorflow_alone() -> int:
    text = run([sys.executable, "-c", _IMPORT], TF_CPP_MIN_LOG_LEVEL="3").stdout
    return int(text.split()[-1]) * 1024


_IMPORT = """
import tensorflow
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


def _words(values: list[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)

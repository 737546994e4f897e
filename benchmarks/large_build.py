"""Memory of building post-training variants of 1 GB of layers: the largest process, against the file.

The file is 15 dense layers of 4096 x 4096 floats. Each recipe is a process of its own with an empty
cache, as `edge-harness optimize` is; the peak is of the controller and of every worker apart, and of
all of them together at one time.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.common import CACHE, COMMAND, HERE, peaks_of_descendants, run
from benchmarks.figure import Figure

GIGABYTES = float(os.environ.get("EDGE_BENCH_GIGABYTES", "1"))
RECIPES = ("float32", "float16", "dynamic", "weight_only", "int8")
MOST = 3.0


def figures() -> Iterator[Figure]:
    path = CACHE / "large" / f"dense-{GIGABYTES:g}.tflite"
    if not path.exists():
        run([sys.executable, HERE / "make_large.py", path, str(GIGABYTES)])
    size = path.stat().st_size
    for recipe in RECIPES:
        with tempfile.TemporaryDirectory(prefix="bench-large-") as folder:
            words = ["--recipe", recipe, "--calibration", "random", "--out", f"{folder}/out"]
            with peaks_of_descendants(os.getpid()) as seen:
                done = run(
                    [COMMAND, "optimize", path, *words],
                    timeout=3000,
                    EDGE_HARNESS_CACHE=f"{folder}/cache",
                )
            made = sum(each.stat().st_size for each in Path(folder, "out").glob("*.tflite"))
        peak = max(seen.values())
        yield Figure(
            name=f"large_build.{recipe}",
            value=peak / size,
            unit="x",
            bound=f"<= {MOST:g} x the file",
            holds=peak <= MOST * size,
            against=f"a file of {size / 1e9:.2f} GB",
            detail=f"VmHWM of the largest process {peak / 1e9:.2f} GB; {made / 1e9:.2f} GB built "
            f"in {done.seconds:.0f} s",
        )

"""A warm run costs little more than the launches it is made of.

Four variants of the embedded model on this machine, built beforehand; wall time of the whole
`edge-harness run` process over the sum of its launches' own time (process start to exit).
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.common import COMMAND, ROOT, need, run
from benchmarks.figure import Figure

ROUNDS = 3
BOUND = 1.25
RECIPES = ("float32", "float16", "dynamic", "int8")
MODEL = ROOT / "harness" / "demo" / "data"


def figures() -> Iterator[Figure]:
    need(COMMAND, "the edge-harness command (pip install -e .)")
    with tempfile.TemporaryDirectory(prefix="bench-run-") as folder:
        plan = Path(folder, "plan.toml")
        plan.write_text(
            f"""
[model]
name = "digits"
path = {json.dumps(str(MODEL / "digits.tflite"))}
[data]
calibration = {json.dumps(str(MODEL / "digits_calibration.npz"))}
evaluation = {json.dumps(str(MODEL / "digits_evaluation.npz"))}
[run]
recipes = {json.dumps(RECIPES)}
devices = ["this-machine"]
"""
        )
        cold, _, _ = _run(plan, Path(folder))
        rounds = [_run(plan, Path(folder)) for _ in range(ROUNDS)]
    ratios = [wall / own for wall, own, _ in rounds]
    wall, own, count = rounds[0]
    yield Figure(
        name="run_overhead.warm_run",
        value=statistics.median(ratios),
        unit="x",
        bound=f"<= {BOUND}",
        holds=statistics.median(ratios) <= BOUND,
        against=f"{count} launches' own time, {own:.1f} s",
        detail=f"wall {wall:.1f} s, cold {cold:.1f} s; ratios {_words(ratios)}",
    )


def _run(plan: Path, folder: Path) -> tuple[float, float, int]:
    """Wall seconds of the command, seconds of its launches, how many they were."""
    results = folder / "results"
    done = run(
        [COMMAND, "run", plan, "--results", results, "--json"],
        EDGE_HARNESS_CACHE=str(folder / "cache"),
    )
    document = json.loads(done.stdout)
    bad = [row for row in document["rows"] if row["status"] != "ok"]
    if bad or len(document["rows"]) != len(RECIPES):
        raise RuntimeError(f"the run is not whole: {bad}")
    journal = (results / document["run"] / "launches.jsonl").read_text().splitlines()
    launches = [json.loads(line)["wall_ns"] for line in journal]
    return done.seconds, sum(launches) / 1e9, len(launches)


def _words(values: list[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)

"""What holding the conditions brings a run and costs it: interval width and wall time.

The same plan runs with its conditions held (the default) and without (`pin = false`,
`thermal = "none"`), alternately. EDGE_HARNESS_OTHER may name another `edge-harness` command, such as
that of an older checkout, which then takes the place of the run without conditions.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.common import COMMAND, ROOT, need, run
from benchmarks.figure import Figure

ROUNDS = 7
RECIPES = ("float32", "float16", "dynamic", "int8")
MAX_WIDTH_RATIO = 1.1
MAX_WALL_RATIO = 1.1
DATA = ROOT / "harness" / "demo" / "data"
FREE = 'pin = false\nthermal = "none"\n'


def figures() -> Iterator[Figure]:
    need(COMMAND, "the edge-harness command (pip install -e .)")
    other = os.environ.get("EDGE_HARNESS_OTHER")
    with tempfile.TemporaryDirectory(prefix="bench-conditions-") as folder:
        held = _plan(Path(folder), "held", "")
        free = _plan(Path(folder), "free", "" if other else FREE)
        widths: dict[str, list[float]] = {"held": [], "free": []}
        walls: dict[str, list[float]] = {"held": [], "free": []}
        for number in range(ROUNDS + 1):
            for name, plan, command in (("held", held, COMMAND), ("free", free, other or COMMAND)):
                width, wall = _run(plan, Path(folder), command)
                # The first round builds the variants.
                if number:
                    widths[name].append(width)
                    walls[name].append(wall)
    against = "the other command" if other else "the run without conditions"
    yield _figure("width", widths, "%", MAX_WIDTH_RATIO, against)
    yield _figure("wall", walls, "s", MAX_WALL_RATIO, against)


def _figure(
    name: str, values: dict[str, list[float]], unit: str, bound: float, against: str
) -> Figure:
    held, free = statistics.median(values["held"]), statistics.median(values["free"])
    return Figure(
        name=f"conditions.{name}",
        value=held / free,
        unit="x",
        bound=f"<= {bound}",
        holds=held / free <= bound,
        against=f"{against}, {free:.3g} {unit}",
        detail=f"held {held:.3g} {unit}; medians of {ROUNDS}",
    )


def _plan(folder: Path, name: str, conditions: str) -> Path:
    path = folder / f"{name}.toml"
    path.write_text(
        f"""
[model]
name = "digits"
path = {json.dumps(str(DATA / "digits.tflite"))}
[data]
calibration = {json.dumps(str(DATA / "digits_calibration.npz"))}
evaluation = {json.dumps(str(DATA / "digits_evaluation.npz"))}
[run]
recipes = {json.dumps(RECIPES)}
{conditions}"""
    )
    return path


def _run(plan: Path, folder: Path, command: str) -> tuple[float, float]:
    """Return the median width of the p50 intervals, % of the p50, and the wall seconds."""
    done = run(
        [command, "run", plan, "--results", folder / "results", "--json"],
        # Not in this checkout, whose packages an older command would import.
        cwd=folder,
        EDGE_HARNESS_CACHE=str(folder / f"cache-{plan.stem}"),
    )
    rows = json.loads(done.stdout)["rows"]
    bad = [row for row in rows if row["status"] != "ok"]
    if bad:
        raise RuntimeError(f"the run is not whole: {bad}")
    widths = [
        100 * (row["latency_p50_high_ms"] - row["latency_p50_low_ms"]) / row["latency_p50_ms"]
        for row in rows
    ]
    return statistics.median(widths), done.seconds

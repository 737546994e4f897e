"""The commands that read a stored run, with 2,000 and 20,000 rows of 150 samples each.

A command on 2,000 rows takes under 4 s of processor time and 300 MB. Ten times the rows take about
ten times both: the ratio counts what they take beyond the start of the command.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.common import CACHE, COMMAND, ROOT, run
from benchmarks.figure import Figure

ROWS = (2_000, 20_000)
SECONDS = 4.0
MEGABYTES = 300.0
GROWTH = 15.0
"""Ten times the rows; the rest is for the processor's caches, which 20,000 rows exceed."""
PAGE_MEGABYTES = 20.0
COMMANDS = {
    "show": ["show", "latest"],
    "pick": ["pick", "latest", "--minimize", "latency_p50_ms"],
    "report": ["report", "latest"],
    "export csv": ["export", "latest", "--format", "csv"],
    "export junit": ["export", "latest", "--format", "junit"],
    "compare": ["compare", "latest", "latest"],
    "runs": ["runs"],
}


_MAKE = "import large_runs, pathlib, sys; large_runs.stored(pathlib.Path(sys.argv[1]), int(sys.argv[2]))"


def _spent(argv: list[str]) -> tuple[float, float]:
    """Return a command's processor time, s, and its peak memory, MB."""
    process = subprocess.Popen(
        [str(COMMAND), *argv], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(argv)} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6


def figures() -> Iterator[Figure]:
    folder = CACHE / "many_rows"
    shutil.rmtree(folder, ignore_errors=True)
    roots: dict[int, Path] = {}
    for rows in ROWS:
        roots[rows] = folder / str(rows)
        # In a process of its own: a child's peak memory includes what its parent has.
        run([sys.executable, "-c", _MAKE, roots[rows], str(rows)], cwd=ROOT / "tests" / "unit")
    start, _ = _spent(["runs", "--results", str(folder / "none")])
    for name, argv in COMMANDS.items():
        spent = {}
        for rows, root in roots.items():
            for cache in root.glob("*/quantiles.json"):
                cache.unlink()
            spent[rows] = _spent([*argv, "--results", str(root)])
        (seconds, memory), (more, most) = spent[ROWS[0]], spent[ROWS[1]]
        growth = max(0.0, more - start) / max(0.1, seconds - start)
        beside = f"{ROWS[1]:,} rows: {more:.1f} s, {most:.0f} MB; a command's start {start:.2f} s"
        named = f"many_rows.{name.replace(' ', '_')}"
        yield _figure(f"{named}.cpu", seconds, "s", SECONDS, beside)
        yield _figure(f"{named}.memory", memory, "MB", MEGABYTES, beside)
        yield _figure(f"{named}.growth", growth, "x", GROWTH, beside)
    page = max(path.stat().st_size for path in roots[ROWS[1]].glob("*/report.html")) / 1e6
    yield _figure("many_rows.page", page, "MB", PAGE_MEGABYTES, f"a page of {ROWS[1]:,} rows")
    shutil.rmtree(folder)


def _figure(name: str, value: float, unit: str, bound: float, against: str) -> Figure:
    return Figure(
        name=name,
        value=value,
        unit=unit,
        bound=f"<= {bound:g} {unit}",
        holds=value <= bound,
        against=against,
    )

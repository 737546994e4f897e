"""The command line answers at once, and heavy libraries stay out of it; also in a store of 1,000 runs."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.common import COMMAND, ROOT, need, run
from benchmarks.figure import Figure
from benchmarks.make_store import copies

ROUNDS = 15
BOUND_SECONDS = 0.25
IMPORT_BOUND_SECONDS = 0.2
SHORT_ROUNDS = 7
SHORT_BOUND = 1.8
"""Times `--help`, for a command that only reads a few small files."""
RUNS = 1000
CPU_BOUNDS_SECONDS = {"show latest": 0.6, "runs": 1.5}
"""In a store of RUNS runs."""
HEAVY = ("tensorflow", "pandas", "duckdb", "fabric", "altair")


def figures() -> Iterator[Figure]:
    need(COMMAND, "the edge-harness command (pip install -e .)")
    yield from _help()
    yield _import("harness")
    yield _import("harness.api")
    yield _heavy_imports()
    with tempfile.TemporaryDirectory(prefix="edge-harness-") as folder:
        small, large = Path(folder) / "small", Path(folder) / "large"
        model = ROOT / "harness" / "demo" / "data" / "digits.tflite"
        run([COMMAND, "bench", model, "--launches", "3", "--results", small])
        # Read once, so that the cache of its quantiles is there, as it is after `bench`.
        run([COMMAND, "show", "latest", "--results", small])
        copies(next(small.iterdir()), large, RUNS)
        yield from _short_commands(small)
        yield from _large_store(large)


def _help() -> Iterator[Figure]:
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(run([COMMAND, "--help"]).seconds)
        theirs.append(run([sys.executable, "-c", "import typer"]).seconds)
    seconds = statistics.median(ours)
    yield Figure(
        name="start_up.help",
        value=seconds,
        unit="s",
        bound=f"< {BOUND_SECONDS} s",
        holds=seconds < BOUND_SECONDS,
        against=f"importing typer alone: {statistics.median(theirs):.3f} s",
        detail=f"median of {ROUNDS}, fastest {min(ours):.3f}",
    )


def _import(package: str) -> Figure:
    ours, theirs = [], []
    for _ in range(SHORT_ROUNDS):
        ours.append(run([sys.executable, "-c", f"import {package}"]).seconds)
        theirs.append(run([sys.executable, "-c", "pass"]).seconds)
    seconds = statistics.median(ours)
    return Figure(
        name=f"start_up.import_{package}",
        value=seconds,
        unit="s",
        bound=f"< {IMPORT_BOUND_SECONDS} s",
        holds=seconds < IMPORT_BOUND_SECONDS,
        against=f"a bare interpreter: {statistics.median(theirs):.3f} s",
        detail=f"median of {SHORT_ROUNDS}",
    )


def _heavy_imports() -> Figure:
    seen = run([sys.executable, "-c", f"import json, sys\nfrom harness.cli import app\n{_REPORT}"])
    loaded = json.loads(seen.stdout)
    found = [name for name in HEAVY if name in loaded]
    return Figure(
        name="start_up.heavy_imports",
        value=len(found),
        unit="",
        bound="none",
        holds=not found,
        against=f"{len(loaded)} top-level modules that harness.cli imports",
        detail=", ".join(found),
    )


def _short_commands(results: Path) -> Iterator[Figure]:
    """Time short commands, interleaved with `--help`."""
    there = ["--results", str(results)]
    commands: Mapping[str, Sequence[str]] = {
        "help": ["--help"],
        "runs": ["runs", *there],
        "recipes": ["recipes"],
        "profiles": ["profiles"],
        "show": ["show", "latest", *there],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(SHORT_ROUNDS):
        for name, words in commands.items():
            seconds[name].append(run([COMMAND, *words]).seconds)
    base = statistics.median(seconds.pop("help"))
    for name, took in seconds.items():
        median = statistics.median(took)
        yield Figure(
            name=f"start_up.{name}",
            value=median / base,
            unit="x",
            bound=f"<= {SHORT_BOUND} x --help",
            holds=median <= SHORT_BOUND * base,
            against=f"--help: {base:.3f} s",
            detail=f"{median:.3f} s, median of {SHORT_ROUNDS}",
        )


def _large_store(results: Path) -> Iterator[Figure]:
    for name, bound in CPU_BOUNDS_SECONDS.items():
        took, helped = [], []
        for _ in range(SHORT_ROUNDS):
            took.append(run([COMMAND, *name.split(), "--results", results]).cpu_seconds)
            helped.append(run([COMMAND, "--help"]).cpu_seconds)
        median = statistics.median(took)
        yield Figure(
            name=f"start_up.{name.split()[0]}_of_{RUNS}",
            value=median,
            unit="s",
            bound=f"<= {bound} s CPU",
            holds=median <= bound,
            against=f"--help: {statistics.median(helped):.3f} s CPU",
            detail=f"median of {SHORT_ROUNDS}",
        )


_REPORT = "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"

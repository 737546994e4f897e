"""The command line answers at once, and heavy libraries stay out of it."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator

from benchmarks.common import COMMAND, need, run
from benchmarks.figure import Figure

ROUNDS = 15
BOUND_SECONDS = 0.25
HEAVY = ("tensorflow", "pandas", "duckdb", "fabric", "altair")


def figures() -> Iterator[Figure]:
    need(COMMAND, "the edge-harness command (pip install -e .)")
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
    seen = run([sys.executable, "-c", f"import json, sys, harness.cli; {_REPORT}"]).stdout
    loaded = json.loads(seen)
    found = [name for name in HEAVY if name in loaded]
    yield Figure(
        name="start_up.heavy_imports",
        value=len(found),
        unit="",
        bound="none",
        holds=not found,
        against=f"{len(loaded)} top-level modules that harness.cli imports",
        detail=", ".join(found),
    )


_REPORT = "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"

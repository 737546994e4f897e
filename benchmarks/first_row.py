"""From a command to the first row: a known SSH device, and a fresh machine."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.common import COMMAND, KEYWORD_INT8, ROOT, NotAsked, need, run
from benchmarks.figure import Figure
from benchmarks.server import farm_file

ROUNDS = 3
BENCH_SECONDS = 15.0
DEMO_SECONDS = 180.0


def figures() -> Iterator[Figure]:
    model = need(KEYWORD_INT8, "the keyword model")
    need(COMMAND, "the edge-harness command (pip install -e .)")
    with tempfile.TemporaryDirectory(prefix="bench-first-") as name:
        folder = Path(name)
        seconds = []
        with farm_file(folder) as farm:
            for turn in range(ROUNDS):
                done = run(
                    [COMMAND, "bench", model, "--on", "loopback", "--farm", farm, "--json"],
                    EDGE_HARNESS_CACHE=str(folder / f"cache-{turn}"),
                    EDGE_HARNESS_RESULTS=str(folder / "results"),
                )
                (row,) = json.loads(done.stdout)["rows"]
                if row["status"] != "ok":
                    raise RuntimeError(f"no number: {row['status']}: {row['reason']}")
                seconds.append(done.seconds)
    yield Figure(
        name="first_row.bench_over_ssh",
        value=statistics.median(seconds),
        unit="s",
        bound=f"< {BENCH_SECONDS:.0f} s",
        holds=statistics.median(seconds) < BENCH_SECONDS,
        against="sshd on loopback",
        detail=f"with nothing on the device {seconds[0]:.1f} s; {row['launches']} launches",
    )
    yield _demo()


def _demo() -> Figure:
    """`make demo` in a clone of the last commit, which has no environment yet."""
    if not (ROOT / "Makefile").exists():
        raise NotAsked("no Makefile here")
    for tool in ("make", "git"):
        if shutil.which(tool) is None:
            raise NotAsked(f"{tool} is not installed")
    with tempfile.TemporaryDirectory(prefix="bench-demo-") as name:
        clone = Path(name, "clone")
        run(["git", "clone", "--quiet", "--no-hardlinks", ROOT, clone])
        environment = {k: v for k, v in os.environ.items() if not k.startswith("EDGE_HARNESS_")}
        environment |= {"XDG_CONFIG_HOME": name, "EDGE_HARNESS_CACHE": str(Path(name, "cache"))}
        environment.pop("VIRTUAL_ENV", None)
        began = time.perf_counter()
        done = subprocess.run(
            ["make", "demo"],
            cwd=clone,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        seconds = time.perf_counter() - began
        if done.returncode:
            raise RuntimeError(f"make demo failed:\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}")
    return Figure(
        name="first_row.make_demo",
        value=seconds,
        unit="s",
        bound=f"< {DEMO_SECONDS:.0f} s",
        holds=seconds < DEMO_SECONDS,
        against="a clone without an environment, package cache as it is",
    )

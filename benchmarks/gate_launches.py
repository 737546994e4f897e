"""Real launches for the figures of the gate: collected once, replayed by gate_replay.py.

    python benchmarks/gate_launches.py collect [--rounds 5] [NAME...]
    python benchmarks/gate_launches.py from-runs NAME RUNS    # timed launches of stored gates
    python benchmarks/gate_launches.py pack                   # to benchmarks/launches/

A series is launches in the order they were made, in mirrored blocks of sides a and b; of a series
of one file both sides are the same. `collect` takes the series in turn, a chunk of blocks each, so
that every one sees several times of the day. All inferences go to .cache; `pack` writes what the
figures need, small enough to be kept beside the code: quantiles and a sample of the inferences.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import platform
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.common import CACHE, KEYWORD_INT8, digest, mobilenet, need, stack  # noqa: E402
from harness.measure import blocks, pinning  # noqa: E402
from harness.measure.sessions import Session  # noqa: E402
from harness.stats import paired  # noqa: E402
from harness.types import Device, Dose, LaunchOrder  # noqa: E402

RAW = CACHE / "gate"
PACKED = ROOT / "benchmarks" / "launches"
KEPT = 40
"""Inferences kept of a launch, evenly taken, for rules that look at inferences."""

BLOCKS = 20
"""A chunk: what a gate measures at most, before it confirms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One side of a series."""

    path: Path
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A series to be collected."""

    a: Arm
    b: Arm
    load: bool = False
    inference_ns: float = 0.0
    """About: a gate stretches the launches of slow inferences."""


def wanted() -> dict[str, Wanted]:
    """Return every series by name."""
    cnn, keyword = stack(), need(KEYWORD_INT8, "the keyword model")
    plain = Arm(path=cnn / "stack.tflite")
    return {
        "stack": Wanted(a=plain, b=plain),
        "mobilenet": Wanted(
            inference_ns=3.2e6,
            a=Arm(path=mobilenet() / "int8.tflite"),
            b=Arm(path=mobilenet() / "int8.tflite"),
        ),
        "stack-layer": Wanted(a=plain, b=Arm(path=cnn / "stack_layer.tflite")),
        "stack-thread": Wanted(a=replace(plain, threads=2), b=plain),
        "keyword-load": Wanted(a=Arm(path=keyword), b=Arm(path=keyword), load=True),
        "keyword": Wanted(a=Arm(path=keyword), b=Arm(path=keyword)),
    }


@contextmanager
def busy(*, wanted: bool) -> Iterator[None]:
    """Keep every processor busy with processes of our own, ended by their id."""
    argv = [sys.executable, "-c", "while True: pass"]
    spinning = [subprocess.Popen(argv) for _ in range(os.cpu_count() or 1)] if wanted else []
    try:
        yield
    finally:
        for one in spinning:
            one.kill()
            one.wait()


def collect(names: list[str], rounds: int) -> None:
    """Add so many chunks to every series named."""
    known = wanted()
    device = Device(
        name="here",
        profile="linux_x86_64",
        address="local:",
        dialect_options={"python": sys.executable},
    )
    session = Session(device)
    try:
        files = {arm.path for name in names for arm in (known[name].a, known[name].b)}
        digests = {path: digest(path) for path in files}
        session.bring({found: path for path, found in digests.items()})
        for number in range(rounds):
            for name in names:
                with busy(wanted=known[name].load):
                    _chunk(session, known[name], digests, RAW / name)
                print(f"round {number + 1} of {rounds}: {name}", flush=True)
    finally:
        session.close()


def _chunk(session: Session, series: Wanted, digests: Mapping[Path, str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    start = len(list(folder.glob("*.npz")))
    chance = random.Random(start)
    order: list[str] = []
    for block in range(BLOCKS):
        order = order[::-1] if block % 2 else chance.sample("ab", 2)
        for position, side in enumerate(order):
            arm = series.a if side == "a" else series.b
            launch = session.dialect.launch(
                LaunchOrder(
                    cell_id="campaign",
                    kind="timed",
                    block=block,
                    position=position,
                    variant_digest=digests[arm.path],
                    target="xnnpack",
                    threads=arm.threads,
                    seed=chance.randrange(1 << 30),
                    dose=blocks.stretched(Dose(min_seconds=1.0), series.inference_ns),
                    processors=pinning.processors(session.facts, arm.threads),
                )
            )
            (latency,) = (part for part in launch.samples if part.series == "latency")
            keep(
                folder / f"{start + 2 * block + position:05}.npz",
                side,
                np.asarray(latency.at_ns),
                np.asarray(latency.value),
                launch.cpu_share,
            )


def keep(path: Path, side: str, at_ns: Any, value: Any, share: float | None) -> None:  # noqa: ANN401
    """Store one launch's inferences."""
    np.savez(
        path,
        side=side,
        at_ns=at_ns.astype(np.int64),
        value=value.astype(np.int64),
        share=np.nan if share is None else share,
    )


def from_runs(name: str, results: Path) -> None:
    """Add the timed launches of every gate stored in a results folder, in their order."""
    from harness.records.store import Store

    folder = RAW / name
    folder.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.glob("*.npz")))
    for summary in sorted(Store(results).runs(), key=lambda one: one.id):
        run = Store(results).open(summary.id)
        sides = {cell.id: cell.recipe.partition(":")[0][:1] for cell in run.record.cells}
        launches = {one.id: one for one in run.launches() if one.kind == "timed"}
        told = run.query(
            "SELECT launch, list(at_ns ORDER BY at_ns), list(value ORDER BY at_ns) FROM samples "
            "WHERE series = 'latency' AND kind = 'timed' AND block >= 0 GROUP BY launch"
        )
        for launch_id, at_ns, value in sorted(told, key=lambda row: row[1][0]):
            launch = launches[launch_id]
            side = "a" if sides[launch.cell_id] == "b" else "b"
            path = folder / f"{number:05}.npz"
            keep(path, side, np.asarray(at_ns), np.asarray(value), launch.cpu_share)
            number += 1


def pack() -> None:
    """Write every series of .cache as one small file: a header, then a line a launch."""
    PACKED.mkdir(exist_ok=True)
    for folder in sorted(path for path in RAW.iterdir() if path.is_dir()):
        lines: list[str] = []
        start = 0
        for path in sorted(folder.glob("*.npz")):
            with np.load(path) as raw:
                start = start or int(raw["at_ns"][0])
                value = raw["value"]
                step = max(1, len(value) // KEPT)
                share = float(raw["share"])
                line = {
                    "side": str(raw["side"]),
                    "at": round((int(raw["at_ns"][0]) - start) / 1e9, 2),
                    "n": len(value),
                    "share": None if np.isnan(share) else round(share, 4),
                    "quantiles": [round(float(x)) for x in np.quantile(value, paired.QUANTILES)],
                    "samples": [int(x) for x in value[::step][:KEPT]],
                }
                lines.append(json.dumps(line, separators=(",", ":")))
        header = {
            "series": folder.name,
            "launches": len(lines),
            "quantiles": paired.QUANTILES,
            "unit": "ns",
            "machine": f"{platform.machine()}, {os.cpu_count()} processors (virtual)",
        }
        text = "\n".join([json.dumps(header), *lines]) + "\n"
        target = PACKED / f"{folder.name}.jsonl.xz"
        target.write_bytes(lzma.compress(text.encode(), preset=9))
        print(f"{target.name}: {len(lines)} launches, {target.stat().st_size} bytes")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    todo = parser.add_subparsers(dest="what", required=True)
    collecting = todo.add_parser("collect")
    collecting.add_argument("names", nargs="*", metavar="NAME")
    collecting.add_argument("--rounds", type=int, default=5)
    reading = todo.add_parser("from-runs")
    reading.add_argument("name")
    reading.add_argument("results", type=Path)
    todo.add_parser("pack")
    options = parser.parse_args()
    if options.what == "collect":
        collect(options.names or list(wanted()), options.rounds)
    elif options.what == "from-runs":
        from_runs(options.name, options.results)
    else:
        pack()
    return 0


if __name__ == "__main__":
    sys.exit(main())

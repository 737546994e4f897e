"""Collect real launches of the stand-in for benchmark_model, for the gate's figures on summaries.

    python benchmarks/runner_launches.py 1000

They go to benchmarks/launches/runner.jsonl.xz: a header, then a line per launch with its median and
minimum in ns. The program is the stand-in of tests/standins, which runs the model by the real runtime.
"""

from __future__ import annotations

import json
import lzma
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests" / "standins"))

from runner_bundles import make_bundle  # noqa: E402

from benchmarks.common import CACHE, KEYWORD_INT8, digest, need  # noqa: E402
from harness.farm import bundles  # noqa: E402
from harness.measure import pinning  # noqa: E402
from harness.measure.sessions import Session  # noqa: E402
from harness.types import Device, Dose, LaunchOrder  # noqa: E402

TARGET = ROOT / "benchmarks" / "launches" / "runner.jsonl.xz"
RAW = CACHE / "runner-launches.jsonl"
DOSE = Dose(min_seconds=0.5, warmup_seconds=0.1)


def open_runner(workdir: Path) -> Session:
    """Return a session with this machine, with the stand-in's bundle installed."""
    bundle = make_bundle(workdir / "bundle")
    device = Device(
        name="runner",
        profile="linux_x86_64",
        address="local:",
        dialect="benchmark_model",
        dialect_options={"workdir": str(workdir / "device")},
    )
    session = Session(device)
    bundles.install(session, str(bundle), dry_run=False, on_progress=lambda _: None)
    session.close()
    return Session(device)


def collect(count: int) -> None:
    """Add launches until there are `count`."""
    model = need(KEYWORD_INT8, "the keyword model")
    found = digest(model)
    RAW.parent.mkdir(parents=True, exist_ok=True)
    have = len(RAW.read_text("utf-8").splitlines()) if RAW.exists() else 0
    workdir = Path(tempfile.mkdtemp(prefix="bench-runner-"))
    session = open_runner(workdir)
    try:
        session.bring({found: model})
        with RAW.open("a", encoding="utf-8") as file:
            for number in range(have, count):
                order = LaunchOrder(
                    cell_id="runner",
                    kind="timed",
                    block=number // 2,
                    position=number % 2,
                    variant_digest=found,
                    target="xnnpack",
                    threads=1,
                    dose=DOSE,
                    processors=pinning.processors(session.facts, 1),
                )
                launch = session.dialect.launch(order)
                values = {part.series: part.value[0] for part in launch.samples if len(part)}
                line = {"at": round(time.time(), 2), "n": launch.inferences}
                line |= {key: round(values[key]) for key in ("latency", "reported_min")}
                file.write(json.dumps(line) + "\n")
                file.flush()
    finally:
        session.close()
        shutil.rmtree(workdir)


def pack() -> None:
    """Write the launches as one small file."""
    lines = [json.loads(line) for line in RAW.read_text("utf-8").splitlines()]
    start = lines[0]["at"]
    lines = [{**line, "at": round(line["at"] - start, 2)} for line in lines]
    header = {
        "series": "runner",
        "launches": len(lines),
        "unit": "ns",
        "program": "stand-in for benchmark_model",
        "machine": f"{platform.machine()}, {os.cpu_count()} processors (virtual, shared)",
    }
    text = "\n".join(json.dumps(line, separators=(",", ":")) for line in [header, *lines]) + "\n"
    TARGET.write_bytes(lzma.compress(text.encode(), preset=9))
    print(f"{TARGET.name}: {len(lines)} launches, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    collect(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000)
    pack()

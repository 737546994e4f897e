"""The agent is small on the device: its file, its own memory, what it adds to a launch, its hello."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.common import HERE, KEYWORD_INT8, children, digest, need, run, status_bytes
from benchmarks.figure import Figure
from harness.measure.sessions import Session
from harness.types import Device, Dose, LaunchOrder

ZIP_BYTES = 64_000
PARENT_MB = 25.0
CHILD_MB = 3.0
HELLO_RATIO = 1.5
ROUNDS = 9
MB = 1e6


def figures() -> Iterator[Figure]:
    model = need(KEYWORD_INT8, "the keyword model")
    with tempfile.TemporaryDirectory(prefix="bench-agent-") as folder:
        before = set(children(os.getpid()))
        session = Session(
            Device(
                name="bench",
                profile="linux_x86_64",
                address="local:",
                dialect_options={"python": sys.executable, "workdir": folder},
            )
        )
        try:
            (parent,) = set(children(os.getpid())) - before
            session.bring({digest(model): model})
            yield _size(Path(folder))
            ours, bare = _peaks(session, model)
            yield _parent(parent)
            yield _child(ours, bare)
            yield _hello(session)
        finally:
            session.close()


def _size(workdir: Path) -> Figure:
    (archive,) = (workdir / "agents").glob("*.zip")
    size = archive.stat().st_size
    sources = sum(
        path.stat().st_size for path in (HERE.parent / "agents/python_tflite").glob("*.py")
    )
    return Figure(
        name="agent.zip",
        value=size,
        unit="B",
        bound=f"< {ZIP_BYTES} B",
        holds=size < ZIP_BYTES,
        against=f"its sources, {sources} B",
    )


def _peaks(session: Session, model: Path) -> tuple[list[float], list[float]]:
    """Peak memory of launches of ours and of the bare script, alternating, in bytes."""
    ours: list[float] = []
    bare: list[float] = []
    for block in range(ROUNDS):
        launch = session.dialect.launch(
            LaunchOrder(
                cell_id="bench",
                kind="memory",
                block=block,
                position=0,
                variant_digest=digest(model),
                target="xnnpack",
                threads=1,
                dose=Dose(),
                seed=block,
            )
        )
        (peak,) = [part for part in launch.samples if part.series == "peak_rss"]
        ours.append(max(peak.value))
        done = run([sys.executable, HERE / "bare_loop.py", model, "1"])
        bare.append(float(done.stdout.split()[1]))
    return ours, bare


def _parent(pid: int) -> Figure:
    resident = status_bytes(pid, "VmRSS")
    peak = status_bytes(pid, "VmHWM")
    assert resident is not None
    assert peak is not None
    alone = run(
        [
            sys.executable,
            "-c",
            "print(open('/proc/self/status').read().split('VmRSS:')[1].split()[0])",
        ]
    )
    return Figure(
        name="agent.parent_resident",
        value=resident / MB,
        unit="MB",
        bound=f"< {PARENT_MB:.0f} MB",
        holds=resident / MB < PARENT_MB,
        against=f"an empty Python: {int(alone.stdout) * 1024 / MB:.1f} MB",
        detail=f"after {ROUNDS} launches; its peak {peak / MB:.1f} MB",
    )


def _child(ours: list[float], bare: list[float]) -> Figure:
    added = (statistics.median(ours) - statistics.median(bare)) / MB
    return Figure(
        name="agent.launch_adds",
        value=added,
        unit="MB",
        bound=f"< {CHILD_MB:.0f} MB",
        holds=added < CHILD_MB,
        against=f"a bare script with the same model: peak {statistics.median(bare) / MB:.1f} MB",
        detail=f"ours {statistics.median(ours) / MB:.1f} MB, medians of {ROUNDS}",
    )


def _hello(session: Session) -> Figure:
    hello: list[float] = []
    imports: list[float] = []
    runtime = session.facts.runtimes[0].name
    for _ in range(ROUNDS):
        began = time.perf_counter()
        session.dialect.hello()
        hello.append(time.perf_counter() - began)
        imports.append(run([sys.executable, "-c", f"import {runtime}.interpreter"]).seconds)
    ratio = statistics.median(hello) / statistics.median(imports)
    return Figure(
        name="agent.hello",
        value=ratio,
        unit="x",
        bound=f"< {HELLO_RATIO}",
        holds=ratio < HELLO_RATIO,
        against=f"a process that imports {runtime}: {statistics.median(imports):.3f} s",
        detail=f"hello {statistics.median(hello):.3f} s, medians of {ROUNDS}",
    )

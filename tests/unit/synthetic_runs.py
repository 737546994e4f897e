"""Synthetic runs for the tests of the store and of everything that reads it."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from harness.records.store import DeviceRecord, RunRecord, RunWriter, Store, new_id
from harness.types import (
    Accept,
    Agreement,
    Cell,
    Covariates,
    Delegation,
    Device,
    DeviceFacts,
    Dose,
    Failure,
    Launch,
    Outcome,
    Runtime,
    Samples,
    Tensor,
    Variant,
    Warmup,
)

RUNTIME = "ai_edge_litert 2.3.0"


def variant(recipe: str = "int8", model: str = "kws", **changes: Any) -> Variant:
    content = f"{model}/{recipe}".encode()
    facts: dict[str, Any] = {
        "model": model,
        "recipe": recipe,
        "target": "xnnpack",
        "path": Path("/nowhere") / f"{recipe}.tflite",
        "digest": hashlib.sha256(content).hexdigest(),
        "size_bytes": 54_321,
        "size_zstd_bytes": 40_000,
        "inputs": (Tensor(name="x", shape=(-1, 49, 10, 1), dtype="int8", scale=0.5, zero_point=3),),
        "operators": {"CONV_2D": 20},
        "accuracy": 0.9,
        "accuracy_samples": 600,
        "metric": "top1",
        "agreement": Agreement(samples=64, top1=1.0, relative_error=0.01),
        "notes": ("a note",),
    }
    return Variant(**(facts | changes))


def cell(recipe: str = "int8", device: str = "pi", **changes: Any) -> Cell:
    facts: dict[str, Any] = {
        "model": "kws",
        "recipe": recipe,
        "target": "xnnpack",
        "device": device,
        "threads": 1,
        "variant": variant(recipe),
        "accept": Accept(min_delegated=1.0),
        "dose": Dose(launches=3),
        "seed": 7,
    }
    return Cell(**(facts | changes))


def samples(values: Sequence[float], series: str = "latency", count: int = 1) -> Samples:
    return Samples(
        series=series,
        at_ns=array("q", range(len(values))),
        value=array("d", values),
        count=array("q", [count] * len(values)),
    )


def launch(
    of: Cell, values: Sequence[float], block: int = 0, kind: str = "timed", **changes: Any
) -> Launch:
    delegation = Delegation(
        delegate="xnnpack", delegated_ops=5, total_ops=5, partitions=1, evidence="graph"
    )
    facts: dict[str, Any] = {
        "id": f"{of.id}-{kind}-{block}-0",
        "cell_id": of.id,
        "kind": kind,
        "block": block,
        "position": 0,
        "seed": 1,
        "runtime": RUNTIME,
        "delegation": delegation,
        "wall_ns": 900_000_000,
        "load_ns": 2_000_000,
        "first_ns": 400_000,
        "warmup": Warmup(inferences=60, seconds=0.5, steady=True),
        "inferences": len(values),
        "drift": 0.001,
        "cpu_share": 0.99,
        "before": Covariates(temperature_c=41.5, governor="performance"),
        "after": Covariates(temperature_c=43.0, governor="performance"),
        "samples": (samples(values, "latency" if kind == "timed" else "peak_rss"),),
    }
    return Launch(**(facts | changes))


def latencies(of: Cell, block: int, n: int = 100, scale: float = 1.0) -> list[float]:
    rng = np.random.default_rng([int(of.id, 16), block])
    level = 200_000 * scale * rng.lognormal(0, 0.03)
    return list(level * rng.lognormal(0, 0.02, n))


def facts(**changes: Any) -> DeviceFacts:
    known: dict[str, Any] = {
        "identity": "ab12",
        "hostname": "bench-pi",
        "system": "Linux",
        "kernel": "6.6.20",
        "machine": "aarch64",
        "chip": "BCM2712",
        "board": "Raspberry Pi 5",
        "cores": 4,
        "memory_total_bytes": 8_000_000_000,
        "libc": "glibc 2.36",
        "python": "3.11.2",
        "runtimes": (Runtime(name="ai_edge_litert", version="2.3.0", numpy="2.4.6"),),
        "agent_digest": "cd34",
        "governor": "performance",
        "temperature_c": 41.0,
        "usb": ("18d1:9302",),
    }
    return DeviceFacts(**(known | changes))


def record(cells: Sequence[Cell], **changes: Any) -> RunRecord:
    moment = datetime.now(tz=UTC)
    known: dict[str, Any] = {
        "id": new_id([item.model for item in cells[:1]], moment),
        "created": moment.isoformat(timespec="microseconds"),
        "plan": {"model": [{"name": "kws", "path": "kws.tflite"}], "run": {"recipes": ["int8"]}},
        "plan_digest": "0" * 64,
        "cells": tuple(cells),
        "devices": {
            name: DeviceRecord(
                device=Device(name=name, profile="raspberry_pi_5", address=f"ssh://pi@{name}"),
                facts=facts(),
            )
            for name in dict.fromkeys(item.device for item in cells)
        },
        "host": {"hostname": "desk", "system": "Linux", "cores": 2},
        "versions": {"edge-harness": "0.1.0", "python": "3.11"},
    }
    return RunRecord(**(known | changes))


def measure(writer: RunWriter, of: Cell, blocks: int = 3, n: int = 100, scale: float = 1.0) -> None:
    """Store a whole cell: timed launches, one memory and one bare launch, the outcome."""
    made = [launch(of, latencies(of, block, n, scale), block) for block in range(blocks)]
    made.append(launch(of, [62_000_000.0], kind="memory"))
    made.append(launch(of, [50_000_000.0], kind="bare"))
    for one in made:
        writer.launch(one)
    writer.outcome(Outcome(cell=of, launches=tuple(made)))


def as_first_version(folder: Path) -> None:
    """Rewrite a run as the first version of the format stored it: without checksums."""
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    for key in ("key", "sum"):
        record.pop(key, None)
    (folder / "run.json").write_text(json.dumps(record | {"schema": 1}), encoding="utf-8")
    for path in folder.glob("*.jsonl"):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for line in lines:
            for key in ("number", "sum", "samples_sha256", "evidence"):
                line.pop(key, None)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    for name in ("contents.json", "quantiles.json"):
        (folder / name).unlink(missing_ok=True)


def whole_run(
    root: Path, recipes: Sequence[str] = ("float32", "int8"), scale: float = 1.0, **facts: Any
) -> str:
    """Write a run: measured cells, a failed one and one that is pending; return its id."""
    good = [cell(recipe) for recipe in recipes]
    bad = cell("int16x8", variant=Failure(kind="not_built", reason="no calibration data"))
    pending = cell("float16")
    with Store(root).create(record([*good, bad, pending], **facts)) as writer:
        for one in good:
            measure(writer, one, scale=scale)
        assert isinstance(bad.variant, Failure)
        writer.outcome(Outcome(cell=bad, failure=bad.variant))
        writer.log({"event": "checked", "cell": good[0].id})
        writer.finish()
        return writer.id

"""Google Benchmark JSON: `compare.py benchmarks before.json after.json`, and other readers.

Format: https://github.com/google/benchmark/blob/main/docs/user_guide.md#output-formats. A launch is
a repetition: its median is `real_time`. `cpu_time` is that times the CPU share, and 0 if the device
does not report the share. The median over launches is the aggregate. Failed rows are left out: the
format writes their times as 0, which charts show as infinitely fast.
"""

from __future__ import annotations

from typing import Any

from harness import columns, stats
from harness.present.report.exports.entries import ExportEntry, entries, known, measure_name
from harness.present.report.plain import json_text
from harness.records.table import display
from harness.records.table.rows import Measured

SCHEMA = 1


def write(measured: Measured, *, emulated: bool, include_suspect: bool = False) -> str:
    """Write `{"context": ..., "benchmarks": [...]}`; times are nanoseconds per inference."""
    record = measured.run.record
    found = entries(measured, emulated=emulated, include_suspect=include_suspect)
    first = next((entry.facts for entry in found if entry.facts is not None), None)
    return json_text(
        {
            "context": {
                "date": record.created,
                "host_name": display.clean(first.hostname if first else "unknown"),
                "executable": "edge-harness",
                "num_cpus": first.cores if first else 0,
                "mhz_per_cpu": 0,
                "cpu_scaling_enabled": False,
                "caches": [],
                "load_avg": [],
                "library_build_type": "release",
                "json_schema_version": SCHEMA,
                "edge_harness_run": record.id,
            },
            "benchmarks": [
                benchmark
                for family, entry in enumerate(found)
                for benchmark in _benchmarks(entry, family)
            ],
        }
    )


def _benchmarks(entry: ExportEntry, family: int) -> list[dict[str, Any]]:
    common = {
        "family_index": family,
        "per_family_instance_index": 0,
        "run_name": entry.name,
        "repetitions": len(entry.launches),
        "threads": entry.row["threads"],
    }
    times = [
        (quantiles.p50, quantiles.p50 * (launch.cpu_share or 0.0))
        for launch, quantiles in entry.launches
    ]
    repetitions = [
        {
            "name": entry.name,
            **common,
            "run_type": "iteration",
            "repetition_index": index,
            "iterations": max(1, launch.inferences),
            "real_time": real,
            "cpu_time": processor,
            "time_unit": "ns",
        }
        for index, ((launch, _), (real, processor)) in enumerate(
            zip(entry.launches, times, strict=True)
        )
    ]
    aggregate = {
        "name": f"{entry.name}_median",
        **common,
        "run_type": "aggregate",
        "aggregate_name": "median",
        "aggregate_unit": "time",
        "iterations": len(entry.launches),
        "real_time": stats.median([real for real, _ in times]),
        "cpu_time": stats.median([processor for _, processor in times]),
        "time_unit": "ns",
        **known(
            {
                measure_name(entry.row, name, column): entry.row[column.name]
                for name, column in columns.exported("gbench")
            }
        ),
    }
    return [*repetitions, aggregate]

"""Bencher Metric Format: `bencher run --adapter json --file bmf.json`.

Format: https://bencher.dev/docs/reference/bencher-metric-format. Bencher's own measures keep its
units: latency in nanoseconds, file-size in bytes; ours are in the base units of the records.
"""

from __future__ import annotations

from typing import Any

from harness.present.report.exports.entries import entries, known
from harness.present.report.plain import json_text
from harness.records.table import Row
from harness.records.table.rows import Measured

_NS_PER_MS = 1e6
_BYTES_PER_MB = 1e6

_MEASURES = (
    ("latency-p90", "latency_p90_ms", _NS_PER_MS),
    ("latency-p99", "latency_p99_ms", _NS_PER_MS),
    ("load-time", "load_ms", _NS_PER_MS),
    ("first-inference", "first_ms", _NS_PER_MS),
    ("peak-memory", "peak_rss_mb", _BYTES_PER_MB),
    ("model-memory", "model_memory_mb", _BYTES_PER_MB),
    ("file-size", "size_bytes", 1),
    ("accuracy", "accuracy", 1),
    ("throughput", "throughput_per_s", 1),
)
"""Measure's slug (at most 64 characters), our column, what makes it the base unit."""


def write(measured: Measured, *, emulated: bool) -> str:
    """Write `{name: {measure: {value, lower_value, upper_value}}}`."""
    return json_text(
        {entry.name: _measures(entry.row) for entry in entries(measured, emulated=emulated)}
    )


def _measures(row: Row) -> dict[str, Any]:
    low, high = row["latency_p50_low_ms"], row["latency_p50_high_ms"]
    latency = {
        "value": row["latency_p50_ms"] * _NS_PER_MS,
        "lower_value": None if low is None else low * _NS_PER_MS,
        "upper_value": None if high is None else high * _NS_PER_MS,
    }
    others = {
        slug: {"value": row[column] * scale}
        for slug, column, scale in _MEASURES
        if row[column] is not None
    }
    return {"latency": known(latency), **others}

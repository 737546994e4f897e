"""github-action-benchmark's `customSmallerIsBetter`: an array of name, unit, value, range, extra.

Format: https://github.com/benchmark-action/github-action-benchmark. A chart and an alarm for each
entry, so only what is better smaller and steady enough to alarm by is an entry; the rest is `extra`.
"""

from __future__ import annotations

from typing import Any

from harness.present.report.exports.entries import ExportEntry, details, entries, known
from harness.present.report.plain import json_text
from harness.records.table import display
from harness.records.table.rows import Measured

_CHARTS = (
    ("latency p50", "latency_p50_ms", "ms"),
    ("load", "load_ms", "ms"),
    ("peak memory", "peak_rss_mb", "MB"),
    ("size", "size_bytes", "bytes"),
)
"""Title, our column, unit."""

# The action writes names between backticks in a table of the comment it makes.
_HARMLESS = str.maketrans({"`": "'", "|": "\N{BROKEN BAR}"})


def write(measured: Measured, *, emulated: bool) -> str:
    """Write the array; `range` is half of the 95 % interval, where the row has one."""
    return json_text(
        [chart for entry in entries(measured, emulated=emulated) for chart in _charts(entry)]
    )


def _charts(entry: ExportEntry) -> list[dict[str, Any]]:
    row = entry.row
    return [
        known(
            {
                "name": f"{entry.name} {title}".translate(_HARMLESS),
                "unit": unit,
                "value": row[column],
                "range": _range(entry) if column == "latency_p50_ms" else None,
                "extra": f"{details(row)}\nlaunches: {row['launches']}\nrun: {row['run']}",
            }
        )
        for title, column, unit in _CHARTS
        if row[column] is not None
    ]


def _range(entry: ExportEntry) -> str | None:
    low, high = entry.row["latency_p50_low_ms"], entry.row["latency_p50_high_ms"]
    return None if low is None or high is None else f"± {display.milliseconds((high - low) / 2)}"

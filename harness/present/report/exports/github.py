"""github-action-benchmark's `customSmallerIsBetter`: an array of name, unit, value, range, extra.

Format: https://github.com/benchmark-action/github-action-benchmark. Each entry gets a chart and an
alert, so only values that are better if smaller and stable enough are entries; the rest is `extra`.
"""

from __future__ import annotations

from typing import Any

from harness import columns
from harness.present.report.exports.entries import (
    ExportEntry,
    details,
    entries,
    known,
    measure_name,
)
from harness.present.report.plain import json_text
from harness.records.table import display
from harness.records.table.rows import Measured

# The action writes names between backticks in a table of its comment.
_HARMLESS = str.maketrans({"`": "'", "|": "\N{BROKEN BAR}"})


def write(measured: Measured, *, emulated: bool, include_suspect: bool = False) -> str:
    """Write the array; `range` is the ± of the table, if the row has an interval."""
    return json_text(
        [
            chart
            for entry in entries(measured, emulated=emulated, include_suspect=include_suspect)
            for chart in _charts(entry)
        ]
    )


def _charts(entry: ExportEntry) -> list[dict[str, Any]]:
    row = entry.row
    return [
        known(
            {
                "name": f"{entry.name} {measure_name(row, title, column)}".translate(_HARMLESS),
                "unit": column.unit or measure_name(row, title, column),
                "value": row[column.name],
                "range": display.half_width(row, column) or None if column.low else None,
                "extra": f"{details(row)}\nlaunches: {row['launches']}\nrun: {row['run']}",
            }
        )
        for title, column in columns.exported("github")
        if row[column.name] is not None and row.better(column.name) == "lower"
    ]

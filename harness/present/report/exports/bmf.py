"""Bencher Metric Format: `bencher run --adapter json --file bmf.json`.

Format: https://bencher.dev/docs/reference/bencher-metric-format. Bencher's own measures have its
units: latency in nanoseconds, file-size in bytes; ours have the base units of the records. An error
is a separate measure (`mse`), because Bencher's `accuracy` is better if higher.
"""

from __future__ import annotations

from typing import Any

from harness import columns
from harness.columns import Column
from harness.present.report.exports.entries import entries, known, measure_name
from harness.present.report.plain import json_text
from harness.records.table import Row
from harness.records.table.rows import Measured


def write(measured: Measured, *, emulated: bool, include_suspect: bool = False) -> str:
    """Write `{name: {measure: {value, lower_value, upper_value}}}`."""
    return json_text(
        {
            entry.name: _measures(entry.row)
            for entry in entries(measured, emulated=emulated, include_suspect=include_suspect)
        }
    )


def _measures(row: Row) -> dict[str, Any]:
    return {
        measure_name(row, name, column): _measure(row, column)
        for name, column in columns.exported("bmf")
        if row[column.name] is not None
    }


def _measure(row: Row, column: Column) -> dict[str, Any]:
    def based(name: str | None) -> float | None:
        value = row[name] if name else None
        if value is None:
            return None
        scaled = float(value) * column.scale
        return round(scaled) if column.base_unit == "B" else scaled

    return known(
        {
            "value": based(column.name),
            "lower_value": based(column.low),
            "upper_value": based(column.high),
        }
    )

"""Rows from records: every column of harness.columns, computed when it is read.

In a row that failed or is not measured yet, the measurements are null, never zero. The accuracy is
there if it is why the row failed.
"""

from __future__ import annotations

from harness import columns, decoding
from harness.records.store import StoredRun
from harness.records.table.measured import Measured, read
from harness.records.table.row import DAMAGED, MEASURED, PENDING, Row
from harness.records.table.sources import SOURCES, CellReading
from harness.types import Cell

__all__ = [
    "COLUMNS",
    "DAMAGED",
    "MEASURED",
    "PENDING",
    "Measured",
    "Row",
    "read",
    "rows",
    "rows_of",
]

COLUMNS = columns.names()
"""The columns of every row, in order; units are in the names, MB is 10^6 bytes."""


def rows(run: StoredRun) -> list[Row]:
    """Return one row per cell of the run, in the plan's order, with exactly COLUMNS."""
    return rows_of(read(run))


def rows_of(measured: Measured) -> list[Row]:
    """Return the rows of a run that is read already."""
    with decoding.many_objects():
        return [_row(measured, cell) for cell in measured.run.record.cells]


def _row(measured: Measured, cell: Cell) -> Row:
    reading = CellReading(measured, cell)
    measured_row = reading.status in MEASURED
    known = {
        "always": True,
        "answered": reading.answered,
        "measured": measured_row,
        "judged": measured_row or reading.refused_for_accuracy,
    }
    values = {
        column.name: SOURCES[column.name](reading) if known[column.known] else None
        for column in columns.ALL
    }
    variant = reading.variant
    if variant is None:
        return Row(values, continued_as=reading.continued_as)
    return Row(
        values,
        metric=variant.metric,
        metric_direction=variant.accuracy_better,
        continued_as=reading.continued_as,
    )

"""p50 of each minute of the sustained rows, which shows how a device slows down as it heats up."""

from __future__ import annotations

from collections.abc import Sequence

from harness import stats
from harness.columns import NS_PER_MS
from harness.records.table import MEASURED, Row, display
from harness.records.table.rows import Measured, rows_of


def minutes(
    measured: Measured, rows: Sequence[Row] | None = None
) -> list[tuple[Row, tuple[float, ...]]]:
    """Return each measured sustained row with the p50 of its minutes, ms, oldest first.

    Pass `rows` if they are computed already.

    Each value is the median over the launches. The minutes end with the shortest launch.
    """
    found = []
    known = measured.quantiles.minutes
    if not known:
        return []
    shown = rows_of(measured) if rows is None else rows
    for cell, row in zip(measured.run.record.cells, shown, strict=True):
        outcome = measured.outcomes.get(cell.id)
        launches = [known[one.id] for one in outcome.launches if one.id in known] if outcome else []
        if row["status"] in MEASURED and launches:
            columns = zip(*launches, strict=False)
            found.append((row, tuple(stats.median(one) / NS_PER_MS for one in columns)))
    return found


def lines(measured: Measured, rows: Sequence[Row] | None = None) -> list[str]:
    """Format the minutes, one line per row; pass `rows` if they are computed already."""
    return [
        f"{display.name(row)}: p50 of each minute, ms: {' '.join(map(display.milliseconds, found))}"
        for row, found in minutes(measured, rows)
    ]

"""Compare runs: ratios of medians with intervals, as data.

Runs from different times include the drift between those times, so a comparison gives an overview
only. A verdict needs A and B interleaved, as in a gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness import stats
from harness.errors import StoreError
from harness.records.store import StoredRun
from harness.records.table.rows import Measured, Row, read, rows_of

KEY = ("model", "recipe", "target", "device", "threads")
"""The columns that identify a row in every run; rows with the same values are compared."""

SHOWN = ("status", "runtime", "latency_p50_ms", "peak_rss_mb", "size_bytes", "accuracy")
RATIO = ("ratio", "ratio_low", "ratio_high", "difference")
COMPARED = (*KEY, "run", *SHOWN, *RATIO)
"""Columns of a comparison. `ratio` is `latency_p50_ms` over that of the first run (1.05 is 5 %
slower), low and high its 95 % interval. `difference` is `below noise`,
`faster`, `slower`, or null if there is no interval. Rows of different scenarios are not comparable:
they have no ratio, and `difference` is `unlike`."""

MISSING = "absent"
"""The status of a row that a run does not have."""

Key = tuple[str, str, str, str, int]


def compare(runs: Sequence[StoredRun]) -> list[Row]:
    """Return the rows of all runs grouped by KEY: for each key, one row per run.

    The first run is the reference and has no ratio. The interval is unpaired
    (:func:`stats.ratio_interval`). If it includes 1, the difference is `below noise`. Rows of different runtimes are compared too, and show their runtimes. Raises StoreError for no runs.
    """
    return compare_measured([read(run) for run in runs])


def compare_measured(measured: Sequence[Measured]) -> list[Row]:
    """Compare runs that are read already; see :func:`compare`."""
    if not measured:
        raise StoreError("compare needs at least one run")
    tables = [_by_key(one) for one in measured]
    keys = dict.fromkeys(key for table in tables for key in table)
    return [
        _row(measured, tables, key, position) for key in keys for position in range(len(measured))
    ]


def _by_key(measured: Measured) -> dict[Key, tuple[str, Row]]:
    """Return the cell's id and the row for each key."""
    cells = measured.run.record.cells
    return {
        (cell.model, cell.recipe, cell.target, cell.device, cell.threads): (cell.id, row)
        for cell, row in zip(cells, rows_of(measured), strict=True)
    }


def _row(
    measured: Sequence[Measured],
    tables: Sequence[dict[Key, tuple[str, Row]]],
    key: Key,
    position: int,
) -> Row:
    values: dict[str, Any] = dict.fromkeys(COMPARED)
    values |= dict(zip(KEY, key, strict=True))
    values["run"] = measured[position].run.id
    if key not in tables[position]:
        return Row(values | {"status": MISSING})
    cell_id, mine = tables[position][key]
    values |= {name: mine[name] for name in SHOWN}
    reference = tables[0].get(key)
    if position > 0 and reference and reference[1]["scenario"] != mine["scenario"]:
        values["difference"] = "unlike"
    elif position > 0 and reference:
        before = measured[0].medians(reference[0])
        values |= _ratio(before, measured[position].medians(cell_id))
    return Row(values)


def _ratio(before: list[float], after: list[float]) -> dict[str, Any]:
    if not before or not after or min(*before, *after) <= 0:
        return {}
    interval = stats.ratio_interval(before, after)
    if interval is None:
        return {"ratio": stats.median(after) / stats.median(before)}
    difference = "below noise"
    if interval.low > 1:
        difference = "slower"
    elif interval.high < 1:
        difference = "faster"
    return {
        "ratio": interval.estimate,
        "ratio_low": interval.low,
        "ratio_high": interval.high,
        "difference": difference,
    }

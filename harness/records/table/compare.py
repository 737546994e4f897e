"""Compare runs: ratios of medians with intervals, as data.

Runs from different times include the drift between those times, so a comparison gives an overview
only. A verdict needs A and B interleaved, as in a gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness import columns, stats
from harness.errors import StoreError
from harness.records.store import StoredRun
from harness.records.table import trust
from harness.records.table.rows import Measured, Row, read, rows_of

KEY = ("model", "recipe", "target", "device", "threads")
"""The columns that identify a row in every run; rows with the same values are compared."""

SHOWN = ("status", "runtime", "latency_p50_ms", "peak_rss_mb", "size_bytes", "accuracy")
RATIO = ("ratio", "ratio_low", "ratio_high", "difference")
JUDGED = ("verdict", "verdict_reason")
COMPARED = (*KEY, "run", *SHOWN, *RATIO, *JUDGED)
"""Columns of a comparison. `ratio` is `latency_p50_ms` over that of the first run (1.05 is 5 %
slower), low and high its 95 % interval. `difference` is `below noise`,
`faster`, `slower`, or null if there is no interval. Rows of different scenarios are not comparable:
they have no ratio, and `difference` is `unlike`. A row that is not VALID has no numbers, and
`difference` is `left out`, unless it is included."""

LEFT_OUT = "left out"

MISSING = "absent"
"""The status of a row that a run does not have."""

Key = tuple[str, str, str, str, int]


def compare(runs: Sequence[StoredRun], *, include_suspect: bool = False) -> list[Row]:
    """Return the rows of all runs grouped by KEY: for each key, one row per run.

    The first run is the reference and has no ratio. The interval is unpaired
    (:func:`stats.ratio_interval`). If it includes 1, the difference is `below noise`. Rows of different
    runtimes are compared too, and show their runtimes. Rows whose verdict is not VALID are left out
    unless `include_suspect`. Raises StoreError for no runs.
    """
    return compare_measured([read(run) for run in runs], include_suspect=include_suspect)


def compare_measured(measured: Sequence[Measured], *, include_suspect: bool = False) -> list[Row]:
    """Compare runs that are read already; see :func:`compare`."""
    if not measured:
        raise StoreError("compare needs at least one run")
    tables = [_by_key(one) for one in measured]
    keys = dict.fromkeys(key for table in tables for key in table)
    return [
        _row(measured, tables, key, position, include_suspect)
        for key in keys
        for position in range(len(measured))
    ]


def left_out(rows: Sequence[Row]) -> list[str]:
    """Return a line for each row of a comparison that is left out, with its reason."""
    return [
        f"left out: {row['model']} {row['recipe']} on {row['device']}, run {row['run']}: "
        f"{row['verdict']}: {row['verdict_reason']}; {trust.INCLUDE}"
        for row in rows
        if row["difference"] == LEFT_OUT
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
    include_suspect: bool,  # noqa: FBT001 - private
) -> Row:
    values: dict[str, Any] = dict.fromkeys(COMPARED)
    values |= dict(zip(KEY, key, strict=True))
    values["run"] = measured[position].run.id
    if key not in tables[position]:
        return Row(values | {"status": MISSING})
    cell_id, mine = tables[position][key]
    values |= {name: mine[name] for name in (*SHOWN, *JUDGED)}
    if _is_left_out(mine, include_suspect):
        numbers = (name for name in SHOWN if columns.get(name).kind == "number")
        return Row(values | dict.fromkeys(numbers) | {"difference": LEFT_OUT})
    reference = tables[0].get(key)
    if reference and _is_left_out(reference[1], include_suspect):
        return Row(values)
    if position > 0 and reference and reference[1]["scenario"] != mine["scenario"]:
        values["difference"] = "unlike"
    elif position > 0 and reference:
        before = measured[0].medians(reference[0])
        values |= _ratio(before, measured[position].medians(cell_id))
    return Row(values)


def _is_left_out(row: Row, include_suspect: bool) -> bool:  # noqa: FBT001 - private
    """Return whether a row is not compared. This flag includes partial rows, which are INVALID, too."""
    return not include_suspect and trust.doubt(row) is not None


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

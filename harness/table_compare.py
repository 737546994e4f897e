"""Runs side by side: ratios of medians with intervals, as data.

Runs that were made at different times carry the drift between those times, so this is for a look;
a verdict needs A and B interleaved, which is a gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness import stats
from harness.errors import StoreError
from harness.store import StoredRun
from harness.table import Measured, Row, read, rows_of

Key = tuple[str, str, str, str, int]
KEY = ("model", "recipe", "target", "device", "threads")


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One run's part of a compared row; nulls where the run has no such row or no number."""

    run: str
    status: str | None = None
    runtime: str | None = None
    latency_p50_ms: float | None = None
    size_bytes: int | None = None
    accuracy: float | None = None
    peak_rss_mb: float | None = None
    ratio: float | None = None
    """Geometric mean of launch medians over the first run's; 1.05 is 5 % slower."""
    ratio_low: float | None = None
    ratio_high: float | None = None
    word: str | None = None
    """`below noise`, `faster`, `slower`; null where there is no interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A row of the comparison: the key, and a side for each run in the order they were given."""

    model: str
    recipe: str
    target: str
    device: str
    threads: int
    sides: tuple[Side, ...]

    def plain(self) -> dict[str, Any]:
        """Return the JSON form: the key's columns and `runs`, a list of sides."""
        plain = asdict(self)
        plain["runs"] = list(plain.pop("sides"))
        return plain


def compare(runs: Sequence[StoredRun]) -> list[Compared]:
    """Put the rows of runs with the same model, recipe, target, device and threads side by side.

    The first run is the reference. The interval is unpaired (:func:`stats.ratio_interval`); where
    it includes 1 the difference is `below noise`. Different runtimes are compared and shown beside
    the numbers, since that may be the question. Raises StoreError under one run.
    """
    if not runs:
        raise StoreError("compare needs at least one run")
    measured = [read(run) for run in runs]
    tables = [_by_key(one) for one in measured]
    keys = dict.fromkeys(key for table in tables for key in table)
    return [
        Compared(
            model=key[0],
            recipe=key[1],
            target=key[2],
            device=key[3],
            threads=key[4],
            sides=tuple(
                _side(one, table.get(key), tables[0].get(key), measured[0])
                for one, table in zip(measured, tables, strict=True)
            ),
        )
        for key in keys
    ]


def _by_key(measured: Measured) -> dict[Key, tuple[str, Row]]:
    """Return each row with its cell's id, by what makes two rows the same question."""
    cells = measured.run.record.cells
    return {
        (cell.model, cell.recipe, cell.target, cell.device, cell.threads): (cell.id, row)
        for cell, row in zip(cells, rows_of(measured), strict=True)
    }


def _side(
    measured: Measured,
    mine: tuple[str, Row] | None,
    reference: tuple[str, Row] | None,
    first: Measured,
) -> Side:
    if mine is None:
        return Side(run=measured.run.id)
    cell_id, row = mine
    shared = ("status", "runtime", "latency_p50_ms", "size_bytes", "accuracy", "peak_rss_mb")
    facts: dict[str, Any] = {name: row[name] for name in shared}
    if measured is not first and reference is not None:
        facts |= _ratio(first.medians(reference[0]), measured.medians(cell_id))
    return Side(run=measured.run.id, **facts)


def _ratio(before: list[float], after: list[float]) -> dict[str, Any]:
    if not before or not after or min(*before, *after) <= 0:
        return {}
    interval = stats.ratio_interval(before, after)
    if interval is None:
        return {"ratio": stats.median(after) / stats.median(before)}
    word = "below noise"
    if interval.low > 1:
        word = "slower"
    elif interval.high < 1:
        word = "faster"
    return {
        "ratio": interval.estimate,
        "ratio_low": interval.low,
        "ratio_high": interval.high,
        "word": word,
    }

"""Choose in a stored run: its rows, its launches, and its plan's limits for partial rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.analysis.pick.choosing import Key, Pick, choose, key_of
from harness.errors import ConfigError
from harness.records.table.rows import Measured, rows_of
from harness.records.table.sources import PER_LAUNCH, CellReading


def choose_of(
    measured: Measured,
    *,
    minimize: str | None = None,
    maximize: str | None = None,
    where: Sequence[str] = (),
    emulated: bool = False,
    include_suspect: bool = False,
    anyway: bool = False,
    min_delegated: float | None = None,
    seed: int = 0,
) -> Pick:
    """Choose among the rows of a run, with the noise of its launches; see :func:`choose`.

    A `partial` row qualifies if its share of operators on the accelerator reaches `min_delegated`,
    by default the plan's.
    """
    rows = rows_of(measured)
    return choose(
        rows,
        launches_of(measured, minimize or maximize or ""),
        minimize=minimize,
        maximize=maximize,
        where=where,
        emulated=emulated,
        include_suspect=include_suspect,
        anyway=anyway,
        partial=enough_delegated(measured, rows, min_delegated),
        seed=seed,
    )


def launches_of(measured: Measured, column: str) -> dict[Key, list[float]]:
    """Return the value of a column per launch of each row, in its base unit (ns, bytes).

    Empty for a column that has no value per launch (pooled percentiles, sizes).
    """
    source = PER_LAUNCH.get(column)
    if source is None:
        return {}
    found: dict[Key, list[float]] = {}
    for cell in measured.run.record.cells:
        values = [value for value in source(CellReading(measured, cell)) if value is not None]
        if values and min(values) > 0:
            found[cell.model, cell.recipe, cell.target, cell.device, cell.threads] = values
    return found


def enough_delegated(
    measured: Measured, rows: Sequence[Mapping[str, Any]], minimum: float | None = None
) -> set[Key]:
    """Return the keys of partial rows with a delegated share of `minimum`, by default the plan's.

    Raises ConfigError unless 0 <= minimum <= 1.
    """
    if minimum is not None and not 0 <= minimum <= 1:
        raise ConfigError(f"--min-delegated {minimum:g} is not a share: give a number from 0 to 1")
    allowed = set()
    for row, cell in zip(rows, measured.run.record.cells, strict=True):
        limit = cell.accept.min_delegated if minimum is None else minimum
        done, total = row["delegated_ops"], row["total_ops"]
        # The share of a compiled file is unknown without the compiler's log.
        share = done / total if done is not None and total else 0.0
        if row["status"] == "partial" and limit is not None and share >= limit:
            allowed.add(key_of(row))
    return allowed

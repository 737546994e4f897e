"""A stored run to a choice: its rows, its launches, what its plan allows."""

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
    anyway: bool = False,
    min_delegated: float | None = None,
    seed: int = 0,
) -> Pick:
    """Choose among the rows of a run, with the noise its launches show; see :func:`choose`.

    A `partial` row is in the choice where the share of operators on the accelerator reaches the
    plan's `min_delegated`, or the one given here in its place.
    """
    rows = rows_of(measured)
    return choose(
        rows,
        launches_of(measured, minimize or maximize or ""),
        minimize=minimize,
        maximize=maximize,
        where=where,
        emulated=emulated,
        anyway=anyway,
        partial=enough_delegated(measured, rows, min_delegated),
        seed=seed,
    )


def launches_of(measured: Measured, column: str) -> dict[Key, list[float]]:
    """Return what the launches of each row say of a column, in its base unit (ns, bytes).

    Empty for a column that no single launch has a number for (pooled percentiles, sizes).
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
    measured: Measured, rows: Sequence[Mapping[str, Any]], least: float | None = None
) -> set[Key]:
    """Return the keys of partial rows whose delegated share reaches `least`, else their plan's.

    Raises ConfigError unless 0 <= least <= 1.
    """
    if least is not None and not 0 <= least <= 1:
        raise ConfigError(f"min_delegated {least:g} is not a share: give a number from 0 to 1")
    allowed = set()
    for row, cell in zip(rows, measured.run.record.cells, strict=True):
        limit = cell.accept.min_delegated if least is None else least
        done, total = row["delegated_ops"], row["total_ops"]
        # Without a compiler's log the share of a compiled file is not known.
        known = done / total if done is not None and total else 0.0
        if row["status"] == "partial" and limit is not None and known >= limit:
            allowed.add(key_of(row))
    return allowed

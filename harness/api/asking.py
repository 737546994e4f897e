"""Questions that lead to a decision, asked of stored runs: pick."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness import pick as picking
from harness.api.stored import open_run
from harness.table.rows import read


def pick(
    selector: str,
    *,
    minimize: str,
    where: Sequence[str] = (),
    emulated: bool = False,
    min_delegated: float | None = None,
    results: Path | None = None,
) -> picking.Pick:
    """Return the row of a stored run with the least `minimize` that meets every constraint.

    `where` has texts like "accuracy>=0.85". Rows delegated in part are in where their share
    reaches `min_delegated` (default: the plan's), emulated ones where `emulated` says so. Raises
    ConfigError for a column or a constraint that cannot be, StoreError for the run.
    """
    return picking.choose_of(
        read(open_run(selector, results=results)),
        minimize=minimize,
        where=where,
        emulated=emulated,
        min_delegated=min_delegated,
    )

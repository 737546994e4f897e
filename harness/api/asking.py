"""Questions that lead to a decision, asked of stored runs: pick; and the run for those who decide: export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.api.stored import open_run

if TYPE_CHECKING:
    from harness.analysis import pick as picking


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
    from harness.analysis import pick as picking
    from harness.records.table.rows import read

    return picking.choose_of(
        read(open_run(selector, results=results)),
        minimize=minimize,
        where=where,
        emulated=emulated,
        min_delegated=min_delegated,
    )


def export(
    selector: str,
    form: str,
    output: Path | None = None,
    *,
    emulated: bool = False,
    results: Path | None = None,
) -> str:
    """Return a stored run in another tool's format, and write it to `output` where one is given.

    `form` is one of `harness.present.report.exports.FORMATS`. Raises ConfigError for another one or a file
    that cannot be written, StoreError for the run, or where the format needs a measured row and
    the run has none.
    """
    from harness.present.report import exports
    from harness.records.table.rows import read

    text = exports.write(read(open_run(selector, results=results)), form, emulated=emulated)
    if output is not None:
        exports.save(text, output)
    return text

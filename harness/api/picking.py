"""Pick the best row of a stored run, and export a run to other tools."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import arguments
from harness.api.arguments import AnyPath, Several
from harness.api.stored import OnRead, ignore_read, read_run

if TYPE_CHECKING:
    from harness.analysis import pick as picking


def pick(
    selector: str,
    *,
    minimize: str | None = None,
    maximize: str | None = None,
    where: Several[str] = (),
    emulated: bool = False,
    include_suspect: bool = False,
    anyway: bool = False,
    min_delegated: float | None = None,
    results: AnyPath | None = None,
    on_read: OnRead = ignore_read,
) -> picking.Pick:
    """Return the row of a stored run that is best in a column under constraints.

    Give either `minimize` or `maximize`. It must be the column's better direction (for accuracy,
    the metric's) unless `anyway` is true.

    `where` has texts like "accuracy>=0.85". A partly delegated row can be picked if its share
    reaches `min_delegated` (default: the plan's), an emulated row if `emulated` is true, a row whose
    verdict is SUSPECT if `include_suspect` is true. Raises ConfigError for an invalid column or
    constraint, StoreError for the run.
    """
    from harness.analysis import pick as picking

    return picking.choose_of(
        read_run(selector, results=results, on_read=on_read),
        minimize=minimize,
        maximize=maximize,
        where=arguments.texts(where),
        emulated=emulated,
        include_suspect=include_suspect,
        anyway=anyway,
        min_delegated=min_delegated,
    )


def export(
    selector: str,
    form: str,
    output: AnyPath | None = None,
    *,
    emulated: bool = False,
    include_suspect: bool = False,
    results: AnyPath | None = None,
    on_read: OnRead = ignore_read,
) -> str:
    """Return a stored run in another tool's format, and write it to `output` if given.

    Rows of emulators, and rows whose verdict is SUSPECT, are left out of formats for trends unless
    `emulated` and `include_suspect`.
    `form` is one of `harness.present.report.exports.FORMATS`. Raises ConfigError for an unknown
    format or a file that cannot be written, StoreError for the run, or if the format needs a
    measured row and the run has none.
    """
    from harness.present.report import exports

    measured = read_run(selector, results=results, on_read=on_read)
    text = exports.write(measured, form, emulated=emulated, include_suspect=include_suspect)
    if output is not None:
        exports.save(text, arguments.path(output))
    return text

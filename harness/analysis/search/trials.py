"""One trial: build a recipe, check the constraints, measure if it can still be a result."""

from __future__ import annotations

import time
from contextlib import ExitStack, nullcontext
from dataclasses import replace

from harness.analysis.search import columns
from harness.analysis.search.folder import MEASURING, Folder
from harness.analysis.search.records import Job, TrialResult
from harness.analysis.search.space import key_of
from harness.records.table import trust
from harness.types import Failure, Recipe

_MEASURED = ("ok", "partial")


def attempt(job: Job, recipe: Recipe, number: int) -> tuple[TrialResult, bool]:
    """Return the result of a recipe, and whether it was known before; each recipe is tried once.

    Another process that draws the same recipe waits for this one and reads its result.
    """
    folder, key = Folder(path=job.folder), key_of(recipe)
    with folder.locked(key), ExitStack() as held:
        known = folder.trial(key)
        if known is not None:
            return known, True
        started = time.monotonic()
        blank = TrialResult(number=number, key=key, recipe=recipe.name, status="failed")
        result = replace(
            _built(job, folder, recipe, blank, held), seconds=time.monotonic() - started
        )
        folder.keep(result)
    return result, False


def _built(
    job: Job, folder: Folder, recipe: Recipe, blank: TrialResult, held: ExitStack
) -> TrialResult:
    """Return the result of a trial; `held` keeps the lock of the device until it is stored.

    Another process then finds the measurement of a file that it built as well.
    """
    with folder.locked(MEASURING, shared=True) if job.alone else nullcontext():
        built = job.runner.build(recipe)
    if isinstance(built, Failure):
        return replace(blank, reason=f"{built.kind}: {built.reason}")
    values = columns.host_values(built)
    result = replace(blank, values=values, digest=built.digest, target=built.target)
    unknown = sorted(columns.host_columns(job.search) - set(values))
    if unknown:
        return replace(result, reason=f"{', '.join(unknown)}: not known on this host")
    broken = columns.misses(job.search, values)
    if broken:
        return replace(result, status="pruned", misses=broken, reason=_reason(broken))
    if not columns.device_columns(job.search):
        return replace(result, status="ok")
    held.enter_context(folder.locked(MEASURING))
    return _measured(job, folder, recipe, result)


def _measured(job: Job, folder: Folder, recipe: Recipe, result: TrialResult) -> TrialResult:
    same = next((t for t in folder.trials() if t.is_trusted and t.subject == result.subject), None)
    if same is not None:
        found, run, doubt = dict(same.values), same.run, None
    else:
        row = job.runner.measure(recipe)
        run = row["run"]
        if row["status"] not in _MEASURED:
            return replace(result, run=run, reason=f"{row['status']}: {row['reason']}")
        found, doubt = columns.device_values(row), trust.doubt(row)
    values = {**found, **result.values}
    unknown = sorted(columns.device_columns(job.search) - set(values))
    if unknown:
        return replace(
            result,
            run=run,
            values=values,
            reason=f"{', '.join(unknown)}: the device did not report it",
        )
    broken = columns.misses(job.search, values)
    return replace(
        result,
        status="misses" if broken else "ok",
        run=run,
        values=values,
        misses=broken,
        reason=_reason(broken) or doubt,
        doubt=doubt,
    )


def _reason(broken: tuple[columns.Miss, ...]) -> str:
    return "; ".join(miss.text() for miss in broken)

"""One trial: a recipe built, held against the constraints, measured only where that is of use."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import replace

from harness.analysis.search import columns
from harness.analysis.search.folder import MEASURING, Folder
from harness.analysis.search.records import Job, Tried
from harness.analysis.search.space import key_of
from harness.types import Failure, Recipe

_MEASURED = ("ok", "partial")


def attempt(job: Job, recipe: Recipe, number: int) -> tuple[Tried, bool]:
    """Try a recipe once, whoever draws it how often; says whether it was known already.

    Another process that has drawn the same recipe waits for this one and reads what it found.
    """
    folder, key = Folder(path=job.folder), key_of(recipe)
    with folder.locked(key):
        known = folder.trial(key)
        if known is not None:
            return known, True
        started = time.monotonic()
        blank = Tried(number=number, key=key, recipe=recipe.name, status="failed")
        tried = replace(_try(job, folder, recipe, blank), seconds=time.monotonic() - started)
        folder.keep(tried)
    return tried, False


def _try(job: Job, folder: Folder, recipe: Recipe, blank: Tried) -> Tried:
    with folder.locked(MEASURING, shared=True) if job.alone else nullcontext():
        built = job.workshop.build(recipe)
    if isinstance(built, Failure):
        return replace(blank, reason=f"{built.kind}: {built.reason}")
    values = columns.of_variant(built)
    tried = replace(blank, values=values, digest=built.digest)
    unknown = sorted(columns.of_host(job.search) - set(values))
    if unknown:
        return replace(tried, reason=f"{', '.join(unknown)}: not known on this host")
    broken = columns.misses(job.search, values)
    if broken:
        return replace(tried, status="pruned", misses=broken, reason=_said(broken))
    if not columns.of_device(job.search):
        return replace(tried, status="ok")
    with folder.locked(MEASURING):
        return _measured(job, folder, recipe, tried)


def _measured(job: Job, folder: Folder, recipe: Recipe, tried: Tried) -> Tried:
    same = next((t for t in folder.trials() if t.digest == tried.digest and t.run), None)
    if same is not None:
        found, run = dict(same.values), same.run
    else:
        row = job.workshop.measure(recipe)
        run = row["run"]
        if row["status"] not in _MEASURED:
            return replace(tried, run=run, reason=f"{row['status']}: {row['reason']}")
        found = columns.of_row(row)
    values = {**found, **tried.values}
    unknown = sorted(columns.of_device(job.search) - set(values))
    if unknown:
        return replace(
            tried, run=run, values=values, reason=f"{', '.join(unknown)}: the device did not say"
        )
    broken = columns.misses(job.search, values)
    return replace(
        tried,
        status="misses" if broken else "ok",
        run=run,
        values=values,
        misses=broken,
        reason=_said(broken) or None,
    )


def _said(broken: tuple[columns.Miss, ...]) -> str:
    return "; ".join(miss.text() for miss in broken)

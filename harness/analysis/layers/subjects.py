"""The subjects of stored runs: choose the measured files, and pair those of two runs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from harness import stats
from harness.analysis.layers.operators import Subject
from harness.errors import ConfigError, StoreError
from harness.records.store import StoredRun, continuing
from harness.records.table.rows import Measured, read
from harness.types import Cell, Variant


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFilter:
    """Chooses rows of a run; an empty field takes all."""

    models: Sequence[str] = ()
    recipes: Sequence[str] = ()
    devices: Sequence[str] = ()
    threads: int | None = None

    def takes(self, cell: Cell) -> bool:
        """Return whether the filter takes a cell."""
        return (
            (not self.models or cell.model in self.models)
            and (not self.recipes or cell.recipe in self.recipes)
            and (not self.devices or cell.device in self.devices)
            and self.threads in {None, cell.threads}
        )


def of_run(run: StoredRun, only: RowFilter) -> list[Subject]:
    """Return the measured rows of a run that the filter takes, in the run's order.

    Raises ConfigError, with the run's recipes, if there is none; StoreError for a lost file.
    """
    measured = read(run)
    found = []
    for cell in run.record.cells:
        if cell.id in measured.damage.cells and only.takes(cell):
            raise StoreError(
                f"run {run.id} is damaged: {measured.damage.cells[cell.id]}; restore it from a copy"
            )
        medians = measured.medians(cell.id)
        if medians and only.takes(cell):
            found.append(_subject(measured, cell, medians))
    missing = set(only.recipes) - {subject.recipe for subject in found}
    if missing or not found:
        which = f"of {', '.join(sorted(missing))}" if missing else "that fits"
        known = ", ".join(dict.fromkeys(cell.recipe for cell in run.record.cells))
        raise ConfigError(
            f"run {run.id} has no measured row {which} (its recipes: {known}; "
            f"`{_show(run)}` lists the rows)"
        )
    return found


def _show(run: StoredRun) -> str:
    options = continuing.results_option(run.path.parent)
    return shlex.join(
        ["edge-harness", "show", run.id, *(x for one in options.items() for x in one)]
    )


def _subject(measured: Measured, cell: Cell, medians: Sequence[float]) -> Subject:
    run = measured.run
    assert isinstance(cell.variant, Variant)
    single = cell.dose.scenario == "single"
    path = run.kept_file(cell.variant.digest)
    return Subject(
        run=run.id,
        model=cell.model,
        recipe=cell.recipe,
        target=cell.target,
        device=cell.device,
        threads=cell.threads,
        path=path,
        digest=cell.variant.digest,
        # Another scenario's p50 includes waiting or heat, which the operators' sum does not have.
        stored_p50_ns=stats.median(medians) if single else None,
    )


def pairs(shares: Sequence[Sequence[Subject]]) -> list[tuple[int, int]]:
    """Return the pairs of subjects to compare, as positions in the list of all subjects.

    Two runs: the rows that both have, or the only row of each. One run: its rows if there are two,
    or the two rows of a model, device and number of threads.

    Raises ConfigError if two runs have no rows to compare.
    """
    if len(shares) == 1:
        return _pairs_of_one_run(shares[0])
    first, second = shares
    start = len(first)
    positions = {subject.key: start + i for i, subject in enumerate(second)}
    found = [
        (i, positions[subject.key]) for i, subject in enumerate(first) if subject.key in positions
    ]
    if found:
        return found
    if len(first) == len(second) == 1:
        return [(0, 1)]
    raise ConfigError(
        f"{first[0].run} and {second[0].run} have no row of the same model, recipe, device and "
        "threads; choose one of each with --model, --recipe, --device, --threads"
    )


def _pairs_of_one_run(share: Sequence[Subject]) -> list[tuple[int, int]]:
    if len(share) == 2:  # noqa: PLR2004
        return [(0, 1)]
    groups: dict[tuple[str, str, int], list[int]] = {}
    for position, one in enumerate(share):
        groups.setdefault((one.model, one.device, one.threads), []).append(position)
    return [(group[0], group[1]) for group in groups.values() if len(group) == 2]  # noqa: PLR2004

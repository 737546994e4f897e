"""Resume a stored run: which of its cells to measure, with which files, and the command that does it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from harness import assets
from harness.config import farm as farms
from harness.errors import ConfigError, StoreError
from harness.measure import continuity, prepare
from harness.optimize import cache
from harness.records import store
from harness.records.store import continuing, kept
from harness.types import Cell, Failure, Plan, Variant


def variants_of(cells: Iterable[Cell]) -> list[Variant]:
    """Return the variants of the cells that were built."""
    return [cell.variant for cell in cells if isinstance(cell.variant, Variant)]


def model_digests(decided: prepare.Decided) -> dict[str, str]:
    """Return the sha256 of each model's file or folder, by the model's name."""
    found = {}
    for item in decided.combinations:
        path = item.model.path
        if item.model.name not in found and path.exists():
            found[item.model.name] = cache.digest(path)
    return found


def call_of(plan: Plan, **more: str) -> dict[str, str]:
    """Return what the command that continues a run of this plan needs; empty without a plan file."""
    path = continuing.path_text(plan.path)
    return {} if path is None else {"plan": path, **more}


def resumption(record: store.RunRecord, decided: prepare.Decided, results: Path) -> str | None:
    """Return the command that continues a run, with the options that it needs here."""
    options = {}
    plan_path, farm = decided.plan.path, decided.farm
    if farm is not None and plan_path is not None:
        with suppress(ConfigError):
            if farms.load(None, plan_path.parent).path != farm:
                options["--farm"] = str(continuing.path_text(farm))
    if results != assets.results_folder():
        options["--results"] = str(continuing.path_text(results))
    call = {**record.call, **call_of(decided.plan)}
    return continuing.command(record.id, record.kind, call, options)


def is_new(cell: Cell, stored: Mapping[str, Cell]) -> bool:
    """Return whether the record must have the cell before it is measured."""
    before = stored.get(cell.id)
    return before is None or isinstance(before.variant, Failure) != isinstance(
        cell.variant, Failure
    )


def pending(writer: store.RunWriter, decided: prepare.Decided, *, retry_failed: bool) -> list[Cell]:
    """Return the run's cells to measure, of those that the options select.

    Raises StoreError if the farm no longer has a device of theirs.
    """
    done, record = writer.done, writer.record
    ended = {
        cell_id
        for cell_id, outcome in done.outcomes.items()
        if outcome.failure is None or not retry_failed
    }
    missing = [cell for cell in record.cells if cell.id not in ended]
    origins = continuity.farm_names(record)
    selected = {(c.model.name, c.recipe.name, c.device.name) for c in decided.combinations}
    chosen = [
        cell
        for cell in missing
        if (cell.model, cell.recipe, origins.get(cell.device, cell.device)) in selected
    ]
    left = [cell for cell in missing if cell not in chosen]
    strange = {one.name for one in decided.devices} - set(origins.values())
    if decided.narrowed and strange:
        raise StoreError(
            f"run {record.id} has no cells on {', '.join(sorted(strange))} (its devices: "
            f"{', '.join(record.devices)})"
        )
    if left and not decided.narrowed:
        names = ", ".join(sorted({cell.device for cell in left}))
        raise StoreError(
            f"run {record.id} has cells on {names} that the plan no longer selects in this farm "
            f"({decided.farm or 'no farm.toml'}); give the farm of the run with --farm, or choose the "
            "devices to continue with --device"
        )
    return chosen


def with_files(
    writer: store.RunWriter,
    decided: prepare.Decided,
    cells: Sequence[Cell],
    *,
    retry_failed: bool,
    build: Callable[[], prepare.Built],
) -> list[Cell]:
    """Bind the cells to the run's own files; make the missing ones again.

    A file that is gone or damaged is copied or built again, but only as the same bytes. Failed
    builds are tried again if failed cells are retried. Raises StoreError.
    """
    inputs = assets.cache_folder() / "inputs"
    retried = [c for c in cells if isinstance(c.variant, Failure)] if retry_failed else []
    lost = [one for one in variants_of(cells) if not _restored(writer, one)]
    built = build() if retried or lost else {}
    for variant in lost:
        made = built.get((variant.model, variant.recipe, variant.target), (None, None))[1]
        if not isinstance(made, Variant) or made.digest != variant.digest:
            raise StoreError(
                f"run {writer.id}: its file {variant.digest[:12]} ({variant.model}, "
                f"{variant.recipe}) is gone or damaged and cannot be built again as it was; start a "
                "new run"
            )
        writer.keep_variant(made)
    if retried:
        fresh = prepare.bind(decided, built, inputs)
        again = {(c.model, c.recipe, c.target, c.threads): c for c in fresh}
        cells = [_retried(cell, again) for cell in cells]
        for variant in variants_of(cells):
            writer.keep_variant(variant)
    return prepare.rebind(decided, cells, writer.variants, inputs)


def _retried(cell: Cell, again: Mapping[tuple[str, str, str, int], Cell]) -> Cell:
    """Return a cell whose build failed as it is built now; other cells stay as they are."""
    made = again.get((cell.model, cell.recipe, cell.target, cell.threads))
    if made is None or not isinstance(cell.variant, Failure):
        return cell
    return replace(made, device=cell.device)


def _restored(writer: store.RunWriter, variant: Variant) -> bool:
    """Return whether the run has a variant's files, if need be after copying them again."""
    if all(
        kept.is_whole(writer.variants / f"{digest}.tflite", digest)
        for _, digest in kept.files_of(variant)
    ):
        return True
    try:
        writer.keep_variant(variant)
    except StoreError:
        return False
    return True

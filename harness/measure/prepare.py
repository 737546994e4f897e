"""Turn a plan and a farm into cells: decide what to measure as data, build the variants, bind them.

Deciding contacts no device and builds nothing, so a dry run prints exactly what a run does.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness import plugins
from harness.config import bounds, plans, profiles
from harness.config import farm as farms
from harness.devices import opening
from harness.errors import ConfigError, HarnessError
from harness.events import BuildProgress
from harness.measure.failures import failure_of, unsupported
from harness.optimize import build, catalog, reference
from harness.printable import clipped
from harness.records.store import continuing
from harness.tflite.compiled import COMPILED_FOR
from harness.types import (
    DEFAULT_HOST,
    Cell,
    Device,
    Failure,
    HostLimits,
    ModelSource,
    Plan,
    Profile,
    Recipe,
    Variant,
)

_PLANNED_TARGETS = ("xnnpack", "gpu", "micro")
"""Targets that a user's own profile may have, also if no profile here has them."""

BuildKey = tuple[str, str, str]
"""The names of a build's model, recipe and target. All devices with the same key share its file."""

Built = Mapping[BuildKey, tuple[build.BuildRequest, Variant | Failure]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCell:
    """One model, recipe, target, device and number of threads: a cell without its variant."""

    model: ModelSource
    recipe: Recipe
    target: str
    device: Device
    threads: int

    @property
    def build(self) -> BuildKey:
        """The key of the build that makes its variant."""
        return self.model.name, self.recipe.name, self.target


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """A plan expanded over a farm: every cell to measure, and the devices."""

    plan: Plan
    devices: tuple[Device, ...]
    combinations: tuple[PlannedCell, ...]
    default_targets: Mapping[str, str] = field(default_factory=dict)
    """The target of a recipe without `@target`, by device name."""
    narrowed: bool = False
    """Whether options restrict the plan's devices or recipes."""
    farm: Path | None = None
    """The farm file."""

    @property
    def requests(self) -> list[build.BuildRequest]:
        """The builds that the cells need, each once."""
        wanted = {
            item.build: build.BuildRequest(model=item.model, recipe=item.recipe, target=item.target)
            for item in self.combinations
        }
        return list(wanted.values())


def decide(
    plan: Plan, farm: farms.Farm, *, devices: Sequence[str] = (), recipes: Sequence[str] = ()
) -> Decided:
    """Expand a plan over a farm; `devices` and `recipes` restrict it if they are given.

    Raises ConfigError for a selector or a recipe that matches nothing, an unknown step, a wrong
    parameter, or a device that no installed transport or dialect supports, or whose meter is not installed.
    """
    if recipes:
        plan = _only_recipes(plan, recipes)
    if devices:
        plan = replace(plan, models=tuple(replace(m, devices=tuple(devices)) for m in plan.models))
    for model in plan.models:
        if not model.recipes:
            path = continuing.path_text(plan.path) or "plan.toml"
            raise ConfigError(
                f"model {model.source.name}: the plan has only a [search] "
                f"(`{shlex.join(['edge-harness', 'search', path])}`); to run it, name recipes in "
                "run.recipes"
            )
        for recipe in model.recipes:
            catalog.check(recipe)
    known = profiles.load_all()
    _check_targets(plan, known)
    chosen: dict[str, Device] = {}
    combinations: list[plans.Combination] = []
    for model in plan.models:
        selected = farms.select(farm, model.devices)
        chosen.update({device.name: device for device in selected})
        cells = len(model.recipes) * len(selected) * len(plan.threads)
        _check_size(plan, len(combinations) + cells)
        combinations += plans.combinations(replace(plan, models=(model,)), selected)
    for device in chosen.values():
        opening.check(device, known.get(device.profile))
        _check_meter(device, farm)
    defaults = {device.name: default_target(device, known) for device in chosen.values()}
    return Decided(
        plan=plan,
        devices=tuple(chosen.values()),
        combinations=tuple(_with_targets(combinations, defaults)),
        default_targets=defaults,
        narrowed=bool(devices or recipes),
        farm=farm.path,
    )


def check(decided: Decided) -> None:
    """Refuse data and files that are missing or wrong, before anything is built.

    Raises ConfigError. `run`, `bench`, `optimize` and a dry run call it, so that they decide alike.
    """
    build.check_requests(decided.requests)


def foreseen(decided: Decided) -> Iterator[Failure | None]:
    """Yield for each combination why its cell will fail, as far as that is known without building."""
    known = profiles.load_all()
    requests = {
        (request.model.name, request.recipe.name, request.target): build.foreseen(request)
        for request in decided.requests
    }
    for item in decided.combinations:
        error = requests[item.build]
        if error is not None:
            yield failure_of(error)
        else:
            yield unsupported(item.target, known.get(item.device.profile))


def _check_targets(plan: Plan, known: Mapping[str, Profile]) -> None:
    """Refuse a target that no profile has, which is a misspelt one; raises ConfigError."""
    targets = {target for profile in known.values() for target in profile.targets}
    targets |= {*COMPILED_FOR.values(), *catalog.COMPILING.values(), *_PLANNED_TARGETS}
    for model in plan.models:
        for recipe in model.recipes:
            if recipe.target is not None and recipe.target not in targets:
                unknown = plugins.unknown("target", recipe.target, targets)
                raise ConfigError(f'recipe "{clipped(recipe.name)}": {unknown}')


def _check_size(plan: Plan, cells: int) -> None:
    """Refuse more cells or launches than anyone can wait for; raises ConfigError."""
    name = str(plan.path) if plan.path else "command line"
    bounds.check_count(f"{name}: cells", cells, bounds.MAX_CELLS)
    launches = cells * (plan.dose.launches + plan.dose.memory_launches)
    bounds.check_count(f"{name}: launches of all cells", launches, bounds.MAX_LAUNCHES)


def _check_meter(device: Device, farm: farms.Farm) -> None:
    """Raise ConfigError if the device's meter is not installed: its energy is wanted."""
    meters = plugins.names("harness.meters")
    if device.meter is not None and device.meter not in meters:
        unknown = plugins.unknown("meter", device.meter, meters)
        raise farm.error(f"device.{device.name}: {unknown}; install its package, or remove the key")


def default_target(device: Device, known: Mapping[str, Profile]) -> str:
    """Return the target of a recipe without `@target` on a device, from the device's profile."""
    profile = known.get(device.profile)
    return profile.default_target if profile else build.DEFAULT_TARGET


def _with_targets(
    combinations: Iterable[plans.Combination], defaults: Mapping[str, str]
) -> Iterator[PlannedCell]:
    """Yield each combination with its target; each model's file is inspected once."""
    own: dict[tuple[str, str], str | None] = {}
    for item in combinations:
        key = (item.model.name, item.recipe.name)
        if key not in own:
            own[key] = build.own_target(item.recipe, item.model)
        yield PlannedCell(
            model=item.model,
            recipe=item.recipe,
            target=own[key] or defaults[item.device.name],
            device=item.device,
            threads=item.threads,
        )


def _only_recipes(plan: Plan, names: Sequence[str]) -> Plan:
    known = {recipe.name for model in plan.models for recipe in model.recipes}
    for name in names:
        if name not in known:
            raise ConfigError(
                f'--recipe "{name}" is not in the plan (it has: {", ".join(sorted(known))})'
            )
    models = tuple(
        replace(model, recipes=tuple(r for r in model.recipes if r.name in names))
        for model in plan.models
    )
    return replace(plan, models=tuple(model for model in models if model.recipes))


def build_all(
    requests: Iterable[build.BuildRequest],
    *,
    cache: Path,
    seed: int,
    on_event: Callable[[BuildProgress], None],
    workers: int | None = None,
    limits: HostLimits = DEFAULT_HOST,
) -> Iterator[tuple[build.BuildRequest, Variant | Failure]]:
    """Build every variant in parallel; for one that cannot be built, yield its Failure."""
    for request, result in build.build_all(
        requests, cache=cache, workers=workers, seed=seed, limits=limits, on_event=on_event
    ):
        if isinstance(result, HarnessError):
            yield request, Failure(kind=result.kind, reason=str(result))
        else:
            yield request, result


def bind(
    decided: Decided,
    built: Built,
    inputs: Path,
) -> tuple[Cell, ...]:
    """Make the cells; write the inputs of each variant's output check to the folder `inputs`."""
    checks: dict[str, reference.CheckInputs] = {}
    cells = []
    plan = decided.plan
    for item in decided.combinations:
        request, variant = built[item.build]
        check: Mapping[str, Any] = {}
        if isinstance(variant, Variant):
            key = f"{item.model.name}/{variant.digest}"
            if key not in checks:
                checks[key] = _check_inputs(request, variant, inputs, plan)
            check = checks[key].of_cell
        cells.append(
            Cell(
                model=item.model.name,
                recipe=item.recipe.name,
                target=item.target,
                device=item.device.name,
                threads=item.threads,
                variant=variant,
                dose=plan.dose,
                accept=plan.accept,
                seed=plan.seed,
                **check,
                cache=plan.cache,
            )
        )
    return tuple(cells)


def _check_inputs(
    request: build.BuildRequest, variant: Variant, folder: Path, plan: Plan
) -> reference.CheckInputs:
    return reference.check_inputs(request.model, variant, folder, seed=plan.seed, limits=plan.host)


def rebind(decided: Decided, cells: Sequence[Cell], variants: Path, inputs: Path) -> list[Cell]:
    """Bind a stored run's cells to the files that the run kept, and to inputs that are made again.

    The run measured the kept files, so nothing is built again.
    """
    requests = {(r.model.name, r.recipe.name, r.target): r for r in decided.requests}
    made = []
    for cell in cells:
        if isinstance(cell.variant, Failure):
            made.append(cell)
            continue
        variant = replace(cell.variant, path=variants / f"{cell.variant.digest}.tflite")
        before = variant.uncompiled
        if before is not None:
            kept = variants / f"{before.digest}.tflite"
            variant = replace(variant, uncompiled=replace(before, path=kept))
        request = requests.get((cell.model, cell.recipe, cell.target))
        made.append(_with_inputs(replace(cell, variant=variant), request, inputs, decided))
    return made


def _with_inputs(
    cell: Cell, request: build.BuildRequest | None, folder: Path, decided: Decided
) -> Cell:
    """Make the files of a cell's check again if they are gone; without a request it has no check."""
    files = [path for path in (cell.check_inputs, cell.check_labels) if path is not None]
    if all(reference.is_intact(Path(path)) for path in files):
        return cell
    if request is None or not isinstance(cell.variant, Variant):
        return replace(cell, check_inputs=None, check_labels=None)
    again = _check_inputs(request, cell.variant, folder, decided.plan).of_cell
    return replace(cell, **{**again, "flags": cell.flags})

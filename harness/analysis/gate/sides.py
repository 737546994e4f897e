"""Resolve the sides of a gate (a file, a recipe, a runtime or a stored run) and plan the contests.

A path takes precedence over a recipe's name. A .tflite is used as it is, another model is built with
each recipe of the plan; a recipe stands for every model that has it; a stored run gives its kept
files. This module only decides, in plain data; the caller builds and connects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.analysis.gate import budget
from harness.analysis.gate.contest import Contest, Side
from harness.analysis.gate.findings import Key
from harness.config import paths
from harness.config import recipes as recipe_texts
from harness.errors import ConfigError, StoreError
from harness.measure.prepare import Decided
from harness.optimize import build, catalog
from harness.optimize.reference import CheckInputs
from harness.records.store import Store, StoredRun
from harness.records.store.verify import verified
from harness.tflite.numeric import sample_shape
from harness.types import (
    Cell,
    DeviceFacts,
    Failure,
    ModelSource,
    Plan,
    PlannedModel,
    Recipe,
    Variant,
)

RUNTIME = "runtime:"

Built = Mapping[int, Variant | Failure]
"""Build results by the id() of a Candidate's request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One variant that a side offers for a model of the plan."""

    model: str
    recipe: str
    source: ModelSource
    request: build.BuildRequest | None = None
    """The build request; None if the variant is known."""
    variant: Variant | None = None
    variants: Mapping[str, Variant] = field(default_factory=dict)
    """The variants that a stored run kept, by target."""
    runtime: str | None = None
    run: StoredRun | None = None
    """The run that measured it before: the gate must run on the same machine."""


def resolve(text: str, decided: Decided, results: Store, key: str) -> list[Candidate]:
    """Return the candidates of one side of the command line; raises ConfigError if there are none.

    `key` is the option's name, for the message.
    """
    plan = decided.plan
    path = paths.expanded(text, key)
    exists = paths.exists(path, key)
    if exists and not paths.exists(path / "run.json", key):
        return _from_path(path.resolve(), plan, key)
    recipes = {recipe.name for model in plan.models for recipe in model.recipes}
    if text in recipes:
        return [
            _to_build(model.source, recipe)
            for model in plan.models
            for recipe in model.recipes
            if recipe.name == text
        ]
    if text.startswith(RUNTIME):
        return _from_runtime(text, plan, key)
    try:
        return _from_run(results.open(path.name if exists else text))
    except StoreError as error:
        raise ConfigError(
            f'{key} "{text}" is no file, no recipe of the plan ({", ".join(sorted(recipes))}) '
            f"and no stored run ({error})"
        ) from error


def _to_build(source: ModelSource, recipe: Recipe, runtime: str | None = None) -> Candidate:
    catalog.check(recipe)
    target = build.resolve_target(recipe, source)
    return Candidate(
        model=source.name,
        recipe=recipe.name,
        source=source,
        request=build.BuildRequest(model=source, recipe=recipe, target=target),
        runtime=runtime,
    )


def _from_path(path: Path, plan: Plan, key: str) -> list[Candidate]:
    own = [model for model in plan.models if model.source.path == path]
    if len(own or plan.models) != 1:
        names = ", ".join(model.source.name for model in plan.models)
        raise ConfigError(
            f"{key} {path}: the plan has several models ({names}), so it is unclear which one the "
            "file replaces; give a plan with one model, or the name of a recipe"
        )
    planned: PlannedModel = (own or list(plan.models))[0]
    source = replace(planned.source, path=path)
    if path.suffix.lower() in {".tflite", ".lite"}:
        # A file has no recipe; it is measured on the targets that the plan names.
        targets = dict.fromkeys(recipe.target for recipe in planned.recipes)
        texts = ["as_is" if target is None else f"as_is@{target}" for target in targets]
        return [_to_build(source, recipe_texts.parse(text, {})) for text in texts or ["as_is"]]
    return [_to_build(source, recipe) for recipe in planned.recipes]


def _from_runtime(text: str, plan: Plan, key: str) -> list[Candidate]:
    name, equals, version = text.removeprefix(RUNTIME).partition("=")
    if not (name and equals and version):
        raise ConfigError(f'{key} "{text}": write it as {RUNTIME}NAME=VERSION')
    return [
        _to_build(model.source, recipe, f"{name} {version.removeprefix('=')}")
        for model in plan.models
        for recipe in model.recipes
    ]


def _from_run(run: StoredRun) -> list[Candidate]:
    found: dict[tuple[str, str], Candidate] = {}
    for cell in run.record.cells:
        if isinstance(cell.variant, Variant):
            kept = run.kept_file(cell.variant.digest)
            variant = replace(cell.variant, path=kept)
            known = found.get((cell.model, cell.recipe))
            found[cell.model, cell.recipe] = Candidate(
                model=cell.model,
                recipe=cell.recipe,
                source=ModelSource(name=cell.model, path=kept),
                variant=variant,
                variants={**(known.variants if known else {}), cell.target: variant},
                run=run,
            )
    if not found:
        raise StoreError(f"run {run.id} kept no file")
    return list(found.values())


def join(
    xs: Sequence[Candidate], ys: Sequence[Candidate], plan: Plan
) -> list[tuple[Candidate, Candidate]]:
    """Pair the candidates of both sides by recipe, a single one with all of the other side, or by target.

    Raises ConfigError if there is nothing to pair.
    """
    made = []
    for model in plan.models:
        left = [x for x in xs if x.model == model.source.name]
        right = [y for y in ys if y.model == model.source.name]
        common = [(x, y) for x in left for y in right if x.recipe == y.recipe]
        has_single = len(left) == 1 or len(right) == 1
        by_target = [(x, y) for x in left for y in right if _named(x) == _named(y)]
        made += common or ([(x, y) for x in left for y in right] if has_single else by_target)
    if not made:
        names = [sorted({f"{one.model} {one.recipe}" for one in side}) for side in (xs, ys)]
        raise ConfigError(
            f"baseline and candidate have nothing to compare: {', '.join(names[0])} and "
            f"{', '.join(names[1])}, with the plan's models "
            f"{', '.join(model.source.name for model in plan.models)}"
        )
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedContest:
    """A contest before its files are built: a pair of candidates, a device, threads."""

    a: Candidate
    b: Candidate
    device: str
    threads: int


def wanted(pairs: Sequence[tuple[Candidate, Candidate]], decided: Decided) -> list[PlannedContest]:
    """Return a planned contest per pair, device and number of threads of the plan.

    Devices with the same target share a candidate, so that it is built once.
    """
    combinations = {(c.model.name, c.device.name, c.threads): None for c in decided.combinations}
    shared: dict[tuple[int, str], Candidate] = {}

    def for_device(candidate: Candidate, device: str) -> Candidate:
        default = decided.default_targets.get(device, build.DEFAULT_TARGET)
        made = _for_target(candidate, default)
        return shared.setdefault((id(candidate), _target(made)), made)

    return [
        PlannedContest(
            a=for_device(a, device), b=for_device(b, device), device=device, threads=threads
        )
        for a, b in pairs
        for model, device, threads in combinations
        if model == a.model
    ]


def _for_target(candidate: Candidate, default: str) -> Candidate:
    """Return a candidate for devices of this default target."""
    if candidate.request is not None:
        recipe, source = candidate.request.recipe, candidate.source
        target = build.resolve_target(recipe, source, default)
        return replace(candidate, request=replace(candidate.request, target=target))
    return replace(candidate, variant=candidate.variants.get(default, candidate.variant))


def contest(
    one: PlannedContest, built: Built, plan: Plan, inputs: Mapping[str, CheckInputs]
) -> Contest:
    """Return a planned contest with its files; raises ConfigError for models of different inputs.

    `inputs` has the inputs of the check before timing by the file's digest.
    """
    label = one.b.recipe if one.a.recipe == one.b.recipe else f"{one.a.recipe} -> {one.b.recipe}"
    sides = []
    for name, candidate in (("baseline", one.a), ("candidate", one.b)):
        variant = candidate.variant or built[id(candidate.request)]
        check = inputs.get(variant.digest) if isinstance(variant, Variant) else None
        cell = Cell(
            model=candidate.model,
            recipe=f"{name}:{label}",
            target=variant.target if isinstance(variant, Variant) else _target(candidate),
            device=one.device,
            threads=one.threads,
            variant=variant,
            dose=budget.dose(plan),
            accept=plan.accept,
            seed=plan.seed,
            **(check.of_cell if check else {}),
            cache=plan.cache,
        )
        runtime = candidate.runtime.replace(" ", "=") if candidate.runtime else None
        sides.append(Side(cell=cell, runtime=runtime))
    key = Key(model=one.a.model, device=one.device, threads=one.threads, recipe=label)
    made = Contest(key=key, a=sides[0], b=sides[1], stretch=budget.stretches(plan))
    if made.failure is None:
        _check_same_inputs(made)
    return made


def _named(candidate: Candidate) -> str | None:
    """Return the target that a candidate's recipe names."""
    return candidate.request.recipe.target if candidate.request is not None else None


def _target(candidate: Candidate) -> str:
    if candidate.request is not None:
        return candidate.request.target
    return candidate.variant.target if candidate.variant else build.DEFAULT_TARGET


def _check_same_inputs(made: Contest) -> None:
    shapes = [[sample_shape(t) for t in s.variant.inputs] for s in (made.a, made.b)]
    if shapes[0] != shapes[1]:
        written = [", ".join(str(list(shape)) for shape in side) for side in shapes]
        raise ConfigError(
            f"{made.key.model}: baseline and candidate take different inputs ({written[0]} and "
            f"{written[1]}); their times cannot be compared"
        )


def why_not_comparable(one: PlannedContest, facts: DeviceFacts) -> str | None:
    """Return why a stored baseline or a runtime does not fit a device; None if it does.

    A stored run must be from the same machine, with the runtime that is used now and the same number
    of threads: different machines are never compared.
    """
    runtimes = [f"{runtime.name} {runtime.version}" for runtime in facts.runtimes]
    current = runtimes[0] if runtimes else "none"
    for candidate in (one.a, one.b):
        if candidate.runtime and candidate.runtime not in runtimes:
            known = ", ".join(runtimes) or "none"
            return f"{one.device} has no runtime {candidate.runtime} (it has: {known})"
        if candidate.run is not None:
            reason = _why_run_not_comparable(one, candidate, candidate.run, facts, current)
            if reason:
                return f"run {candidate.run.id}: unlike machines: {reason}"
    return None


def _why_run_not_comparable(
    one: PlannedContest, candidate: Candidate, run: StoredRun, facts: DeviceFacts, current: str
) -> str | None:
    measured = [
        cell
        for cell in run.record.cells
        if (cell.model, cell.recipe) == (candidate.model, candidate.recipe)
    ]
    on_device = []
    for cell in measured:
        record = run.record.devices.get(cell.device)
        if record and record.facts and record.facts.identity == facts.identity:
            on_device.append(cell)
    if not on_device:
        names = ", ".join(sorted({cell.device for cell in measured}))
        return f"it was measured on {names}, which is not the machine behind {one.device}"
    cells = [cell for cell in on_device if cell.threads == one.threads]
    if not cells:
        counts = ", ".join(str(count) for count in sorted({cell.threads for cell in on_device}))
        return f"it was measured with threads = {counts}, the plan has {one.threads}"
    damaged = verified(run).damage.cells
    for cell in cells:
        if cell.id in damaged:
            raise StoreError(f"run {run.id} is damaged: {damaged[cell.id]}; restore it from a copy")
    ids = {cell.id for cell in cells}
    used = sorted({launch.runtime for launch in run.launches() if launch.cell_id in ids})
    if used and current not in used:
        return f"it was measured with {', '.join(used)}; {one.device} has {current}"
    return None

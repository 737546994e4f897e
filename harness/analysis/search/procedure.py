"""Search: the best variants under constraints; every trial is a build and, where needed, a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness import assets
from harness.analysis import search as searching
from harness.config import farm as farms
from harness.config import plans, searches, toml_reading
from harness.config import profiles as known_profiles
from harness.devices import opening
from harness.errors import (
    ConfigError,
    HostKeyUnknown,
    LeaseError,
    RuntimeMissing,
    TransferFailed,
    Unreachable,
)
from harness.farm import toml_text
from harness.measure import prepare, runs
from harness.optimize import build
from harness.optimize.workers import available_cores
from harness.records import store as stores
from harness.types import Device, Dose, Failure, ModelSource, Plan, Recipe, Variant

LAUNCHES = 2
"""Of a trial, where the plan's [dose] does not say: the front is confirmed afterwards."""

_AWAY = {
    error.kind
    for error in (Unreachable, HostKeyUnknown, TransferFailed, LeaseError, RuntimeMissing)
}
"""Failures of a device, not of what it was asked to measure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanWorkshop:
    """Builds and measures the recipes of one plan's model; travels to other processes."""

    plan: Plan
    source: ModelSource
    device: Device
    farm: farms.Farm
    results: Path
    base: Path
    """Where the points' plans are; a trial's run has the digest of its point's plan."""
    dose: Dose
    workers: int
    default_target: str = build.DEFAULT_TARGET
    """What a recipe without `@target` is built for on the device."""

    def build(self, recipe: Recipe) -> Variant | Failure:
        """Build by the build cache and its workers."""
        source = self.source
        target = build.resolve_target(recipe, source, self.default_target)
        request = build.BuildRequest(model=source, recipe=recipe, target=target)
        built = prepare.build_all(
            [request],
            cache=assets.cache_folder() / "build",
            seed=self.plan.seed,
            on_event=lambda _: None,
            workers=self.workers,
        )
        ((_, result),) = list(built)
        return result

    def measure(self, recipe: Recipe) -> Mapping[str, Any]:
        """Run the recipe's own plan, stored as any run; raises Unreachable for a device away."""
        text = self.plan_text(recipe)
        plan = plans.from_mapping(toml_reading.parse(text, "trial"), self.base, "trial")
        decided = prepare.decide(plan, self.farm)
        with runs.start(decided, self.results, runs.Options()) as going:
            for _ in going:
                pass
        (row,) = going.rows()
        if row["status"] in _AWAY:
            raise Unreachable(f"{self.device.name}: {row['status']}: {row['reason']}")
        return row

    def plan_text(self, recipe: Recipe) -> str:
        """Write the plan.toml of just this recipe; paths are absolute, so it may be copied."""
        source = self.source
        file = self.farm.path
        farm = f" --farm {toml_text.value(str(file.resolve()))}" if file else ""
        model = {
            "name": source.name,
            "path": str(source.path),
            "signature": source.signature,
            "allow_flex": source.allow_flex,
            "shape": {name: list(shape) for name, shape in source.shape.items()} or None,
        }
        tables = {
            "model": model,
            "data": asdict(source.data),
            "run": {
                "recipes": [recipe.name],
                "devices": [self.device.name],
                "threads": list(self.plan.threads),
                "seed": self.plan.seed,
            },
            "dose": asdict(self.dose),
            "accept": asdict(self.plan.accept),
        }
        lines = [
            "# A point of a search. `edge-harness run` on this file builds and measures it again:",
            f"# edge-harness run FILE{farm}",
        ]
        for name, table in tables.items():
            lines += ["", f"[{name}]"]
            lines += [
                f"{key} = {toml_text.value(item)}"
                for key, item in table.items()
                if item is not None
            ]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Searching:
    """A search that is ready to go on; `finish` does the rest of it."""

    job: searching.Job
    processes: int
    notes: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The search's id, for `resume`."""
        return self.job.folder.name

    @property
    def columns(self) -> list[str]:
        """What is asked of every recipe: the objectives and what constraints are about."""
        return searching.asked(self.job.search)

    def finish(
        self,
        told: Callable[[searching.TrialEnded], None] = lambda _: None,
        began: Callable[[searching.TrialStarted], None] = lambda _: None,
    ) -> searching.SearchResult:
        """Try recipes until the plan's trials are done, and say what was found.

        `began` hears of each recipe when work on it starts, `told` when it has ended.

        Raises Unreachable where the device is away, StoreError for the folder; Ctrl-C goes
        through. What was tried is kept, so that `search(plan, resume=id)` goes on.
        """
        notes = searching.run(self.job, processes=self.processes, tell=told, began=began)
        return searching.answer(self.job, (*self.notes, *notes))


def search(
    plan: Plan,
    *,
    farm: farms.Farm | Path | None = None,
    resume: str | None = None,
    results: Path | None = None,
) -> Searching:
    """Prepare the search of a plan's [search], a new one or a stored one of the same plan.

    `resume` is a search's id, a prefix of it, or `latest`. Raises ConfigError for the plan, the
    farm, a recipe or parameter that cannot be, StoreError for the results folder, HarnessError
    where Optuna is not installed; all before anything is built.
    """
    known = runs.farm_of(farm, plan)
    wanted = searches.of(plan)
    space = searching.Space.of(wanted)
    chosen = farms.select(known, [wanted.device])
    if len(chosen) != 1:
        raise ConfigError(
            f'search.device: "{wanted.device}" names {len(chosen)} devices; a search is on one'
        )
    profiles = known_profiles.load_all()
    opening.check(chosen[0], profiles.get(chosen[0].profile))
    searching.check_installed()
    kept = (results or assets.results_folder()).resolve()
    stores.Store(kept).check_writable()
    source = searches.model_of(plan).source
    folder = _folder(kept, plan, source.name, resume)
    processes = searching.allowed(wanted.processes)
    notes = [] if processes == wanted.processes else [_fewer(processes, wanted.processes)]
    workshop = PlanWorkshop(
        plan=plan,
        source=source,
        device=chosen[0],
        farm=known,
        results=kept,
        base=folder.points,
        dose=_dose(plan),
        workers=max(1, available_cores() // processes),
        default_target=prepare.default_target(chosen[0], profiles),
    )
    job = searching.Job(
        folder=folder.path,
        search=wanted,
        space=space,
        workshop=workshop,
        seed=plan.seed,
        alone=chosen[0].address.startswith("local:"),
    )
    return Searching(job=job, processes=processes, notes=tuple(notes))


def _folder(runs: Path, plan: Plan, model: str, resume: str | None) -> searching.Folder:
    if resume:
        return searching.resume(runs, resume, plan.digest)
    record = {"plan": plan.text, "plan_path": str(plan.path) if plan.path else None}
    return searching.create(runs, model=model, digest=plan.digest, record=record)


def _dose(plan: Plan) -> Dose:
    """Return the plan's dose; without launches of its own, few."""
    given = plan.text.get("dose", {})
    return plan.dose if "launches" in given else replace(plan.dose, launches=LAUNCHES)


def _fewer(allowed: int, asked: int) -> str:
    return (
        f"{allowed} of {asked} processes: no more than cores, and free memory for a TensorFlow "
        "worker in each"
    )

"""Search a plan's space for the best variants under constraints.

Each trial is a build and, if its result can still be on the front, a run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
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
    LeaseFileError,
    NoSpace,
    RuntimeMissing,
    StoreError,
    TransferFailed,
    Unreachable,
)
from harness.events import Emit, ignore
from harness.farm import toml_text
from harness.measure import continuity, prepare, runs, sessions
from harness.optimize import build, cache
from harness.optimize.workers import available_cores
from harness.records import store as stores
from harness.records.store import continuing
from harness.records.store.summaries import plain_record
from harness.records.store.write import take_lock
from harness.types import Device, Dose, Failure, ModelSource, Plan, Recipe, Variant

LAUNCHES = 2
"""Launches per trial if the plan's [dose] does not say: the front can be confirmed afterwards."""

_AWAY = {
    error.kind
    for error in (
        Unreachable,
        HostKeyUnknown,
        TransferFailed,
        LeaseError,
        LeaseFileError,
        NoSpace,
        RuntimeMissing,
    )
}
"""Kinds of failure that are the device's, not the recipe's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanTrialRunner:
    """Builds and measures the recipes of one plan's model; it is pickled for other processes."""

    plan: Plan
    source: ModelSource
    device: Device
    farm: farms.Farm
    results: Path
    base: Path
    """Folder of the points' plans, so that a trial's run has the digest of its point's plan."""
    dose: Dose
    workers: int
    default_target: str = build.DEFAULT_TARGET
    """Target of a recipe without `@target`, from the device."""
    wait: bool | None = None
    """How long to wait for the lease of another user, as for a run."""

    def build(self, recipe: Recipe) -> Variant | Failure:
        """Build with the build cache and its workers."""
        source = self.source
        target = build.resolve_target(recipe, source, self.default_target)
        request = build.BuildRequest(model=source, recipe=recipe, target=target)
        built = prepare.build_all(
            [request],
            cache=assets.cache_folder() / "build",
            seed=self.plan.seed,
            on_event=lambda _: None,
            workers=self.workers,
            limits=self.plan.host,
        )
        ((_, result),) = list(built)
        return result

    def measure(self, recipe: Recipe) -> Mapping[str, Any]:
        """Run the recipe's own plan as a stored run; continue it if an earlier start has begun it.

        Raises Unreachable if the device is away, StoreError if it is not the one that began the run.
        """
        text = self.plan_text(recipe)
        plan = plans.from_mapping(toml_reading.parse(text, "trial"), self.base, "trial")
        decided = prepare.decide(plan, self.farm)
        begun = self._begun(plan)
        options = runs.Options(resume=begun, retry_failed=begun is not None, wait=self.wait)
        with runs.start(decided, self.results, options, runs.RunInProgress) as going:
            for _ in going:
                pass
        (row,) = going.rows()
        if row["status"] in _AWAY:
            raise Unreachable(f"{self.device.name}: {row['status']}: {row['reason']}")
        return row

    def _begun(self, plan: Plan) -> str | None:
        """Return the run of this plan that a killed search left, finished or not; None if none.

        Runs of the trials that have a result, and runs from before the search, are not opened.
        """
        folder = searching.Folder(path=self.base.parent)
        known = {trial.run for trial in folder.trials()}
        kept = stores.Store(self.results)
        for run_id in kept.ids(since=folder.id):
            if run_id in known:
                continue
            with suppress(StoreError):
                if plain_record(self.results / run_id).get("plan_digest") == plan.digest:
                    # A run that another process writes is not ours.
                    os.close(take_lock(self.results / run_id))
                    return run_id
        return None

    def plan_text(self, recipe: Recipe) -> str:
        """Return the plan.toml of this recipe alone; paths are absolute, so it can be copied."""
        source = self.source
        file = self.farm.path
        farm = f" --farm {toml_text.value(str(file.resolve()))}" if file else ""
        model = {
            "name": source.name,
            "path": str(source.path),
            "signature": source.signature,
            "allow_flex": source.allow_flex,
            "trust": source.trust,
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
            "host": asdict(self.plan.host),
            "accept": asdict(self.plan.accept),
        }
        lines = [
            "# A point of a search. This command in its folder builds and measures it again, with the",
            "# name of this file:",
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
    """A search that is prepared or resumed; `finish` runs its trials."""

    job: searching.Job
    processes: int
    notes: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The search's id, for `resume`."""
        return self.job.folder.name

    @property
    def columns(self) -> list[str]:
        """Names of the columns of all objectives and constraints."""
        return searching.wanted_columns(self.job.search)

    def finish(self, on_event: Emit = ignore) -> searching.SearchResult:
        """Run trials until the plan's number is done, and return the result.

        `on_event` gets a TrialStarted and a TrialEnded per trial.

        Raises Unreachable if the device is away, StoreError for the folder, and KeyboardInterrupt
        on Ctrl-C. Finished trials are kept, and `search(plan, resume=id)` continues.
        """
        notes = searching.run(self.job, processes=self.processes, emit=on_event)
        return searching.answer(self.job, (*self.notes, *notes))


def search(
    plan: Plan,
    *,
    farm: farms.Farm | Path | None = None,
    resume: str | None = None,
    include_suspect: bool = False,
    results: Path | None = None,
    wait: bool | None = None,
) -> Searching:
    """Prepare a new search of a plan's [search], or resume a stored one of the same plan.

    `resume` is a search's id, a prefix of it, or `latest`; `wait` is that of `run`. Recipes whose row
    is not VALID are not on the front unless `include_suspect`. Raises ConfigError for an invalid plan,
    farm, recipe or parameter, StoreError for the results folder, HarnessError if Optuna is not
    installed; all before anything is built.
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
    folder = _folder(kept, plan, resume)
    if resume:
        _require_same_device(folder, stores.Store(kept), chosen[0])
    processes = searching.allowed(wanted.processes)
    notes = [] if processes == wanted.processes else [_fewer(processes, wanted.processes)]
    runner = PlanTrialRunner(
        plan=plan,
        source=source,
        device=chosen[0],
        farm=known,
        results=kept,
        base=folder.points,
        dose=_dose(plan),
        workers=max(1, available_cores() // processes),
        default_target=prepare.default_target(chosen[0], profiles),
        wait=wait,
    )
    job = searching.Job(
        folder=folder.path,
        search=wanted,
        space=space,
        runner=runner,
        seed=plan.seed,
        alone=chosen[0].address.startswith("local:"),
        include_suspect=include_suspect,
    )
    return Searching(job=job, processes=processes, notes=tuple(notes))


def _folder(runs: Path, plan: Plan, resume: str | None) -> searching.Folder:
    source = searches.model_of(plan).source
    sources = {source.name: cache.digest(source.path)} if source.path.exists() else {}
    if resume:
        folder = searching.resume(runs, resume, plan.digest)
        continuing.check_sources(folder.record().get("sources", {}), sources, folder.id)
        return folder
    record = {
        "plan": plan.text,
        "plan_path": str(plan.path) if plan.path else None,
        "sources": sources,
    }
    return searching.create(runs, model=source.name, digest=plan.digest, record=record)


def _require_same_device(folder: searching.Folder, kept: stores.Store, device: Device) -> None:
    """Raise StoreError if the device is not the one that measured the search's trials.

    A device that is away is not compared: the next trial cannot be measured on it either.
    """
    measured = next((trial.run for trial in folder.trials() if trial.run in kept.ids()), None)
    if measured is None:
        return
    record = kept.open(measured).record
    live = sessions.open_all([device])
    try:
        continuity.require_same(record, live, [device.name])
    except StoreError as error:
        raise StoreError(f"search {folder.id}: {error}") from error
    finally:
        sessions.close_all(live)


def _dose(plan: Plan) -> Dose:
    """Return the plan's dose, with LAUNCHES launches if the plan does not give a number."""
    given = plan.text.get("dose", {})
    return plan.dose if "launches" in given else replace(plan.dose, launches=LAUNCHES)


def _fewer(allowed: int, wanted: int) -> str:
    return (
        f"{allowed} of {wanted} processes: no more than cores, and free memory for a TensorFlow "
        "worker in each"
    )

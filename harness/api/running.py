"""Make runs from plans: decide, run, resume, bench."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from harness.api import arguments
from harness.api.arguments import AnyPath, Several
from harness.config import farm as farms
from harness.config import plans
from harness.farm import contact
from harness.measure import prepare, runs
from harness.measure.runs import Options, Progress
from harness.types import Plan

__all__ = ["Progress", "Run", "bench", "decide", "read_farm", "read_plan", "run"]


class Run(runs.RunInProgress):
    """A run in progress that prints as its table, also in a notebook.

    See :class:`harness.measure.runs.RunInProgress`.
    """

    def __str__(self) -> str:
        """Return the table so far and where the run is stored."""
        from harness.present import notebook

        return notebook.text(self.rows(), [f"run {self.id} in {self.path}"])

    def _repr_html_(self) -> str:
        """Return the table so far for a notebook."""
        from harness.present import notebook

        return notebook.html(self.rows(), [f"run {self.id} in {self.path}"])


def read_farm(farm: farms.Farm | AnyPath | None, plan: Plan | None = None) -> farms.Farm:
    """Find and read the farm file in the order of docs/plans.md; a Farm is returned unchanged."""
    given = farm if isinstance(farm, farms.Farm) else arguments.optional_path(farm)
    return runs.farm_of(given, plan)


def read_plan(plan: Plan | AnyPath, *, trust_model: bool = False) -> Plan:
    """Read a plan.toml; a Plan is returned unchanged. `trust_model` trusts all its models."""
    read = plan if isinstance(plan, Plan) else plans.load(arguments.path(plan))
    if not trust_model:
        return read
    trusted = (replace(one, source=replace(one.source, trust=True)) for one in read.models)
    return replace(read, models=tuple(trusted))


def _decided(
    plan: Plan | AnyPath,
    farm: farms.Farm | AnyPath | None,
    devices: Several[str],
    recipes: Several[str],
) -> prepare.Decided:
    read = read_plan(plan)
    return prepare.decide(
        read,
        read_farm(farm, read),
        devices=arguments.texts(devices),
        recipes=arguments.texts(recipes),
    )


def decide(
    plan: Plan | AnyPath,
    *,
    farm: farms.Farm | AnyPath | None = None,
    devices: Several[str] = (),
    recipes: Several[str] = (),
    resume: str | None = None,
    retry_failed: bool = False,
    results: AnyPath | None = None,
) -> list[dict[str, Any]]:
    """Return the cells of a plan as plain rows, without building or measuring anything.

    Each has its foreseen status: `planned`, or the kind of failure with the reason. Raises ConfigError
    and StoreError for everything that `run` refuses with these arguments.
    """
    decided = _decided(plan, farm, devices, recipes)
    options = Options(resume=resume, retry_failed=retry_failed)
    return runs.dry_run(decided, arguments.optional_path(results), options)


def run(
    plan: Plan | AnyPath,
    *,
    farm: farms.Farm | AnyPath | None = None,
    devices: Several[str] = (),
    recipes: Several[str] = (),
    resume: str | None = None,
    retry_failed: bool = False,
    other_device: bool = False,
    results: AnyPath | None = None,
    wait: bool | None = None,
    engine: str = "threads",
    progress: Progress | None = None,
) -> Run:
    """Build every variant of a plan, connect to its devices and start measuring.

    While another user holds the lease of a device, the run waits 35 s, or with `wait` without limit
    (True) or not at all (False); then the cells of the device are `busy`. Returns an iterator of
    outcomes. `resume` finishes a stored run; a device or a model that is not as it was when the run
    began is refused, or with `other_device` measured as rows of another device. Raises ConfigError
    (plan, farm, selectors) and StoreError (results folder, resume) before anything is built. If a device is away or a variant cannot be built, its outcomes have a
    failure.
    """
    decided = _decided(plan, farm, devices, recipes)
    options = Options(
        resume=resume,
        retry_failed=retry_failed,
        other_device=other_device,
        wait=wait,
        engine=engine,
        progress=progress,
    )
    return runs.start(decided, arguments.optional_path(results), options, Run)


def bench(
    models: Several[AnyPath],
    *,
    on: Several[str] = "this-machine",
    recipes: Several[str] = "as_is",
    threads: Several[int] = 1,
    dose: Mapping[str, Any] | None = None,
    data: Mapping[str, str | None] | None = None,
    host: Mapping[str, float | None] | None = None,
    trust_model: bool = False,
    farm: farms.Farm | AnyPath | None = None,
    trust: contact.Trust | None = None,
    results: AnyPath | None = None,
    wait: bool | None = None,
    progress: Progress | None = None,
) -> Run:
    """Measure files without a plan; `on` takes URIs and names of the farm.

    `dose`, `data` and `host` have the keys of [dose], [data] and [host]; a key with the value None
    is ignored. `trust_model` says that code in the models may run.
    """
    selectors = arguments.texts(on)
    known, names = farms.with_addresses(read_farm(farm), selectors)
    for selector, name in zip(selectors, names, strict=True):
        if selector != name:
            contact.settle_key(known.devices[name], trust)
    plan = plans.quick(
        arguments.paths(models),
        devices=names,
        recipes=arguments.texts(recipes),
        threads=arguments.numbers(threads),
        dose=dose,
        data=data,
        host=host,
        trust=trust_model,
    )
    return run(plan, farm=known, results=results, wait=wait, progress=progress)

"""Make runs from plans: decide, run, resume, bench."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.config import farm as farms
from harness.config import plans
from harness.farm import contact
from harness.measure import prepare, runs
from harness.measure.runs import Options, Progress, Run
from harness.types import Plan

__all__ = ["Progress", "Run", "bench", "decide", "read_farm", "read_plan", "run"]

read_farm = runs.farm_of


def read_plan(plan: Plan | Path | str, *, trust_model: bool = False) -> Plan:
    """Read a plan.toml; a Plan is returned unchanged. `trust_model` trusts all its models."""
    read = plan if isinstance(plan, Plan) else plans.load(Path(plan))
    if not trust_model:
        return read
    trusted = (replace(one, source=replace(one.source, trust=True)) for one in read.models)
    return replace(read, models=tuple(trusted))


def decide(
    plan: Plan | Path | str,
    *,
    farm: farms.Farm | Path | None = None,
    devices: Sequence[str] = (),
    recipes: Sequence[str] = (),
    resume: str | None = None,
    retry_failed: bool = False,
    results: Path | None = None,
) -> list[dict[str, Any]]:
    """Return the cells of a plan as plain rows, without building or measuring anything.

    Each has its foreseen status: `planned`, or the kind of failure with the reason. Raises ConfigError
    and StoreError for everything that `run` refuses with these arguments.
    """
    plan = read_plan(plan)
    decided = prepare.decide(plan, read_farm(farm, plan), devices=devices, recipes=recipes)
    options = Options(resume=resume, retry_failed=retry_failed)
    return runs.dry_run(decided, results, options)


def run(
    plan: Plan | Path | str,
    *,
    farm: farms.Farm | Path | None = None,
    devices: Sequence[str] = (),
    recipes: Sequence[str] = (),
    resume: str | None = None,
    retry_failed: bool = False,
    other_device: bool = False,
    results: Path | None = None,
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
    plan = read_plan(plan)
    decided = prepare.decide(plan, read_farm(farm, plan), devices=devices, recipes=recipes)
    options = Options(
        resume=resume,
        retry_failed=retry_failed,
        other_device=other_device,
        wait=wait,
        engine=engine,
        progress=progress,
    )
    return runs.start(decided, results, options)


def bench(
    models: Sequence[Path],
    *,
    on: Sequence[str] = ("this-machine",),
    recipes: Sequence[str] = ("as_is",),
    threads: Sequence[int] = (1,),
    dose: Mapping[str, Any] | None = None,
    data: Mapping[str, str | None] | None = None,
    host: Mapping[str, float | None] | None = None,
    trust_model: bool = False,
    farm: farms.Farm | Path | None = None,
    trust: contact.Trust | None = None,
    results: Path | None = None,
    wait: bool | None = None,
    progress: Progress | None = None,
) -> Run:
    """Measure files without a plan; `on` takes URIs and names of the farm.

    `dose`, `data` and `host` have the keys of [dose], [data] and [host]; a key with the value None
    is ignored. `trust_model` says that code in the models may run.
    """
    known = read_farm(farm)
    names = []
    for selector in on:
        if ":" in selector and not selector.startswith(("profile:", "tag:", "any:")):
            device = farms.from_uri(selector)
            contact.settle_key(device, trust)
            known = farms.with_device(known, device)
            names.append(device.name)
        else:
            names.append(selector)
    plan = plans.quick(
        models,
        devices=names,
        recipes=recipes,
        threads=threads,
        dose=dose,
        data=data,
        host=host,
        trust=trust_model,
    )
    return run(plan, farm=known, results=results, wait=wait, progress=progress)

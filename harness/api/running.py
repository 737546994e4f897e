"""Make runs from plans: decide, run, resume, bench."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.config import farm as farms
from harness.config import plans
from harness.farm import contact
from harness.measure import prepare, runs
from harness.measure.runs import Options, Progress, Run
from harness.types import Device, Plan

__all__ = ["Progress", "Run", "bench", "decide", "read_farm", "read_plan", "run", "settle_key"]

read_farm = runs.farm_of


def read_plan(plan: Plan | Path | str) -> Plan:
    """Read a plan.toml; a Plan is returned unchanged."""
    return plan if isinstance(plan, Plan) else plans.load(Path(plan))


def decide(
    plan: Plan | Path | str,
    *,
    farm: farms.Farm | Path | None = None,
    devices: Sequence[str] = (),
    recipes: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Return the cells of a plan as plain rows, without building or measuring anything."""
    plan = read_plan(plan)
    decided = prepare.decide(plan, read_farm(farm, plan), devices=devices, recipes=recipes)
    return runs.dry_run(decided)


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


def settle_key(device: Device, trust: contact.Trust | None) -> None:
    """Accept or refuse an unknown SSH host key with `trust`; do nothing if `trust` is None."""
    if trust is not None and device.address.startswith("ssh:"):
        contact.settle_host_key(device, trust)


def bench(
    models: Sequence[Path],
    *,
    on: Sequence[str] = ("this-machine",),
    recipes: Sequence[str] = ("as_is",),
    threads: Sequence[int] = (1,),
    dose: Mapping[str, Any] | None = None,
    data: Mapping[str, str | None] | None = None,
    farm: farms.Farm | Path | None = None,
    trust: contact.Trust | None = None,
    results: Path | None = None,
    wait: bool | None = None,
    progress: Progress | None = None,
) -> Run:
    """Measure files without a plan; `on` takes URIs and names of the farm.

    `dose` and `data` have the keys of [dose] and [data]; a key with the value None is ignored.
    """
    known = read_farm(farm)
    names = []
    for selector in on:
        if ":" in selector and not selector.startswith(("profile:", "tag:", "any:")):
            device = farms.from_uri(selector)
            settle_key(device, trust)
            known = farms.with_device(known, device)
            names.append(device.name)
        else:
            names.append(selector)
    plan = plans.quick(
        models, devices=names, recipes=recipes, threads=threads, dose=dose, data=data
    )
    return run(plan, farm=known, results=results, wait=wait, progress=progress)

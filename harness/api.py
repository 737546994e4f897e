"""The public verbs, the same words as the command line.

`run(plan)` is an iterator of outcomes, `load(run)` a pandas frame.

    from harness import api

    with api.run("plan.toml") as going:
        for outcome in going:
            print(outcome.cell.device, outcome.cell.recipe, outcome.failure or "ok")
    frame = api.load("latest")
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from harness import assets, prepare, sessions, store, table
from harness import run as loop
from harness.config import farm as farms
from harness.config import plans
from harness.config import profiles as known_profiles
from harness.errors import ConfigError, HarnessError
from harness.farm import contact
from harness.farm import doctor as examiner
from harness.farm.patient import Check
from harness.optimize import build, catalog
from harness.optimize import inspect as inspector
from harness.types import Cell, Device, Dose, Failure, Launch, LaunchOrder, Outcome, Plan, Variant

if TYPE_CHECKING:
    import pandas as pd

EMBEDDED_MODEL = Path(__file__).resolve().parent / "demo" / "data" / "digits.tflite"
"""Small and always there: doctor launches it to see whether XNNPACK is really made."""

Trust = Callable[[str, str, str], bool]
"""Asked about an unknown host key: host, key type, fingerprint. True trusts it from now on."""


class Progress(Protocol):
    """Who is told how a run goes on; harness.screen has one for people."""

    def build_event(self, event: build.BuildEvent) -> None:
        """A build started, moved on or ended."""

    def measuring(self, cells: Sequence[Cell], launches: int) -> None:
        """Measuring starts: this many launches are ahead."""

    def launch_started(self, cell: Cell, order: LaunchOrder) -> None:
        """A launch is under way."""

    def launch_done(self, launch: Launch) -> None:
        """A launch is whole and stored."""

    def cell_done(self, outcome: Outcome) -> None:
        """A cell has its outcome."""

    def note(self, event: Mapping[str, Any]) -> None:
        """Something worth a line."""

    def close(self) -> None:
        """Nothing more comes."""


class Run(Iterator[Outcome]):
    """A run that goes on: iterate it for the outcomes; each is stored before it is given.

    Closing it early (a `with` left, Ctrl-C) stops the devices and keeps what is stored, so that
    `run(..., resume=id)` goes on.
    """

    def __init__(
        self, writer: store.RunWriter, outcomes: Iterator[Outcome], progress: Progress | None
    ) -> None:
        """Made by :func:`run`."""
        self._store = store.Store(writer.path.parent)
        self._writer = writer
        self._outcomes = outcomes
        self._progress = progress
        self._finished = False

    @property
    def id(self) -> str:
        """The run's id."""
        return self._writer.id

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self._writer.path

    def __enter__(self) -> Self:
        """Return itself; leaving the block closes it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop what still goes on and close the store."""
        self.close()

    def __next__(self) -> Outcome:
        """Wait for the next outcome, store it, return it."""
        try:
            outcome = next(self._outcomes)
        except StopIteration:
            self.close()
            raise
        self._writer.outcome(outcome)
        if self._progress:
            self._progress.cell_done(outcome)
        return outcome

    def close(self) -> None:
        """Stop the devices, merge the samples, let go of the run's folder."""
        if self._finished:
            return
        self._finished = True
        closer = getattr(self._outcomes, "close", None)
        if closer:
            closer()
        with self._writer:
            self._writer.finish()
        if self._progress:
            self._progress.close()

    def closing(self) -> str:
        """Say where the run is and what can be asked of it."""
        return (
            f"run {self.id} in {self.path}\n"
            f"edge-harness report {self.id} writes its page; run PLAN --resume {self.id} goes on"
        )

    def rows(self) -> list[table.Row]:
        """Return the table so far, from the stored samples."""
        return table.rows(self._store.open(self.id))


@dataclass(slots=True)
class _Watch:
    """Tells the store first, then the screen."""

    writer: store.RunWriter
    progress: Progress | None

    def launch_started(self, cell: Cell, order: LaunchOrder) -> None:
        if self.progress:
            self.progress.launch_started(cell, order)

    def launch(self, launch: Launch) -> None:
        self.writer.launch(launch)
        if self.progress:
            self.progress.launch_done(launch)

    def log(self, event: Mapping[str, Any]) -> None:
        self.writer.log(event)
        if self.progress:
            self.progress.note(event)


# --- plans to runs -----------------------------------------------------------------------------


def read_plan(plan: Plan | Path | str) -> Plan:
    """Read a plan.toml; a Plan is returned as it is."""
    return plan if isinstance(plan, Plan) else plans.load(Path(plan))


def read_farm(farm: farms.Farm | Path | None, plan: Plan | None = None) -> farms.Farm:
    """Find and read the farm as docs/plans.md says; `this-machine` is always in it."""
    if isinstance(farm, farms.Farm):
        return farm
    return farms.load(farm, plan.path.parent if plan and plan.path else None)


def decide(
    plan: Plan | Path | str,
    *,
    farm: farms.Farm | Path | None = None,
    devices: Sequence[str] = (),
    recipes: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Say which cells a plan comes to, without building or measuring anything."""
    plan = read_plan(plan)
    decided = prepare.decide(plan, read_farm(farm, plan), devices=devices, recipes=recipes)
    targets = {(r.model.name, r.recipe.name): r.target for r in decided.requests}
    return [
        {
            "model": item.model.name,
            "recipe": item.recipe.name,
            "steps": item.recipe.chain,
            "target": targets[item.model.name, item.recipe.name],
            "device": item.device.name,
            "threads": item.threads,
            "launches": plan.dose.launches,
        }
        for item in decided.combinations
    ]


def run(
    plan: Plan | Path | str,
    *,
    farm: farms.Farm | Path | None = None,
    devices: Sequence[str] = (),
    recipes: Sequence[str] = (),
    resume: str | None = None,
    retry_failed: bool = False,
    results: Path | None = None,
    progress: Progress | None = None,
) -> Run:
    """Build every variant of a plan, connect to its devices and start measuring.

    Returns an iterator of outcomes. Raises ConfigError (plan, farm, selectors) and StoreError
    (results folder, resume) before anything is built; a device that is away or a variant that
    cannot be built is an outcome with a failure.
    """
    plan = read_plan(plan)
    farm = read_farm(farm, plan)
    runs_folder = store.Store(results or assets.results_folder())
    decided = prepare.decide(plan, farm, devices=devices, recipes=recipes)
    runs_folder.check_writable()
    if resume:
        writer = runs_folder.resume(resume, plan.digest)
        return _resumed(writer, decided, retry_failed=retry_failed, progress=progress)
    if retry_failed:
        raise ConfigError("--retry-failed goes with --resume RUN")
    built = _build(decided, progress)
    cells = prepare.bind(decided, built, assets.cache_folder() / "inputs")
    live = sessions.open_all(decided.devices)
    try:
        writer = runs_folder.create(_record(plan, decided, cells, live))
        for cell in cells:
            if isinstance(cell.variant, Variant):
                writer.keep_variant(cell.variant)
    except BaseException:
        _close_all(live)
        raise
    return _start(writer, cells, live, None, progress)


def _resumed(
    writer: store.RunWriter,
    decided: prepare.Decided,
    *,
    retry_failed: bool,
    progress: Progress | None,
) -> Run:
    """Go on with a stored run: its own cells and kept files, only what is missing."""
    done = writer.done
    ended = {
        cell_id
        for cell_id, outcome in done.outcomes.items()
        if outcome.failure is None or not retry_failed
    }
    cells = [cell for cell in writer.record.cells if cell.id not in ended]
    cells = prepare.rebind(
        decided, cells, writer.path / "variants", assets.cache_folder() / "inputs"
    )
    if retry_failed and any(isinstance(cell.variant, Failure) for cell in cells):
        built = _build(decided, progress)
        again = {
            cell.id: cell for cell in prepare.bind(decided, built, assets.cache_folder() / "inputs")
        }
        cells = [again.get(c.id, c) if isinstance(c.variant, Failure) else c for c in cells]
        for cell in cells:
            if isinstance(cell.variant, Variant):
                writer.keep_variant(cell.variant)
    wanted = {cell.device for cell in cells}
    live = sessions.open_all([d for d in decided.devices if d.name in wanted])
    return _start(writer, cells, live, loop.Done(launches=done.launches), progress)


def _start(
    writer: store.RunWriter,
    cells: Sequence[Cell],
    live: Mapping[str, sessions.Session | HarnessError],
    done: loop.Done | None,
    progress: Progress | None,
) -> Run:
    if progress:
        stored = sum(map(len, done.launches.values())) if done else 0
        ahead = sum(c.dose.launches + c.dose.memory_launches for c in cells)
        progress.measuring(cells, max(0, ahead - stored))
    outcomes = loop.run(
        cells, live, _Watch(writer, progress), profiles=known_profiles.load_all(), done=done
    )
    return Run(writer, outcomes, progress)


def _build(
    decided: prepare.Decided, progress: Progress | None
) -> dict[tuple[str, str], tuple[build.BuildRequest, Variant | Failure]]:
    built = prepare.build_all(
        decided.requests,
        cache=assets.cache_folder() / "build",
        seed=decided.plan.seed,
        on_event=progress.build_event if progress else lambda _: None,
    )
    return {
        (request.model.name, request.recipe.name): (request, result) for request, result in built
    }


def _record(
    plan: Plan,
    decided: prepare.Decided,
    cells: Sequence[Cell],
    live: Mapping[str, sessions.Session | HarnessError],
) -> store.RunRecord:
    devices = {}
    for device in decided.devices:
        session = live[device.name]
        devices[device.name] = store.DeviceRecord(
            device=device,
            facts=None if isinstance(session, HarnessError) else session.facts,
            failure=loop.failure_of(session) if isinstance(session, HarnessError) else None,
        )
    return store.RunRecord.new(plan=plan, cells=tuple(cells), devices=devices)


def _close_all(live: Mapping[str, sessions.Session | HarnessError]) -> None:
    for session in live.values():
        if isinstance(session, sessions.Session):
            session.close()


def bench(
    models: Sequence[Path],
    *,
    on: Sequence[str] = ("this-machine",),
    recipes: Sequence[str] = ("as_is",),
    threads: Sequence[int] = (1,),
    launches: int | None = None,
    farm: farms.Farm | Path | None = None,
    trust: Trust | None = None,
    results: Path | None = None,
    progress: Progress | None = None,
) -> Run:
    """Measure files with no plan; `on` takes URIs and names of the farm."""
    known = read_farm(farm)
    names = []
    for place in on:
        if ":" in place and not place.startswith(("profile:", "tag:", "any:")):
            device = farms.from_uri(place)
            _settle_key(device, trust)
            known = farms.with_device(known, device)
            names.append(device.name)
        else:
            names.append(place)
    dose = Dose() if launches is None else Dose(launches=launches)
    plan = plans.quick(models, devices=names, recipes=recipes, threads=threads, dose=dose)
    return run(plan, farm=known, results=results, progress=progress)


def optimize(
    model: Path,
    *,
    recipes: Sequence[str],
    out: Path,
    target: str | None = None,
    training: str | None = None,
    calibration: str | None = None,
    evaluation: str | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Build variants of one model into `out`; a row each: file, sizes, accuracy, agreement."""
    named = [f"{recipe}@{target}" if target and "@" not in recipe else recipe for recipe in recipes]
    plan = plans.quick(
        [model],
        devices=["this-machine"],
        recipes=named,
        data={"training": training, "calibration": calibration, "evaluation": evaluation},
    )
    decided = prepare.decide(plan, read_farm(None))
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for request, result in _build(decided, progress).values():
        row: dict[str, Any] = {
            "model": request.model.name,
            "recipe": request.recipe.name,
            "target": request.target,
        }
        if isinstance(result, Failure):
            rows.append({**row, "status": result.kind, "reason": result.reason, "file": None})
            continue
        file = out / f"{request.model.name}-{_file_word(request.recipe.name)}.tflite"
        shutil.copyfile(result.path, file)
        rows.append({**row, "status": "ok", "reason": None, "file": str(file), **_about(result)})
    if progress:
        progress.close()
    return rows


def _file_word(recipe: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in recipe).strip("_")


def _about(variant: Variant) -> dict[str, Any]:
    agreement = variant.agreement
    return {
        "size_bytes": variant.size_bytes,
        "size_zstd_bytes": variant.size_zstd_bytes,
        "accuracy": variant.accuracy,
        "agreement_top1": agreement.top1 if agreement else None,
        "relative_error": agreement.relative_error if agreement else None,
        "sparsity": variant.sparsity,
        "sha256": variant.digest,
        "flags": list(variant.flags),
        "notes": list(variant.notes),
    }


def inspect(file: Path) -> dict[str, Any]:
    """Say what is in a .tflite file and what this host's delegate takes of it."""
    return inspector.inspect(file).plain()


# --- devices -----------------------------------------------------------------------------------


def devices(*, farm: farms.Farm | Path | None = None) -> list[dict[str, Any]]:
    """Ask every device of the farm who it is; one that is away says why."""
    known = read_farm(farm)
    live = sessions.open_all(known.devices.values())
    try:
        return [_device_row(device, live[name]) for name, device in known.devices.items()]
    finally:
        _close_all(live)


def _device_row(device: Device, session: sessions.Session | HarnessError) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": device.name,
        "profile": device.profile,
        "address": device.address,
        "tags": list(device.tags),
    }
    if isinstance(session, HarnessError):
        return {**row, "status": session.kind, "reason": str(session), "facts": None}
    return {**row, "status": "ready", "reason": None, "facts": asdict(session.facts)}


def doctor(
    names: Sequence[str] = (), *, farm: farms.Farm | Path | None = None
) -> dict[str, list[Check]]:
    """Check what a device must have; all of the farm where none is named."""
    known = read_farm(farm)
    chosen = farms.select(known, names) if names else list(known.devices.values())
    return {device.name: _examine(device) for device in chosen}


def _examine(device: Device) -> list[Check]:
    from harness import plugins

    return examiner.examine(
        device,
        sessions.open_transport,
        plugins.load("harness.dialects", "json_lines"),
        known_profiles.load_all().get(device.profile),
        model=EMBEDDED_MODEL,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Met:
    """What first contact with a device found and wrote."""

    device: Device
    farm: Path
    profile_file: Path | None
    facts: Mapping[str, Any]
    checks: list[Check]

    def text(self) -> str:
        """Say what was found and written, for a person."""
        facts = self.facts
        runtimes = ", ".join(f"{r['name']} {r['version']}" for r in facts["runtimes"]) or "none"
        made = f" (written to {self.profile_file})" if self.profile_file else ""
        lines = (
            f"{self.device.name}: {facts['board'] or facts['chip'] or facts['machine']}",
            f"  {facts['cores']} cores {facts['machine']}, {facts['libc']}, {facts['system']} {facts['kernel']}",
            f"  Python {facts['python']}, runtimes: {runtimes}",
            f"  accelerators: {', '.join(facts['accelerators']) or 'none seen'}",
            f"  sensors: {', '.join(facts['sensors']) or 'none seen'}",
            f"  profile {self.device.profile}{made}",
            f"wrote [device.{self.device.name}] to {self.farm}",
        )
        return "\n".join(lines)

    def plain(self) -> dict[str, Any]:
        """Return it as plain data, for JSON."""
        return {
            "device": asdict(self.device),
            "farm": str(self.farm),
            "profile_file": str(self.profile_file) if self.profile_file else None,
            "facts": dict(self.facts),
            "checks": [check.plain() for check in self.checks],
        }


def add(
    uri: str,
    *,
    name: str | None = None,
    identity: str | None = None,
    python: str | None = None,
    farm: Path | None = None,
    trust: Trust | None = None,
) -> Met:
    """Meet a device: settle its host key, detect what it is, write the farm entry, examine it.

    Raises HostKeyUnknown where the key is not trusted, ConfigError for a bad address.
    """
    device = farms.from_uri(uri, name)
    if identity:
        device = replace(device, identity=str(Path(identity).expanduser().resolve()))
    if python:
        device = replace(device, python=python)
    _settle_key(device, trust)
    live = sessions.Session(device)
    try:
        facts = live.facts
    finally:
        live.close()
    profiles_folder = assets.config_folder() / "profiles"
    chosen = contact.survey(facts, known_profiles.load_all())
    profile_file = None
    if chosen is None:
        made = contact.new_profile(facts)
        chosen, profile_file = made.name, contact.write_profile(profiles_folder, made)
    device = replace(device, profile=chosen)
    farm_file = farm or farms.default_file()
    contact.write_device(farm_file, device)
    return Met(
        device=device,
        farm=farm_file,
        profile_file=profile_file,
        facts=asdict(facts),
        checks=_examine(device),
    )


def _settle_key(device: Device, trust: Trust | None) -> None:
    """Ask about a host key that is not known yet, where somebody can be asked."""
    if trust is not None and device.address.startswith("ssh:"):
        contact.settle_host_key(device, trust)


def profiles(name: str | None = None) -> list[dict[str, Any]]:
    """Return the shipped and the user's profiles, or one."""
    known = [known_profiles.get(name)] if name else list(known_profiles.load_all().values())
    return [asdict(profile) for profile in known]


def recipes() -> list[dict[str, Any]]:
    """Return the known steps with their parameters."""
    return [
        {
            "name": step.name,
            "summary": step.summary,
            "parameters": [asdict(parameter) for parameter in step.parameters],
            "takes": list(step.takes),
            "gives": step.gives,
            "needs": list(step.needs),
        }
        for step in catalog.known_steps().values()
    ]


# --- stored runs -------------------------------------------------------------------------------


def runs(*, results: Path | None = None) -> list[dict[str, Any]]:
    """List the stored runs, newest first."""
    return [summary.plain() for summary in _store(results).runs()]


def open_run(selector: str, *, results: Path | None = None) -> store.StoredRun:
    """Open a stored run by id, unique prefix or `latest`."""
    return _store(results).open(selector)


def rows(selector: str, *, results: Path | None = None) -> list[table.Row]:
    """Return the rows of a stored run; the columns are `harness.table.COLUMNS`."""
    return table.rows(open_run(selector, results=results))


def load(selector: str, *, results: Path | None = None) -> pd.DataFrame:
    """Return a run's rows as a pandas frame."""
    return table.frame(open_run(selector, results=results))


def compare(selectors: Sequence[str], *, results: Path | None = None) -> list[dict[str, Any]]:
    """Put runs side by side: ratios with intervals, "below noise" where it is."""
    return table.compare([open_run(selector, results=results) for selector in selectors])


def report(selector: str, output: Path | None = None, *, results: Path | None = None) -> Path:
    """Write one self-contained HTML page of a run; returns where it is."""
    from harness.report import html

    stored = open_run(selector, results=results)
    target = output or stored.path / "report.html"
    html.write(stored, target)
    return target


def _store(results: Path | None) -> store.Store:
    return store.Store(results or assets.results_folder())

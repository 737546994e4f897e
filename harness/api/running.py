"""Plans to runs: decide, run, resume, bench."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from harness import assets
from harness.config import farm as farms
from harness.config import plans
from harness.config import profiles as known_profiles
from harness.errors import ConfigError, HarnessError
from harness.farm import contact
from harness.measure import prepare, sessions
from harness.measure import run as loop
from harness.optimize import build
from harness.records import store, table
from harness.types import Cell, Device, Failure, Launch, LaunchOrder, Outcome, Plan, Variant

_DEAD_HOLDER_SECONDS = 35.0


class Progress(Protocol):
    """Who is told how a run goes on; harness.present.screen has one for people."""

    def build_event(self, event: build.BuildEvent) -> None:
        """A build started, moved on or ended."""

    def measuring(self, cells: Sequence[Cell], launches: int, *, at_most: bool = False) -> None:
        """Measuring starts: this many launches are ahead, or as many at most."""

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
class Watch:
    """Tells the store first, then the screen."""

    writer: store.RunWriter
    progress: Progress | None

    def launch_started(self, cell: Cell, order: LaunchOrder) -> None:
        """Say that a launch is under way."""
        if self.progress:
            self.progress.launch_started(cell, order)

    def launch(self, launch: Launch) -> None:
        """Store a launch."""
        self.writer.launch(launch)
        if self.progress:
            self.progress.launch_done(launch)

    def log(self, event: Mapping[str, Any]) -> None:
        """Store an event."""
        self.writer.log(event)
        if self.progress:
            self.progress.note(event)


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
    return [
        {
            "model": item.model.name,
            "recipe": item.recipe.name,
            "steps": item.recipe.chain,
            "target": item.target,
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
    wait: bool | None = None,
    progress: Progress | None = None,
) -> Run:
    """Build every variant of a plan, connect to its devices and start measuring.

    A device that somebody else has is waited for: for 35 s, or as `wait` says for ever or not at
    all; its cells are `busy` then. Returns an iterator of outcomes. Raises ConfigError (plan, farm, selectors) and StoreError
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
        return _resumed(writer, decided, retry_failed=retry_failed, wait=wait, progress=progress)
    if retry_failed:
        raise ConfigError("--retry-failed goes with --resume RUN")
    built = build_variants(decided, progress)
    cells = prepare.bind(decided, built, assets.cache_folder() / "inputs")
    live = sessions.open_all(decided.devices, patience(plan, wait=wait, progress=progress))
    try:
        record = store.RunRecord.new(
            plan=plan, cells=tuple(cells), devices=device_records(decided.devices, live)
        )
        writer = runs_folder.create(record)
        for cell in cells:
            if isinstance(cell.variant, Variant):
                writer.keep_variant(cell.variant)
    except BaseException:
        close_all(live)
        raise
    return _start(writer, cells, live, None, progress)


def _resumed(
    writer: store.RunWriter,
    decided: prepare.Decided,
    *,
    retry_failed: bool,
    wait: bool | None,
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
        built = build_variants(decided, progress)
        again = {
            cell.id: cell for cell in prepare.bind(decided, built, assets.cache_folder() / "inputs")
        }
        cells = [again.get(c.id, c) if isinstance(c.variant, Failure) else c for c in cells]
        for cell in cells:
            if isinstance(cell.variant, Variant):
                writer.keep_variant(cell.variant)
    wanted = {cell.device for cell in cells}
    live = sessions.open_all(
        [d for d in decided.devices if d.name in wanted],
        patience(decided.plan, wait=wait, progress=progress),
    )
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
        for session in live.values():
            if isinstance(session, sessions.Session) and session.device.meter:
                progress.note(_no_meter(session.device))
    outcomes = loop.run(
        cells, live, Watch(writer, progress), profiles=known_profiles.load_all(), done=done
    )
    return Run(writer, outcomes, progress)


def patience(plan: Plan, *, wait: bool | None, progress: Progress | None) -> sessions.Patience:
    """Wait for a device that somebody else has, however long it takes, or not at all.

    None waits just longer than a lease lives whose holder died, and for short runs at once. One that
    went away is waited for as the plan says.
    """

    def tell(device: str, reason: str) -> None:
        if progress:
            progress.note({"event": "waiting", "device": device, "reason": reason})

    wanted = {None: _DEAD_HOLDER_SECONDS, True: math.inf, False: 0.0}[wait]
    return sessions.Patience(wanted, tell, away_seconds=plan.patience_seconds)


def _no_meter(device: Device) -> dict[str, str]:
    """Say that a meter in the farm file is not read, rather than leave its columns silently null."""
    return {
        "event": "note",
        "device": device.name,
        "reason": f"meter {device.meter} is not read by this version; energy stays empty",
    }


def build_variants(decided: prepare.Decided, progress: Progress | None) -> prepare.Built:
    """Build what a decided plan takes, each build once; a failed one is its Failure."""
    built = prepare.build_all(
        decided.requests,
        cache=assets.cache_folder() / "build",
        seed=decided.plan.seed,
        on_event=progress.build_event if progress else lambda _: None,
    )
    return {
        (request.model.name, request.recipe.name, request.target): (request, result)
        for request, result in built
    }


def device_records(
    devices: Iterable[Device], live: Mapping[str, sessions.Session | HarnessError]
) -> dict[str, store.DeviceRecord]:
    """Say of every device what it said of itself, or why it said nothing."""
    made = {}
    for device in devices:
        session = live[device.name]
        made[device.name] = store.DeviceRecord(
            device=device,
            facts=None if isinstance(session, HarnessError) else session.facts,
            failure=loop.failure_of(session) if isinstance(session, HarnessError) else None,
        )
    return made


def close_all(live: Mapping[str, sessions.Session | HarnessError]) -> None:
    """Let go of every device that answered."""
    for session in live.values():
        if isinstance(session, sessions.Session):
            session.close()


def settle_key(device: Device, trust: contact.Trust | None) -> None:
    """Ask about a host key that is not known yet, where somebody can be asked."""
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
    """Measure files with no plan; `on` takes URIs and names of the farm.

    `dose` and `data` have the keys of [dose] and [data]; a key whose value is None is not given.
    """
    known = read_farm(farm)
    names = []
    for place in on:
        if ":" in place and not place.startswith(("profile:", "tag:", "any:")):
            device = farms.from_uri(place)
            settle_key(device, trust)
            known = farms.with_device(known, device)
            names.append(device.name)
        else:
            names.append(place)
    plan = plans.quick(
        models, devices=names, recipes=recipes, threads=threads, dose=dose, data=data
    )
    return run(plan, farm=known, results=results, wait=wait, progress=progress)

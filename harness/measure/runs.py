"""A plan to a stored run: decide, build, connect, record, measure; or go on with a stored one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from harness import assets
from harness.config import farm as farms
from harness.config import profiles as known_profiles
from harness.errors import ConfigError, HarnessError
from harness.events import Emit, Event, MeasuringStarted, ignore
from harness.measure import prepare, sessions
from harness.measure import run as loop
from harness.measure.failures import failure_of
from harness.measure.leases import Patience
from harness.records import store, table
from harness.records.store.recorder import Recorder
from harness.types import Cell, Device, Failure, Outcome, Plan, Variant

DEAD_HOLDER_SECONDS = 35.0
"""Just longer than a lease lives after its holder died; short runs follow each other at once."""

Live = Mapping[str, sessions.Session | HarnessError]


class Progress(Protocol):
    """Gets every event of a build, a run or a gate; harness.present.screen has one for people."""

    def __call__(self, event: Event) -> None:
        """Take an event; called from several threads."""

    def close(self) -> None:
        """Nothing more comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a run is made, beside its plan."""

    resume: str | None = None
    """A stored run to go on with."""
    retry_failed: bool = False
    wait: bool | None = None
    """For the lease of another user: None 35 s, True as long as it takes, False not at all."""
    engine: str = loop.DEFAULT_ENGINE
    progress: Progress | None = None

    @property
    def emit(self) -> Emit:
        """Whoever gets the events."""
        return self.progress or ignore


class Run(Iterator[Outcome]):
    """A run that goes on: iterate it for the outcomes; each is stored before it is given.

    Closing it early (a `with` left, Ctrl-C) stops the devices and keeps what is stored, so that
    `run(..., resume=id)` goes on.
    """

    def __init__(
        self, writer: store.RunWriter, outcomes: Iterator[Outcome], progress: Progress | None
    ) -> None:
        """Made by :func:`start`."""
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
        """Wait for the next outcome and return it."""
        try:
            return next(self._outcomes)
        except StopIteration:
            self.close()
            raise

    def close(self) -> None:
        """Stop the devices, merge the samples, release the run's folder."""
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


def start(decided: prepare.Decided, folder: Path | None, options: Options) -> Run:
    """Build every variant, connect to the devices and start measuring; or go on with a stored run.

    Raises ConfigError and StoreError before anything is built; a device that is away or a variant
    that cannot be built is an outcome with a failure.
    """
    runs = store.Store(folder or assets.results_folder())
    runs.check_writable()
    if options.resume:
        return _resumed(runs.resume(options.resume, decided.plan.digest), decided, options)
    if options.retry_failed:
        raise ConfigError("--retry-failed goes with --resume RUN")
    built = build_variants(decided, options.emit)
    cells = prepare.bind(decided, built, assets.cache_folder() / "inputs")
    live = sessions.open_all(decided.devices, patience(decided.plan, options.wait, options.emit))
    try:
        record = store.RunRecord.new(
            plan=decided.plan, cells=tuple(cells), devices=device_records(decided.devices, live)
        )
        writer = runs.create(record)
        for cell in cells:
            if isinstance(cell.variant, Variant):
                writer.keep_variant(cell.variant)
    except BaseException:
        sessions.close_all(live)
        raise
    return _measure(_Started(writer=writer, plan=decided.plan, cells=cells, live=live), options)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Started:
    writer: store.RunWriter
    plan: Plan
    cells: Sequence[Cell]
    live: Live
    done: loop.Done = field(default_factory=loop.Done)


def _resumed(writer: store.RunWriter, decided: prepare.Decided, options: Options) -> Run:
    """Go on with a stored run: its own cells and kept files, only what is missing."""
    done = writer.done
    ended = {
        cell_id
        for cell_id, outcome in done.outcomes.items()
        if outcome.failure is None or not options.retry_failed
    }
    inputs = assets.cache_folder() / "inputs"
    cells = [cell for cell in writer.record.cells if cell.id not in ended]
    cells = prepare.rebind(decided, cells, writer.path / "variants", inputs)
    if options.retry_failed and any(isinstance(cell.variant, Failure) for cell in cells):
        built = build_variants(decided, options.emit)
        again = {cell.id: cell for cell in prepare.bind(decided, built, inputs)}
        cells = [again.get(c.id, c) if isinstance(c.variant, Failure) else c for c in cells]
        for cell in cells:
            if isinstance(cell.variant, Variant):
                writer.keep_variant(cell.variant)
    wanted = {cell.device for cell in cells}
    live = sessions.open_all(
        [d for d in decided.devices if d.name in wanted],
        patience(decided.plan, options.wait, options.emit),
    )
    known = loop.Done(launches=done.launches)
    return _measure(
        _Started(writer=writer, plan=decided.plan, cells=cells, live=live, done=known), options
    )


def _measure(started: _Started, options: Options) -> Run:
    cells = tuple(started.cells)
    stored = sum(map(len, started.done.launches.values()))
    ahead = sum(c.dose.launches + c.dose.memory_launches for c in cells)
    options.emit(MeasuringStarted(cells=cells, launches=max(0, ahead - stored)))
    outcomes = loop.run(
        cells,
        started.live,
        Recorder(started.writer, options.emit),
        profiles=known_profiles.load_all(),
        done=started.done,
        conditions=started.plan.conditions,
        engine=loop.open_engine(options.engine),
    )
    return Run(started.writer, outcomes, options.progress)


def patience(plan: Plan, wait: bool | None, emit: Emit) -> Patience:  # noqa: FBT001 - as the option
    """Return how long to wait for a device: for a lease as `wait` says, while away as the plan says."""
    seconds = {None: DEAD_HOLDER_SECONDS, True: math.inf, False: 0.0}[wait]
    return Patience(seconds, emit, away_seconds=plan.patience_seconds)


def build_variants(decided: prepare.Decided, emit: Emit) -> prepare.Built:
    """Build what a decided plan takes, each build once; a failed one is its Failure."""
    built = prepare.build_all(
        decided.requests,
        cache=assets.cache_folder() / "build",
        seed=decided.plan.seed,
        on_event=emit,
    )
    return {
        (request.model.name, request.recipe.name, request.target): (request, result)
        for request, result in built
    }


def device_records(devices: Iterable[Device], live: Live) -> dict[str, store.DeviceRecord]:
    """Return for every device its facts, or why it could not be reached."""
    made = {}
    for device in devices:
        session = live[device.name]
        made[device.name] = store.DeviceRecord(
            device=device,
            facts=None if isinstance(session, HarnessError) else session.facts,
            failure=failure_of(session) if isinstance(session, HarnessError) else None,
        )
    return made


def dry_run(decided: prepare.Decided) -> list[dict[str, object]]:
    """Return the cells a plan comes to, as plain rows."""
    return [
        {
            "model": item.model.name,
            "recipe": item.recipe.name,
            "steps": item.recipe.chain,
            "target": item.target,
            "device": item.device.name,
            "threads": item.threads,
            "launches": decided.plan.dose.launches,
        }
        for item in decided.combinations
    ]


def farm_of(farm: farms.Farm | Path | None, plan: Plan | None = None) -> farms.Farm:
    """Find and read the farm as docs/plans.md says; `this-machine` is always in it."""
    if isinstance(farm, farms.Farm):
        return farm
    return farms.load(farm, plan.path.parent if plan and plan.path else None)

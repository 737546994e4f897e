"""Make a stored run from a plan: decide, build, connect, record, measure; or resume a stored run."""

from __future__ import annotations

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
from harness.optimize.build import BuildRequest
from harness.protocols import Engine
from harness.records import store, table
from harness.records.store.recorder import Recorder
from harness.types import Cell, Device, Failure, Outcome, Plan, Variant

Live = Mapping[str, sessions.Session | HarnessError]


class Progress(Protocol):
    """Receives every event of a build, a run or a gate; harness.present.screen shows them."""

    def __call__(self, event: Event) -> None:
        """Handle an event; called from several threads."""

    def close(self) -> None:
        """End; no more events follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of a run that are not in its plan."""

    resume: str | None = None
    """The stored run to resume."""
    retry_failed: bool = False
    wait: bool | None = None
    """How long to wait for the lease of another user: None 35 s, True without limit, False not."""
    engine: str = loop.DEFAULT_ENGINE
    progress: Progress | None = None

    @property
    def emit(self) -> Emit:
        """The receiver of the events."""
        return self.progress or ignore


class Run(Iterator[Outcome]):
    """A run in progress: iterate over it for the outcomes; each is stored before it is yielded.

    Closing it early (leaving its `with` block, Ctrl-C) stops the devices and keeps what is stored;
    `run(..., resume=id)` continues it.
    """

    def __init__(
        self,
        writer: store.RunWriter,
        outcomes: Iterator[Outcome],
        progress: Progress | None,
        live: Live,
    ) -> None:
        """Take the parts of the run; use :func:`start` to make one."""
        self._store = store.Store(writer.path.parent)
        self._writer = writer
        self._outcomes = outcomes
        self._progress = progress
        self._live = live
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
        """Return the run itself; the end of the block closes it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the devices and close the store."""
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
        # The loop closes them too, but only if it was started.
        sessions.close_all(self._live)
        with self._writer:
            self._writer.finish()
        if self._progress:
            self._progress.close()

    def closing(self) -> str:
        """Return the text that a command prints at the end: the run's folder and the next commands."""
        return (
            f"run {self.id} in {self.path}\n"
            f"edge-harness report {self.id} writes its page; run PLAN --resume {self.id} continues it"
        )

    def rows(self) -> list[table.Row]:
        """Return the rows so far, computed from the stored samples."""
        return table.rows(self._store.open(self.id))


def start(decided: prepare.Decided, folder: Path | None, options: Options) -> Run:
    """Build every variant, connect to the devices and start measuring; or resume a stored run.

    Raises ConfigError and StoreError before anything is built. If a device is away or a variant
    cannot be built, its outcomes have a failure.
    """
    engine = loop.open_engine(options.engine)
    runs = store.Store(folder or assets.results_folder())
    runs.check_writable()
    if options.resume:
        return _resumed(runs.resume(options.resume, decided.plan.digest), decided, options, engine)
    if options.retry_failed:
        raise ConfigError("--retry-failed needs --resume RUN")
    waiting = patience(decided.plan, options.wait, options.emit)
    with sessions.OpeningSessions(decided.devices, waiting) as opening:
        # With --no-wait, nothing is built for a device that another user holds.
        busy = opening.busy() if options.wait is False else {}
        built = build_variants(decided, options.emit, busy)
        cells = prepare.bind(decided, built, assets.cache_folder() / "inputs")
        live = opening.result()
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
    return _measure(
        _Started(writer=writer, plan=decided.plan, cells=cells, live=live), options, engine
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Started:
    writer: store.RunWriter
    plan: Plan
    cells: Sequence[Cell]
    live: Live
    done: loop.Done = field(default_factory=loop.Done)


def _resumed(
    writer: store.RunWriter, decided: prepare.Decided, options: Options, engine: Engine
) -> Run:
    """Resume a stored run: use its cells and kept files, and measure only what is missing."""
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
        _Started(writer=writer, plan=decided.plan, cells=cells, live=live, done=known),
        options,
        engine,
    )


def _measure(started: _Started, options: Options, engine: Engine) -> Run:
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
        engine=engine,
    )
    return Run(started.writer, outcomes, options.progress, started.live)


def patience(plan: Plan, wait: bool | None, emit: Emit) -> Patience:  # noqa: FBT001 - as the option
    """Return how long to wait: for a lease by `wait`, for a device that is away by the plan."""
    return Patience.of_option(wait, emit, plan.patience_seconds)


def build_variants(
    decided: prepare.Decided, emit: Emit, busy: Mapping[str, HarnessError] | None = None
) -> prepare.Built:
    """Build the variants of a decided plan, each build once; for a failed one return its Failure.

    What only the devices of `busy` need is not built; its Failure is the error of one of them.
    """
    errors = busy or {}
    needed = {item.build for item in decided.combinations if item.device.name not in errors}
    requests = {_key(request): request for request in decided.requests}
    built = prepare.build_all(
        [request for key, request in requests.items() if key in needed],
        cache=assets.cache_folder() / "build",
        seed=decided.plan.seed,
        on_event=emit,
    )
    found: dict[prepare.BuildKey, tuple[BuildRequest, Variant | Failure]] = {
        _key(request): (request, result) for request, result in built
    }
    for item in decided.combinations:
        if item.build not in needed:
            failure = failure_of(errors[item.device.name])
            found.setdefault(item.build, (requests[item.build], failure))
    return found


def _key(request: BuildRequest) -> prepare.BuildKey:
    return request.model.name, request.recipe.name, request.target


def device_records(devices: Iterable[Device], live: Live) -> dict[str, store.DeviceRecord]:
    """Return the record of each device: its facts, or why it could not be reached."""
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
    """Return the cells of a decided plan as plain rows."""
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
    """Find and read the farm file in the order of docs/plans.md; always contains `this-machine`."""
    if isinstance(farm, farms.Farm):
        return farm
    return farms.load(farm, plan.path.parent if plan and plan.path else None)

"""Make a stored run from a plan: decide, build, connect, record, measure; or resume a stored run."""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

from harness import assets
from harness.config import farm as farms
from harness.config import paths
from harness.config import profiles as known_profiles
from harness.errors import ConfigError, DeviceChanged, HarnessError, StoreError
from harness.events import Emit, Event, MeasuringStarted, ignore
from harness.measure import continuity, prepare, resuming, sessions
from harness.measure import run as loop
from harness.measure.failures import failure_of
from harness.measure.leases import Patience
from harness.optimize.build import BuildRequest
from harness.protocols import Engine
from harness.records import store, table
from harness.records.store import continuing
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
    other_device: bool = False
    """Whether a resumed run may measure on a device that is not as it was, as another device."""
    wait: bool | None = None
    """How long to wait for the lease of another user: None 35 s, True without limit, False not."""
    engine: str = loop.DEFAULT_ENGINE
    progress: Progress | None = None

    @property
    def emit(self) -> Emit:
        """The receiver of the events."""
        return self.progress or ignore


class RunInProgress(Iterator[Outcome]):
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
        resumption: str | None = None,
    ) -> None:
        """Take the parts of the run; use :func:`start` to make one."""
        self.resumption = resumption
        """The command that continues the run, as it is typed; None for a run without a plan file."""
        self._store = store.Store(writer.path.parent)
        self._writer = writer
        self._outcomes = outcomes
        self._progress = progress
        self._live = live
        self._finished = False
        self._is_default = writer.path.parent == assets.results_folder()

    @property
    def id(self) -> str:
        """The run's id."""
        return self._writer.id

    @property
    def record(self) -> store.RunRecord:
        """The run's record."""
        return self._writer.record

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
        """Stop the devices and close the store; an error of the block comes before one of closing."""
        try:
            self.close()
        except HarnessError:
            if error is None:
                raise

    def __next__(self) -> Outcome:
        """Wait for the next outcome and return it."""
        try:
            return next(self._outcomes)
        except StopIteration:
            self.close()
            raise

    def close(self) -> None:
        """Stop the devices, merge the samples, release the run's folder.

        Each step is done even if the one before it fails; raises the first error.
        """
        if self._finished:
            return
        self._finished = True
        steps = [
            getattr(self._outcomes, "close", _nothing),
            # The loop closes them too, but only if it was started.
            functools.partial(sessions.close_all, self._live),
            self._writer.finish,
            self._writer.close,
            self._progress.close if self._progress else _nothing,
        ]
        errors = [error for step in steps if (error := _error_of(step)) is not None]
        if errors:
            raise errors[0]

    def closing(self) -> str:
        """Return the text that a command prints at the end: the run's folder and the next commands."""
        lines = [f"run {self.id} in {self.path}"]
        lines += self._next_steps(self.rows())
        results = () if self._is_default else ("--results", self.path.parent)
        command = shlex.join(map(str, ("edge-harness", "report", self.id, *results)))
        return "\n".join([*lines, f"`{command}` writes its page"])

    def _next_steps(self, rows: Sequence[table.Row]) -> list[str]:
        """Return what is missing or was stopped by a change of its device, and the commands for it."""
        missing = [row for row in rows if row.missing]
        changed = [row for row in rows if row.status == DeviceChanged.kind]
        way, again = "", ""
        if self.resumption:
            way = f": `{self.resumption}` measures what is missing"
            again = (
                f": `{self.resumption} --retry-failed` measures them on the device as it was, with "
                "--other-device as rows of another device"
            )
        lines = []
        if missing:
            lines.append(f"{len(missing)} of {len(rows)} rows pending{way}")
        if changed:
            lines.append(f"{len(changed)} of {len(rows)} rows stopped: the device changed{again}")
        return lines

    def rows(self) -> list[table.Row]:
        """Return the rows so far, computed from the stored samples."""
        return table.rows(self._store.open(self.id))


FIRST_SECONDS = 20.0
"""How long a run tries to reach a device for the first time; at most the plan's patience."""

R = TypeVar("R", bound=RunInProgress)


def _nothing() -> None:
    """Do nothing."""


def _error_of(step: Callable[[], object]) -> BaseException | None:
    """Do a step of an ending; return its error, so that the next steps are done too."""
    try:
        step()
    except BaseException as error:  # noqa: BLE001 - the caller raises it
        return error
    return None


def start(decided: prepare.Decided, folder: Path | None, options: Options, kind: type[R]) -> R:
    """Build every variant, connect to the devices and start measuring; or resume a stored run.

    Returns a run of this class.

    Raises ConfigError and StoreError before anything is built. If a device is away or a variant
    cannot be built, its outcomes have a failure.
    """
    engine = loop.open_engine(options.engine)
    paths.check_name(folder or assets.results_folder(), "--results")
    runs = store.Store(folder or assets.results_folder())
    runs.check_writable()
    if options.resume:
        writer = runs.resume(options.resume, decided.plan.digest)
        try:
            return _resumed(writer, decided, options, engine, kind)
        except BaseException:
            writer.close()
            raise
    _refuse_without_resume(options)
    prepare.check(decided)
    sources = resuming.model_digests(decided)
    waiting = patience(decided.plan, options.wait, options.emit)
    with sessions.OpeningSessions(decided.devices, waiting) as opening:
        # With --no-wait, nothing is built for a device that another user holds.
        busy = opening.busy() if options.wait is False else {}
        built = build_variants(decided, options.emit, busy)
        cells = prepare.bind(decided, built, assets.cache_folder() / "inputs")
        live = opening.result()
    try:
        record = store.RunRecord.new(
            plan=decided.plan,
            cells=tuple(cells),
            devices=device_records(decided.devices, live),
            sources=sources,
            call=resuming.call_of(decided.plan),
        )
        writer = runs.create(record, resuming.variants_of(cells))
        return _measure(
            _Started(writer=writer, decided=decided, cells=cells, live=live),
            options,
            engine,
            kind,
        )
    except BaseException:
        sessions.close_all(live)
        raise


@dataclass(frozen=True, slots=True, kw_only=True)
class _Started:
    writer: store.RunWriter
    decided: prepare.Decided
    cells: Sequence[Cell]
    live: Live
    done: loop.Done = field(default_factory=loop.Done)


def _resumed(
    writer: store.RunWriter,
    decided: prepare.Decided,
    options: Options,
    engine: Engine,
    kind: type[R],
) -> R:
    """Resume a stored run: use its cells and kept files, and measure only what is missing.

    Raises StoreError if a model or a device is not as it was, before anything is measured.
    """
    record, done = writer.record, writer.done
    pending = resuming.pending(writer, decided, retry_failed=options.retry_failed)
    if pending:
        continuing.check_sources(record.sources, resuming.model_digests(decided), record.id)
    origins = continuity.farm_names(record)
    wanted = {origins.get(cell.device, cell.device) for cell in pending}
    waiting = patience(decided.plan, options.wait, options.emit)
    chosen = [d for d in decided.devices if d.name in wanted]
    answered = {origins[name] for name, entry in record.devices.items() if entry.facts is not None}
    # A device that has answered in this run is away, and no slip in an address.
    opened = sessions.open_all(
        [d for d in chosen if d.name in answered],
        replace(waiting, first_seconds=decided.plan.patience_seconds),
    )
    opened |= sessions.open_all([d for d in chosen if d.name not in answered], waiting)
    try:
        found = continuity.continued(record, pending, opened, other_device=options.other_device)
        cells = resuming.with_files(
            writer,
            decided,
            found.cells,
            retry_failed=options.retry_failed,
            build=lambda: build_variants(decided, options.emit),
        )
        stored = {cell.id: cell for cell in record.cells}
        writer.extend(cells=[c for c in cells if resuming.is_new(c, stored)], devices=found.devices)
        known = loop.Done(
            launches=done.launches,
            bare=frozenset(
                (cell.device, cell.threads)
                for cell in record.cells
                if any(one.kind == "bare" for one in done.launches.get(cell.id, ()))
            ),
        )
        live = {name: opened[origin] for name, origin in found.names.items()}
        return _measure(
            _Started(writer=writer, decided=decided, cells=cells, live=live, done=known),
            options,
            engine,
            kind,
        )
    except BaseException:
        sessions.close_all(opened)
        raise


def _measure(started: _Started, options: Options, engine: Engine, kind: type[R]) -> R:
    cells = tuple(started.cells)
    stored = sum(len(started.done.launches.get(cell.id, ())) for cell in cells)
    ahead = sum(c.dose.launches + c.dose.memory_launches for c in cells)
    options.emit(MeasuringStarted(cells=cells, launches=max(0, ahead - stored)))
    outcomes = loop.run(
        cells,
        started.live,
        Recorder(started.writer, options.emit),
        profiles=known_profiles.load_all(),
        done=started.done,
        conditions=started.decided.plan.conditions,
        limits=started.decided.plan.host,
        engine=engine,
    )
    writer = started.writer
    command = resuming.resumption(writer.record, started.decided, writer.path.parent)
    return kind(writer, outcomes, options.progress, started.live, command)


def patience(plan: Plan, wait: bool | None, emit: Emit) -> Patience:  # noqa: FBT001 - as the option
    """Return how long to wait: for a lease by `wait`, for a device that is away by the plan."""
    known = Patience.of_option(wait, emit, plan.patience_seconds)
    return replace(known, first_seconds=min(FIRST_SECONDS, plan.patience_seconds))


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
        limits=decided.plan.host,
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
            verified=known_profiles.verified(device.profile),
        )
    return made


def _refuse_without_resume(options: Options) -> None:
    """Raise ConfigError for options that only a resumed run has."""
    for given, name in (
        (options.retry_failed, "retry-failed"),
        (options.other_device, "other-device"),
    ):
        if given:
            raise ConfigError(f"--{name} needs --resume RUN")


def dry_run(
    decided: prepare.Decided, folder: Path | None, options: Options
) -> list[dict[str, object]]:
    """Return the cells of a decided plan as plain rows, each with the status that is foreseen.

    The status is `planned`, or the kind of failure that the cell will have, with its reason. Raises
    ConfigError and StoreError for everything that `start` refuses. Writes and contacts nothing.
    """
    root = folder or assets.results_folder()
    _check_folder(root)
    if options.resume:
        store.Store(root).of_plan(options.resume, decided.plan.digest)
    else:
        _refuse_without_resume(options)
        prepare.check(decided)
    return [
        {
            "model": item.model.name,
            "recipe": item.recipe.name,
            "steps": item.recipe.chain,
            "target": item.target,
            "device": item.device.name,
            "threads": item.threads,
            "launches": decided.plan.dose.launches,
            "status": failure.kind if failure else "planned",
            "reason": failure.reason if failure else None,
        }
        for item, failure in zip(decided.combinations, prepare.foreseen(decided), strict=True)
    ]


def _check_folder(root: Path) -> None:
    """Raise StoreError if the folder of runs cannot be made or written; makes nothing."""
    paths.check_name(root, "--results")
    place = next(
        (one for one in (root, *root.absolute().parents) if paths.exists(one, "--results")), root
    )
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise StoreError(
            f"{root}: cannot be written: {place} is {'not writable' if place.is_dir() else 'a file'}; "
            "choose another folder with --results"
        )


def farm_of(farm: farms.Farm | Path | None, plan: Plan | None = None) -> farms.Farm:
    """Find and read the farm file in the order of docs/plans.md; always contains `this-machine`."""
    if isinstance(farm, farms.Farm):
        return farm
    return farms.load(farm, plan.path.parent if plan and plan.path else None)

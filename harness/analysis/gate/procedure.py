"""The gate compares A and B on the same devices; the selftest finds the effect that it can see."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import assets
from harness.analysis.gate import (
    accuracy,
    document,
    judging,
    loop,
    selftests,
    sides,
    stopping,
    stored_results,
)
from harness.analysis.gate.contest import Contest, Evidence, Rules
from harness.analysis.gate.document import Result
from harness.analysis.gate.findings import Key, Row
from harness.analysis.gate.noise import DeviceNoise
from harness.analysis.gate.recording import GateRecording, digest_to_continue
from harness.analysis.gate.stored import INCLUDED
from harness.config import farm as farms
from harness.config import plans
from harness.errors import ConfigError, HarnessError, StoreError
from harness.events import Emit, RunOpened, ignore
from harness.measure import prepare, resuming, runs, sessions
from harness.measure.runs import Live, Progress
from harness.optimize import reference
from harness.records import store
from harness.records.store import continuing
from harness.records.store.journal import appearing
from harness.types import Device, Failure, Plan, Thermal, Variant

OPTION_OF_THERMAL: Mapping[Thermal, str] = {"cool": "gate", "soak": "soak", "none": "none"}
"""The value of `--thermal` for each thermal condition."""


def ignore_result(result: Result) -> None:
    """Do nothing."""
    del result


def gate(
    plan: Plan,
    *,
    baseline: str,
    candidate: str,
    farm: farms.Farm | Path | None = None,
    devices: Sequence[str] = (),
    measure_identical: bool = False,
    thermal: Thermal | None = None,
    resume: str | None = None,
    include_suspect: bool = False,
    results: Path | None = None,
    wait: bool | None = None,
    progress: Progress | None = None,
    on_stopped: Callable[[Result], None] = ignore_result,
) -> Result:
    """Measure a candidate and a baseline on the plan's devices and judge the difference.

    `baseline` and `candidate` are a path, a recipe of the plan, `runtime:NAME=VERSION` or a stored
    run. Files of the same bytes are measured only with `measure_identical`; `thermal` replaces the
    plan's: "soak" heats every device to a plateau first. A comparison with a side whose verdict is
    SUSPECT fails unless `include_suspect`, which a resumed gate keeps. `resume` finishes an interrupted gate of
    the same plan and sides; a larger `budget_seconds` or `max_pairs` goes on with one that these ended.
    If nothing is left to measure, it returns the stored result, with a `notice`. `wait` is that of `run`: how long to wait while another user holds the
    lease. The launches are a stored run of kind gate. If the gate is stopped (Ctrl-C), `on_stopped`
    gets the result of what was measured, which is stored too, before KeyboardInterrupt is raised.

    Raises ConfigError for invalid input (a side that is none of these, models with different inputs,
    a baseline from another machine), StoreError for the results folder, and for a gate to resume
    whose sides or devices are not as they were.
    """
    stores = store.Store(results or assets.results_folder())
    stores.check_writable()
    given = {"baseline": baseline, "candidate": candidate}
    if thermal is not None:
        given["thermal"] = OPTION_OF_THERMAL[thermal]
    kept = _begun(stores, resume, plan, given) if resume else None
    begun = kept.record if kept else None
    if begun is not None:
        given |= {name: begun.call[name] for name in ("thermal", INCLUDED) if name in begun.call}
    if include_suspect:
        given[INCLUDED] = "yes"
    plan = _under(plan, given.get("thermal"))
    # A gate that began has been let through; what it still needs is known better then.
    rules = Rules.of(plan) if begun is None else Rules.from_table(plan.gate)
    rules = replace(rules, include_suspect=INCLUDED in given)
    if kept is not None and (result := stored_results.finished(kept, rules)) is not None:
        return _reported(result, progress)
    decided = prepare.decide(plan, runs.farm_of(farm, plan), devices=devices)
    xs = sides.resolve(baseline, decided, stores, "--baseline")
    ys = sides.resolve(candidate, decided, stores, "--candidate")
    wanted = sides.wanted(sides.join(xs, ys, plan), decided)
    first = Result(baseline=baseline, candidate=candidate)
    with _closing(progress), stopping.reporting(first, on_stopped) as so_far:
        with sessions.OpeningSessions(
            _used(wanted, decided.devices), runs.patience(plan, wait, progress or ignore)
        ) as opening:
            contests = _build_and_bind(wanted, plan, progress or ignore)
            measured = {cell.id for cell in begun.cells} if begun else set()
            if begun is not None:
                wanted, contests = _of_the_gate(wanted, contests, measured)
            accuracies = _accuracies(wanted, contests, plan)
            so_far.result = result = _settled(
                baseline, candidate, contests, measured, measure_identical=measure_identical
            )
            done = {one.key for one in result.identical} | {key for key, _, _ in result.failed}
            remaining = [
                (one, contest)
                for one, contest in zip(wanted, contests, strict=True)
                if contest.key not in done
            ]
            if not remaining:
                opening.abandon()
                return result
            live = opening.result(contest.key.device for _, contest in remaining)
        recording = GateRecording(
            kind="gate",
            decided=decided,
            live=live,
            rules=rules,
            stores=stores,
            progress=progress,
            call=resuming.call_of(plan, **given),
            resume=resume,
        )
        try:
            return _judged(recording, remaining, result, accuracies, so_far)
        finally:
            sessions.close_all(live)


def _begun(
    stores: store.Store, resume: str, plan: Plan, given: Mapping[str, str]
) -> store.StoredRun:
    """Return a gate to resume; raises StoreError if it is another one."""
    kept = stores.open(resume)
    continuing.check(kept.record, digest_to_continue("gate", plan, kept.record), "gate")
    _check_sides(kept.record, given)
    return kept


def _reported(result: Result, progress: Progress | None) -> Result:
    """Report the run of a result that is stored already, and return the result."""
    with _closing(progress):
        if progress and result.run:
            progress(RunOpened(run=result.run))
    return result


@contextmanager
def _closing(progress: Progress | None) -> Iterator[None]:
    """Close the display at the end of the block."""
    try:
        yield
    finally:
        if progress:
            progress.close()


def _under(plan: Plan, option: str | None) -> Plan:
    """Return the plan with the thermal condition of `--thermal`; None leaves the plan's."""
    if option is None:
        return plan
    thermal = next(name for name, word in OPTION_OF_THERMAL.items() if word == option)
    return replace(plan, conditions=replace(plan.conditions, thermal=thermal))


def _judged(
    recording: GateRecording,
    remaining: Sequence[tuple[sides.PlannedContest, Contest]],
    result: Result,
    accuracies: Mapping[Key, Row],
    so_far: stopping.ResultSoFar,
) -> Result:
    """Measure the contests, judge them and store the result, also if the gate is stopped."""
    live = recording.live
    _refuse_unlike([one for one, _ in remaining], live)
    contests = [contest for _, contest in remaining]
    noise = _known_noise(live)
    with recording.started(contests) as recorded:
        so_far.result = result = replace(result, run=recorded.writer.id)
        try:
            found = judging.gate(
                recorded.context,
                contests,
                result,
                accuracies=accuracies,
                noise=noise,
                known=recorded.known,
            )
            so_far.result = found = stopping.with_command(found, recorded.resumption)
            _store(found, recorded.writer)
        except KeyboardInterrupt as error:
            so_far.result = stopping.judged(
                recorded.so_far,
                result,
                error,
                rules=recording.rules,
                accuracies=accuracies,
                noise=noise,
                resumption=recorded.resumption,
            )
            _store(so_far.result, recorded.writer)
            raise
    return found


def _store(result: Result, writer: store.RunWriter) -> None:
    with appearing(writer.path / document.FILE) as part:
        part.write_text(document.stored(result, writer.record.key), encoding="utf-8")


def _check_sides(begun: store.RunRecord, given: Mapping[str, str]) -> None:
    """Raise StoreError if a stored gate compares other sides, or under other conditions."""
    for name, value in given.items():
        before = begun.call.get(name, "the plan's" if name == "thermal" else value)
        if before != value:
            raise StoreError(
                f'gate {begun.id} was started with --{name} "{before}", not "{value}"; give the '
                "same, or start a new gate"
            )


def _of_the_gate(
    wanted: Sequence[sides.PlannedContest], contests: Sequence[Contest], measured: Collection[str]
) -> tuple[list[sides.PlannedContest], list[Contest]]:
    """Return the contests that a gate to resume has: it may have had fewer devices than now.

    Those that it did not measure, because they failed or are identical, stay for the result.
    """
    kept = [
        (one, contest)
        for one, contest in zip(wanted, contests, strict=True)
        if contest.a.cell.id in measured or contest.failure or contest.identical
    ]
    return [one for one, _ in kept], [contest for _, contest in kept]


def _used(wanted: Sequence[sides.PlannedContest], devices: Sequence[Device]) -> list[Device]:
    """Return the devices that the contests are measured on."""
    names = {one.device for one in wanted}
    return [device for device in devices if device.name in names]


def _settled(
    baseline: str,
    candidate: str,
    contests: Sequence[Contest],
    measured: Collection[str],
    *,
    measure_identical: bool,
) -> Result:
    """Return the result without measuring: contests of identical files, and those that failed.

    `measured` are the cells that an interrupted gate measured.
    """
    return Result(
        baseline=baseline,
        candidate=candidate,
        identical=tuple(
            one
            for one in contests
            if not one.failure
            and one.identical
            and not measure_identical
            and one.a.cell.id not in measured
        ),
        failed=tuple(
            (one.key, one.failure.kind, one.failure.reason) for one in contests if one.failure
        ),
    )


def _build_and_bind(
    wanted: Sequence[sides.PlannedContest], plan: Plan, emit: Emit
) -> list[Contest]:
    """Build the missing variants and bind the contests to the files."""
    candidates = {id(c): c for one in wanted for c in (one.a, one.b)}
    requests = [c.request for c in candidates.values() if c.request is not None]
    built: dict[int, Variant | Failure] = {}
    for request, variant in prepare.build_all(
        requests,
        cache=assets.cache_folder() / "build",
        seed=plan.seed,
        on_event=emit,
        limits=plan.host,
    ):
        built[id(request)] = variant
    inputs: dict[str, reference.CheckInputs] = {}
    for candidate in candidates.values():
        made = candidate.variant or built[id(candidate.request)]
        if isinstance(made, Variant) and made.digest not in inputs:
            source = _source(candidate, plan)
            inputs[made.digest] = reference.check_inputs(
                source,
                made,
                assets.cache_folder() / "inputs",
                seed=plan.seed,
                limits=plan.host,
            )
    return [sides.contest(one, built, plan, inputs) for one in wanted]


def _source(candidate: sides.Candidate, plan: Plan) -> Any:  # noqa: ANN401 - a ModelSource
    """Return the plan's model of a candidate, with its data; a stored candidate has no data."""
    return next(m.source for m in plan.models if m.source.name == candidate.model)


def _accuracies(
    wanted: Sequence[sides.PlannedContest], contests: Sequence[Contest], plan: Plan
) -> dict[Key, Row]:
    """Compare the accuracy on the host, once per pair of files."""
    is_required = "accuracy" in plan.text.get("gate", {}).get("metrics", ())
    known: dict[tuple[str, str, str], Row | None] = {}
    found: dict[Key, Row] = {}
    for one, contest in zip(wanted, contests, strict=True):
        if contest.failure:
            continue
        data = _source(one.a, plan).data
        if is_required and not data.evaluation:
            raise ConfigError(
                f'{plan.path or "plan"}: gate.metrics has "accuracy", and model {one.a.model} has '
                "no data.evaluation to judge it by; give it, or leave accuracy out"
            )
        files = (one.a.model, contest.a.variant.digest, contest.b.variant.digest)
        if files not in known:
            began = time.monotonic()
            made = accuracy.row(contest, data, plan.host)
            seconds = round(time.monotonic() - began, 3)
            known[files] = None if made is None else replace(made, seconds=seconds)
        row = known[files]
        if row is not None:
            found[contest.key] = replace(row, key=contest.key)
    return found


def _refuse_unlike(wanted: Sequence[sides.PlannedContest], live: Live) -> None:
    for one in wanted:
        session = live[one.device]
        reason = (
            sides.why_not_comparable(one, session.facts)
            if isinstance(session, sessions.Session)
            else None
        )
        if reason:
            raise ConfigError(reason)


def selftest(
    device: str,
    *,
    model: Path | None = None,
    threads: int = 1,
    farm: farms.Farm | Path | None = None,
    results: Path | None = None,
    wait: bool | None = None,
    progress: Progress | None = None,
) -> selftests.Selftest:
    """Measure a file against itself on a device, and return the effects that a gate can see there.

    `model` is a .tflite file, by default a small one that is shipped. The result is stored for the
    gate, which shows the half-width and refuses a device that is too noisy.

    Raises the device's error if it is away or cannot run the file, StoreError if too few pairs
    count.
    """
    model = model or assets.EMBEDDED_MODEL
    farm_file = runs.farm_of(farm)
    name = farms.select_one(farm_file, device, "selftest").name
    plan = plans.quick([model], devices=[name], threads=[threads])
    decided = prepare.decide(plan, farm_file)
    # A half-width of 0 is never reached, so all 20 pairs are measured.
    rules = Rules(metrics=("latency",), half_width=0.0, is_selftest=True)
    stores = store.Store(results or assets.results_folder())
    stores.check_writable()
    xs = sides.resolve(str(model), decided, stores, "--model")
    wanted = sides.wanted(sides.join(xs, xs, plan), decided)
    contests = _build_and_bind(wanted, plan, progress or ignore)
    if contests[0].failure is not None:
        raise ConfigError(f"{model}: {contests[0].failure.reason}")
    live = sessions.open_all(decided.devices, runs.patience(plan, wait, progress or ignore))
    session = live[decided.devices[0].name]
    try:
        if isinstance(session, HarnessError):
            raise session
        recording = GateRecording(
            kind="selftest",
            decided=decided,
            live=live,
            rules=rules,
            stores=stores,
            progress=progress,
        )
        with recording.started(contests) as recorded:
            (evidence,) = loop.measure_first(recorded.context, contests)
            record = recorded.writer.record
        if evidence.failure is not None:
            raise HarnessError(f"{device}: {evidence.failure.reason}")
        made = selftests.analyse(
            evidence,
            rules,
            identity=session.facts.identity,
            run=record.id,
            created=record.created,
            cores=session.facts.cores,
        )
        selftests.keep(made)
        return made
    finally:
        sessions.close_all(live)
        if progress:
            progress.close()


def _known_noise(live: Live) -> Callable[[Evidence], DeviceNoise | None]:
    """Read the devices' selftests, and return the function that finds the one of a contest.

    They are read before anything is measured, because a damaged one raises StoreError.
    """
    known = {
        name: selftests.read(session.facts.identity)
        for name, session in live.items()
        if isinstance(session, sessions.Session)
    }
    now = datetime.now(UTC)
    return lambda one: selftests.applied(known.get(one.contest.key.device, ()), one, now)

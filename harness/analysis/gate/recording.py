"""The stored run of a gate or selftest: created, or continued after an interruption."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from harness.analysis.gate import loop, stored
from harness.analysis.gate.budget import BudgetUsed
from harness.analysis.gate.contest import (
    CONFIRMING,
    Contest,
    Evidence,
    Rules,
    pairs,
    wants_more,
)
from harness.analysis.gate.findings import Key
from harness.analysis.gate.stopping import EvidenceSoFar
from harness.config import plans
from harness.config import profiles as known_profiles
from harness.events import CellEnded, Emit, Event, MeasuringStarted, RunOpened, ignore
from harness.measure import continuity, prepare, resuming, runs, sessions
from harness.measure.pairs import pairs_to_confirm
from harness.measure.runs import Live, Progress
from harness.records import store
from harness.records.store import continuing
from harness.records.store.recorder import Recorder
from harness.types import Device, Failure, Outcome, Plan

CHANGEABLE = ("budget_seconds", "max_pairs")
"""Keys of [gate] that a gate may be continued with other values of: how much is measured depends on
them, and no launch."""


def digest(kind: str, plan: Plan) -> str:
    """Return the digest of a gate's or selftest's run: `run --resume` must not continue it."""
    return hashlib.sha256(f"{kind} {plan.digest}".encode()).hexdigest()


def digest_to_continue(kind: str, plan: Plan, begun: store.RunRecord) -> str:
    """Return the digest that the plan would have with the changeable limits of a stored gate."""
    if plan.path is None:
        return digest(kind, plan)
    before, now = begun.plan.get("gate", {}), plan.text.get("gate", {})
    limits = {key: value for key, value in now.items() if key not in CHANGEABLE}
    limits |= {key: before[key] for key in CHANGEABLE if key in before}
    text = {**plan.text, "gate": limits}
    return digest(kind, plans.from_mapping(text, plan.path.parent, plan.path.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedGate:
    """A gate and the stored run that it writes."""

    writer: store.RunWriter
    context: loop.GateContext
    known: Mapping[Key, Evidence]
    """The evidence that an interrupted gate stored."""
    so_far: EvidenceSoFar
    resumption: str | None
    """The command that continues the gate, as it is typed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRecording:
    """Makes the stored run of a gate or selftest, or continues the run `resume`."""

    kind: str
    decided: prepare.Decided
    live: Live
    rules: Rules
    stores: store.Store
    progress: Progress | None
    call: Mapping[str, str] = field(default_factory=dict)
    """What the command that continues the run needs."""
    resume: str | None = None

    @contextmanager
    def started(self, contests: Sequence[Contest]) -> Iterator[RecordedGate]:
        """Open the run that stores the launches; merge its samples at the end.

        An error gets a note with the command that continues the gate.
        """
        plan = self.decided.plan
        cells = [side.cell for one in contests for side in (one.a, one.b)]
        known: Mapping[Key, Evidence] = {}
        with self._writer(contests) as writer:
            if self.resume:
                known = self._continued(writer, contests)
            so_far = EvidenceSoFar.of(contests, known)
            emit = GateEmitter(
                store=Recorder(writer),
                log=writer.log,
                show=self.progress or ignore,
                so_far=so_far,
            )
            command = resuming.resumption(writer.record, self.decided, writer.path.parent)
            kept = _kept(writer, command)
            emit(RunOpened(run=writer.id, kept=kept))
            ahead = sum(self._launches_ahead(known.get(one.key)) for one in contests)
            emit(MeasuringStarted(cells=tuple(cells), launches=ahead, at_most=True))
            context = loop.GateContext(
                sessions=self.live,
                emit=emit,
                profiles=known_profiles.load_all(),
                rules=self.rules,
                conditions=plan.conditions,
                limits=plan.host,
                resumption=command,
            )
            recorded = RecordedGate(
                writer=writer, context=context, known=known, so_far=so_far, resumption=command
            )
            try:
                yield recorded
            except BaseException as error:
                error.add_note(kept)
                raise
            writer.finish()

    def _launches_ahead(self, known: Evidence | None) -> int:
        """Return how many launches a contest may still take: of its first pairs, else fresh ones."""
        first = 2 * (self.rules.timed_pairs + self.rules.memory_pairs)
        if known is None:
            return first
        fresh = sum(one.launch.block >= CONFIRMING for one in known.readings)
        if known.out_of_budget is None and wants_more(known, self.rules):
            return max(0, first - (len(known.readings) - fresh))
        return max(0, 2 * pairs_to_confirm(len(pairs(known, "latency"))) - fresh)

    def _writer(self, contests: Sequence[Contest]) -> store.RunWriter:
        plan = self.decided.plan
        if self.resume:
            begun = self.stores.open(self.resume).record
            wanted = digest_to_continue(self.kind, plan, begun)
            return self.stores.resume(self.resume, wanted, self.kind)
        cells = [side.cell for one in contests for side in (one.a, one.b)]
        record = store.RunRecord.new(
            plan=plan,
            cells=cells,
            devices=runs.device_records(_devices(self.live), self.live),
            kind=self.kind,
            call=self.call,
        )
        record = replace(record, plan_digest=digest(self.kind, plan))
        return self.stores.create(record, resuming.variants_of(cells))

    def _continued(
        self, writer: store.RunWriter, contests: Sequence[Contest]
    ) -> Mapping[Key, Evidence]:
        """Return the evidence of the gate to continue; raises StoreError if anything changed since."""
        hot = self.decided.plan.conditions.thermal == "soak"
        names = {contest.key.device for contest in contests}
        continuity.require_same(writer.record, self.live, names)
        known = stored.interrupted(
            self.stores.open(writer.id),
            contests,
            budget_seconds=self.rules.budget_seconds,
            hot=hot,
        )
        writer.extend(
            devices={
                name: one
                for name, one in runs.device_records(_devices(self.live), self.live).items()
                if name in names and name not in writer.record.devices
            }
        )
        for contest in contests:
            for side in (contest.a, contest.b):
                writer.keep_variant(side.variant)
        return known


@dataclass(frozen=True, slots=True, kw_only=True)
class GateEmitter:
    """Stores and shows the events, and keeps the evidence so far.

    The outcomes of both cells are stored whenever their contest ends. They are shown once: not again
    when it ends with fresh pairs, unless these failed.
    """

    store: Emit
    log: Callable[[Mapping[str, Any]], None]
    """Stores the used time, which a gate that is continued has to know."""
    show: Emit
    so_far: EvidenceSoFar

    def __call__(self, event: Event) -> None:
        """Emit the event, and the outcomes of a contest that ended before it."""
        if isinstance(event, loop.ContestEnded):
            is_known = event.evidence.contest.key in self.so_far.ended
            for outcome in _outcomes(event.evidence):
                ended = CellEnded(outcome=outcome)
                self.store(ended)
                if outcome.failure is not None or not is_known:
                    self.show(ended)
        if isinstance(event, BudgetUsed):
            self.log(event.plain())
        self.store(event)
        self.show(event)
        self.so_far.add(event)


def _kept(writer: store.RunWriter, command: str | None) -> str:
    """Say how to go on after a gate or selftest that did not end."""
    if command:
        return f"finished launches are kept: `{command}` continues"
    more = [
        part for option in continuing.results_option(writer.path.parent).items() for part in option
    ]
    shown = shlex.join(["edge-harness", "show", writer.id, *more])
    return f"finished launches are kept: `{shown}` prints them; the same command starts again"


def _devices(live: Live) -> list[Device]:
    return [one.device for one in live.values() if isinstance(one, sessions.Session)]


def _outcomes(evidence: Evidence) -> list[Outcome]:
    """Return the outcomes of both cells of a contest."""
    contest, made = evidence.contest, []
    for name, side in (("baseline", contest.a), ("candidate", contest.b)):
        launches = evidence.launches("baseline" if name == "baseline" else "candidate")
        failure = evidence.failure
        if evidence.away is not None:
            failure = Failure(kind="unreachable", reason=evidence.away)
        elif failure is None and not launches:
            failure = Failure(kind="unreachable", reason=evidence.cut_short or "nothing measured")
        made.append(
            Outcome(
                cell=side.cell,
                launches=() if failure else launches,
                failure=failure,
                agreement=evidence.agreements.get(side.cell.id),
                selfcheck=evidence.selfchecks.get(side.cell.id),
            )
        )
    return made

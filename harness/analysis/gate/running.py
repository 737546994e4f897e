"""One contest while it is measured: its pilot, its blocks, and the fresh blocks that confirm it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from harness.analysis.gate.budget import BudgetUsed, TimeBudget
from harness.analysis.gate.contest import (
    CONFIRMING,
    Evidence,
    Reading,
    Rules,
    Side,
    SideName,
    doubted,
    pairs,
    unfit,
    wants_more,
)
from harness.analysis.gate.findings import Key
from harness.errors import HarnessError, LeaseError, TransportError
from harness.events import Note, NotMeasured
from harness.measure import blocks
from harness.measure.bench import Bench, launch_of
from harness.measure.failures import failure_of, refused
from harness.measure.output_check import InaccurateOutputs
from harness.measure.pairs import CONFIRM_PAIRS, FIRST_PAIRS
from harness.measure.soaking import soak
from harness.types import Cell, Failure, LaunchOrder

_PILOTS = 2


class _Unfit(HarnessError):
    """A launch succeeded but must not be judged."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


@dataclass(frozen=True, slots=True, kw_only=True)
class FreshPairs:
    """The number of fresh pairs that confirm the rows of a contest."""

    timed: int = 0
    memory: int = 0

    def also(self, metric: str, count: int) -> FreshPairs:
        """Return the numbers with which another row is confirmed too."""
        if metric == "memory":
            return replace(self, memory=max(self.memory, count))
        return replace(self, timed=max(self.timed, count))

    @property
    def launches(self) -> int:
        """The number of launches of all pairs."""
        return 2 * (self.timed + self.memory)


@dataclass(slots=True, kw_only=True)
class RunningContest:
    """One contest while it is measured."""

    rules: Rules
    bench: Bench
    evidence: Evidence
    resumption: str | None = None
    """The command that continues the gate; None if none does."""
    loops: int = 1
    order_cells: tuple[Cell, Cell] = field(init=False)
    budget: TimeBudget = field(init=False)

    def __post_init__(self) -> None:
        """Take the cells and the budget of the contest."""
        contest = self.evidence.contest
        self.order_cells = (contest.a.cell, contest.b.cell)
        self.budget = TimeBudget(
            clock=self.bench.timing.clock,
            seconds=self.rules.budget_seconds,
            spent=self.evidence.seconds,
            pace=self.evidence.pace,
            confirms=self.rules.confirms,
            confirms_memory="memory" in self.rules.metrics and not self.rules.is_selftest,
        )

    def measure(self, fresh: FreshPairs | None) -> str | None:
        """Measure the first pairs, or the `fresh` ones.

        Returns why the device is lost for the contests after this one, or None.
        """
        if self._was_ended_by_budget(confirming=fresh is not None):
            return None
        self.budget.start()
        try:
            return self._measure(fresh)
        finally:
            self._count_time()

    def _measure(self, fresh: FreshPairs | None) -> str | None:
        bench, contest = self.bench, self.evidence.contest
        try:
            bench.bring({s.variant.digest: s.variant.path for s in (contest.a, contest.b)})
            bench.settle()
            self.evidence = replace(
                self.evidence,
                pinned_mhz=bench.held.pinned_mhz,
                fixed_performance=bench.held.fixed_performance,
            )
            if fresh is None:
                if self._lacks_blocks():
                    self._prepare()
                self._first()
            else:
                self._again(fresh)
        except (TransportError, LeaseError) as error:
            last = max((one.launch.block for one in self.evidence.readings), default=None)
            after = "before the first block" if last is None else f"after block {last % CONFIRMING}"
            reason = f"{contest.key.device} was lost {after} ({error})"
            self.evidence = replace(self.evidence, out_of_budget=None)
            self._cut_short(reason, confirming=fresh is not None)
            return reason
        except _Unfit as error:
            self.evidence = replace(self.evidence, failure=error.failure)
        except HarnessError as error:
            self.evidence = replace(self.evidence, failure=failure_of(error))
            try:
                bench.recover(error)
            except HarnessError as another:
                return f"{contest.key.device} was lost ({another})"
        return None

    def _was_ended_by_budget(self, *, confirming: bool) -> bool:
        """Return whether an earlier attempt of the gate used up the same budget here."""
        if confirming:
            return self.evidence.fresh_cut_short is not None
        return self.evidence.out_of_budget is not None

    def _count_time(self) -> None:
        """Note what the contest used of its budget, also for a gate that is stopped or killed."""
        self.evidence = replace(self.evidence, seconds=self.budget.used, pace=self.budget.pace)
        key = self.evidence.contest.key
        self.bench.emit(BudgetUsed(key=key, seconds=self.evidence.seconds))

    # --- before the first block -------------------------------------------------------------

    def _prepare(self) -> None:
        """Check both sides' outputs, find the inner loop, measure memory, soak if wanted."""
        contest, bench = self.evidence.contest, self.bench
        for side in (contest.a, contest.b):
            failure = refused(side.cell, bench.profile)
            if failure is not None:
                self.evidence = replace(self.evidence, failure=failure)
                return
            self._check(side)
        doubt = doubted(self.evidence, include_suspect=self.rules.include_suspect)
        if doubt is not None:
            raise _Unfit(doubt)
        self._set_dose()
        self.loops = self._loops_before() or self.loops
        self._memory(self.rules.memory_pairs, 0)
        if bench.conditions.thermal == "soak":
            soak(bench, contest.a.cell, loops=self.loops, runtime=contest.a.runtime)
            self.budget.start()
            self.evidence = replace(self.evidence, hot=True)

    def _set_dose(self) -> None:
        """Choose the inner loop and the dose of timed launches from a pilot."""
        contest = self.evidence.contest
        inference_ns, overhead = self._pilot(contest.a)
        dose = contest.a.cell.dose
        if self.bench.session.dialect.can.samples:
            self.loops = blocks.inner_loop(inference_ns, dose.scenario)
        if contest.stretch:
            dose = blocks.stretched(dose, inference_ns)
        self.evidence = replace(self.evidence, dose=dose)
        self.budget.start_pairs(2 * (overhead + blocks.seconds(dose, inference_ns)))

    def _pilot(self, side: Side) -> tuple[float, float]:
        """Return the longer time per inference of two short launches, ns, and their overhead, s.

        The overhead is the time that a launch takes beside warming up and measuring.
        """
        pilot = replace(blocks.pilot(side.cell), runtime=side.runtime)
        times, walls = [], []
        for place in range(_PILOTS):
            order = replace(pilot, position=place)
            pilot_once = functools.partial(self.bench.pilot, side.cell, order)
            began = self.budget.clock()
            times.append(self.bench.recovering(pilot_once, launch_of(side.cell)))
            walls.append(self.budget.clock() - began)
        inference_ns = max(times)
        return inference_ns, max(0.0, min(walls) - blocks.seconds(pilot.dose, inference_ns))

    def _check(self, side: Side) -> None:
        try:
            checked = self.bench.recovering(
                lambda: self.bench.check(side.cell, side.runtime), launch_of(side.cell)
            )
        except InaccurateOutputs as error:
            self.evidence = self.evidence.with_check(side.cell, error.checked)
            raise InaccurateOutputs(f"{side.cell.recipe}: {error}", error.checked) from error
        self.evidence = self.evidence.with_check(side.cell, checked)

    def _memory(self, count: int, start: int) -> None:
        if not self.bench.can_launch("memory"):
            reason = f"the dialect of {self.bench.name} makes no memory launches"
            for cell in self.order_cells:
                self.bench.emit(NotMeasured(cell=cell.id, what="memory", reason=reason))
            return
        began, made = self.budget.clock(), 0
        for left, block in zip(range(count, 0, -1), self._turns(count, start), strict=True):
            if self._has(block, "memory"):
                continue
            if not self.budget.has_time(self.budget.pace.memory_pair):
                self._stop_memory(left, confirming=start == CONFIRMING)
                return
            for turn in block:
                order = replace(blocks.memory(turn.cell, turn.block), position=turn.position)
                self._launch(turn.cell, order)
            made += 1
            self.budget.count_memory_pair((self.budget.clock() - began) / made)

    def _stop_memory(self, left: int, *, confirming: bool) -> None:
        """End a contest whose budget has no time for so many pairs of memory launches."""
        budget = self.budget
        timed = 0 if confirming else FIRST_PAIRS + budget.fresh(FIRST_PAIRS)
        memory = left if confirming else left + budget.fresh_memory
        what = f"{self._budget_text} is used before {left} pairs of memory launches"
        self._cut_by_budget(what, budget.enough(timed, memory), confirming=confirming)

    # --- blocks -------------------------------------------------------------------------------

    def _first(self) -> None:
        """Measure blocks until the stop rule is met or the time is up.

        The time that it takes to confirm a regression is left.
        """
        if self.evidence.failure is not None or self.evidence.cut_short or not self._fits():
            return
        self.budget.start_pairs()
        for count, block in enumerate(self._turns(self.rules.timed_pairs, 0)):
            if self._has(block, "timed"):
                continue
            if not wants_more(self.evidence, self.rules) or not self._has_time(count):
                return
            self._block(block)
            self.budget.count_pair()

    def _has_time(self, count: int) -> bool:
        """Return whether the budget holds another first pair after so many; if not, note the end.

        A mirrored pair of blocks is not split, and the time to confirm a regression is left.
        """
        budget = self.budget
        if count < FIRST_PAIRS:
            if budget.has_time(budget.pace.pair):
                return True
            enough = budget.enough(
                FIRST_PAIRS - count + budget.fresh(FIRST_PAIRS), budget.fresh_memory
            )
            self._cut_by_budget(f"{self._budget_text} is used after block {count - 1}", enough)
            return False
        if count % 2 or budget.holds(2, count + 2):
            return True
        most = self.rules.timed_pairs
        enough = budget.enough(most - count + budget.fresh(most), budget.fresh_memory)
        reserved = ", with time left to confirm them" if budget.confirms else ""
        reason = f"{self._budget_text} ended the first pairs at {count} of at most {most}{reserved}"
        self.evidence = replace(
            self.evidence,
            ended_early=self._with_way(reason, enough),
            out_of_budget=budget.seconds,
        )
        return False

    def _fits(self) -> bool:
        """Return whether the first pairs fit into the budget, before the first one is measured.

        If only their confirmation does not fit, that is a note: most gates have nothing to confirm.
        """
        budget, missing = self.budget, FIRST_PAIRS - len(pairs(self.evidence, "latency"))
        if missing <= 0 or budget.pace.pair == 0:
            return True
        enough = budget.enough(missing + budget.fresh(FIRST_PAIRS), budget.fresh_memory)
        each = f"a pair takes about {budget.pace.pair:.2g} s"
        if budget.used + missing * budget.pace.pair > budget.seconds:
            what = f"{self._budget_text} is too short for {FIRST_PAIRS} pairs ({each})"
            self._cut_by_budget(what, enough)
            return False
        if not budget.holds(missing, FIRST_PAIRS):
            reason = (
                f"{_name(self.evidence.contest.key)}: {self._budget_text} is too short to confirm a "
                f"regression with {CONFIRM_PAIRS} fresh pairs ({each}); set gate.budget_seconds to "
                f"{enough} or more"
            )
            self.bench.emit(Note(device=self.bench.name, reason=reason))
        return True

    @property
    def _budget_text(self) -> str:
        return f"the budget of {self.rules.budget_seconds:g} s"

    def _with_way(self, reason: str, enough: int) -> str:
        """Add what budget is enough, and how the gate goes on with it."""
        if self.rules.is_selftest:
            return reason
        way = f"{reason}; set gate.budget_seconds to {enough} or more"
        return (
            f"{way}, and `{self.resumption}` goes on with what is measured"
            if self.resumption
            else way
        )

    def _cut_by_budget(self, reason: str, enough: int, *, confirming: bool = False) -> None:
        self.evidence = replace(self.evidence, out_of_budget=self.rules.budget_seconds)
        self._cut_short(self._with_way(reason, enough), confirming=confirming)

    def _cut_short(self, reason: str, *, confirming: bool = False) -> None:
        if confirming:
            self.evidence = replace(self.evidence, fresh_cut_short=reason)
        else:
            self.evidence = replace(self.evidence, cut_short=reason)

    def _lacks_blocks(self) -> bool:
        """Return whether first blocks are missing: all of them, unless a gate is resumed."""
        timed = [one for one in self.evidence.readings if one.launch.kind == "timed"]
        return not timed or (
            wants_more(self.evidence, self.rules) and self._lacks(self.rules.timed_pairs, 0)
        )

    def _lacks(self, count: int, start: int) -> bool:
        return not all(self._has(block, "timed") for block in self._turns(count, start))

    def _has(self, block: Sequence[blocks.Turn], kind: str) -> bool:
        """Return whether a resumed gate has both launches of a block."""
        have = {
            one.launch.cell_id
            for one in self.evidence.readings
            if one.launch.kind == kind and one.launch.block == block[0].block
        }
        return have == {cell.id for cell in self.order_cells}

    def _again(self, fresh: FreshPairs) -> None:
        """Measure the fresh blocks, fewer if the time is up."""
        if self.evidence.dose is None and self._lacks(fresh.timed, CONFIRMING):
            self._set_dose()
        else:
            self.budget.start_pairs()
        self.loops = self._loops_before() or self.loops
        for count, block in enumerate(self._turns(fresh.timed, CONFIRMING)):
            if self._has(block, "timed"):
                continue
            if not self.budget.has_time(self.budget.pace.pair):
                enough = self.budget.enough(fresh.timed - count, fresh.memory)
                self._cut_by_budget(f"{self._budget_text} is used", enough, confirming=True)
                return
            self._block(block)
            self.budget.count_pair()
        self._memory(fresh.memory, CONFIRMING)

    def _block(self, block: Sequence[blocks.Turn]) -> None:
        """Make one launch of A and one of B."""
        for turn in block:
            order = blocks.order(turn, loops=self.loops)
            dose = self.evidence.dose
            self._launch(turn.cell, replace(order, dose=dose) if dose else order)

    def _turns(self, count: int, start: int) -> Iterator[list[blocks.Turn]]:
        """Yield this many blocks of both sides in mirrored order, numbered from `start`."""
        seed = self.evidence.contest.a.cell.seed + start
        twice = [replace(c, dose=replace(c.dose, launches=count)) for c in self.order_cells]
        turns = blocks.schedule(twice, seed)
        for _, block in itertools.groupby(turns, key=lambda turn: turn.block):
            yield [replace(turn, block=start + turn.block) for turn in block]

    def _launch(self, cell: Cell, order: LaunchOrder) -> None:
        contest, bench = self.evidence.contest, self.bench
        name: SideName = "baseline" if cell.id == contest.a.cell.id else "candidate"
        side = contest.a if name == "baseline" else contest.b
        order = replace(order, runtime=side.runtime)
        if order.kind == "memory":
            launch = bench.recovering(
                lambda: bench.optional_launch(side.cell, order), launch_of(side.cell)
            )
            if launch is None:
                return
        else:
            flags = self.evidence.check_of(side.cell).flags
            launch = bench.recovering(
                lambda: bench.launch(side.cell, order, flags=flags, until=self.budget.deadline),
                launch_of(side.cell),
            )
        reading = Reading.of(name, launch)
        self.evidence = replace(self.evidence, readings=(*self.evidence.readings, reading))
        self._count_time()
        failure = unfit(side.cell, launch, include_suspect=self.rules.include_suspect)
        if failure is not None:
            raise _Unfit(failure)

    def _loops_before(self) -> int | None:
        """Return the inner loop of the first pairs; None before them."""
        timed = [one.launch for one in self.evidence.readings if one.launch.kind == "timed"]
        return timed[0].inner_loop if timed else None


def _name(key: Key) -> str:
    """Write a contest's key without its device, for an event that names that itself."""
    threads = f", {key.threads} threads" if key.threads > 1 else ""
    return f"{key.model} {key.recipe}{threads}"

"""The time of a contest: `gate.budget_seconds` holds its first pairs and those that confirm them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from harness.analysis.gate.findings import Key
from harness.errors import ConfigError
from harness.events import Event
from harness.measure import blocks
from harness.measure.pairs import CONFIRM_PAIRS, FIRST_PAIRS, pairs_to_confirm
from harness.types import Dose, Plan

MIN_SECONDS = 1.0
"""Length of a timed launch if the plan does not say: long enough for undisturbed inferences."""

SLACK = 1.1
"""Later pairs may take this much longer than those before them."""

HINT_SLACK = 1.25
"""In a budget that a message names, all may take this much longer, so that it holds as typed."""

LAUNCH_SECONDS = 1.0
"""A launch beside warming up and measuring, before any was made: a process that loads its runtime and
the file. It takes 0.25 s on a two-core virtual machine; a board takes longer."""

_PREPARING = 4
"""Launches before those of the pairs: two check the outputs, two are pilots."""

_ROUND_UP_TO = 5
"""Seconds: a least budget is only known so well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetUsed(Event):
    """A contest has used so many seconds of its budget, in all phases and attempts of its gate."""

    name: ClassVar[str] = "budget"
    key: Key
    seconds: float

    def plain(self) -> dict[str, Any]:
        """Return the contest's key and the seconds."""
        return {"event": self.name, **asdict(self.key), "seconds": round(self.seconds, 3)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ContestPace:
    """How long the parts of a contest take by what was measured so far, in seconds; 0 if unknown."""

    prepared: float = 0.0
    """From the start of an attempt to its first pair."""
    pair: float = 0.0
    """Per pair of timed launches: estimated from the pilot, then the mean of the measured ones."""
    memory_pair: float = 0.0
    """Per pair of launches that measure memory."""


@dataclass(slots=True, kw_only=True)
class TimeBudget:
    """The budget of one contest while it is measured."""

    clock: Callable[[], float]
    seconds: float
    """The whole budget."""
    spent: float = 0.0
    """What earlier phases and attempts used of it."""
    pace: ContestPace = field(default_factory=ContestPace)
    confirms: bool = True
    """Whether timed pairs may have to be confirmed."""
    confirms_memory: bool = False
    began: float = 0.0
    _pairs: int = 0
    _timed_from: float = 0.0

    def start(self) -> None:
        """Start, or start again: what was before does not count."""
        self.began = self.clock()

    @property
    def used(self) -> float:
        """Seconds so far, those of earlier phases and attempts included."""
        return self.spent + self.clock() - self.began

    @property
    def deadline(self) -> float:
        """The end, on the clock."""
        return self.began + self.seconds - self.spent

    def start_pairs(self, estimate: float | None = None) -> None:
        """Start the pairs; `estimate` is the seconds per pair, if the pace is not known better."""
        self._timed_from = self.clock()
        prepared = max(self.pace.prepared, self._timed_from - self.began)
        pair = self.pace.pair if estimate is None else estimate
        self.pace = replace(self.pace, prepared=prepared, pair=pair)

    def count_pair(self) -> None:
        """Count a measured pair."""
        self._pairs += 1
        pair = (self.clock() - self._timed_from) / self._pairs
        self.pace = replace(self.pace, pair=pair)

    def count_memory_pair(self, seconds: float) -> None:
        """Take the mean seconds per pair of memory launches so far."""
        self.pace = replace(self.pace, memory_pair=seconds)

    def fresh(self, pairs: int) -> int:
        """Return how many timed pairs confirm so many first ones."""
        return pairs_to_confirm(pairs) if self.confirms else 0

    @property
    def fresh_memory(self) -> int:
        """How many pairs confirm the memory."""
        return CONFIRM_PAIRS if self.confirms_memory else 0

    def has_time(self, seconds: float) -> bool:
        """Return whether what takes so long is expected to end in time."""
        return self.used + SLACK * seconds <= self.seconds

    def holds(self, more: int, pairs: int) -> bool:
        """Return whether so many more pairs fit, and the confirmation of all `pairs` after them."""
        reserve = self.fresh(pairs) * self.pace.pair + self.fresh_memory * self.pace.memory_pair
        return self.used + more * self.pace.pair + SLACK * reserve <= self.seconds

    def enough(self, timed: int, memory: int) -> int:
        """Return a budget that holds so many more pairs, also in another attempt."""
        pairs = timed * self.pace.pair + memory * self.pace.memory_pair
        return _enough(self.pace.prepared, self.used + pairs)


def dose(plan: Plan) -> Dose:
    """Return the dose of a gate's launches: the plan's, with a second as the default length."""
    if not stretches(plan):
        return plan.dose
    return replace(plan.dose, min_seconds=min(MIN_SECONDS, plan.dose.max_seconds))


def stretches(plan: Plan) -> bool:
    """Return whether a gate may make launches longer for slow inferences: the plan sets no length."""
    given: Mapping[str, Any] = plan.text.get("dose", {})
    return "min_seconds" not in given


def require_enough(plan: Plan, *, confirms: bool, confirms_memory: bool) -> None:
    """Raise ConfigError, with a budget that is enough, if a plan's launches alone take longer.

    How long an inference and the start of a launch take is not known yet. So the refusal is by the
    least that launches take, and the budget that it names by slow ones.
    """
    used = dose(plan)
    is_sustained = used.scenario == "sustained"
    each = used.sustained_minutes * 60 if is_sustained else blocks.seconds(used, 0.0)
    timed = 2 * (FIRST_PAIRS + (CONFIRM_PAIRS if confirms else 0))
    least = math.ceil(timed * each)
    if plan.gate.budget_seconds >= least:
        return
    slow = blocks.stretched(used, math.inf) if stretches(plan) else used
    memory = 2 * (FIRST_PAIRS + CONFIRM_PAIRS if confirms_memory else 1)
    pairs = timed * blocks.seconds(slow, 0.0) + (timed + memory) * LAUNCH_SECONDS
    prepared = _PREPARING * LAUNCH_SECONDS
    enough = _enough(prepared, prepared + pairs)
    confirmed = f" and {CONFIRM_PAIRS} that confirm a regression" if confirms else ""
    key = "sustained_minutes" if is_sustained else "min_seconds and dose.warmup_seconds"
    raise ConfigError(
        f"{plan.path or 'plan'}: gate.budget_seconds: {plan.gate.budget_seconds:g} s are not enough: "
        f"{FIRST_PAIRS} pairs of launches{confirmed} take at least {least} s, and more with their "
        f"starts; raise it to {enough} or more, or lower dose.{key}"
    )


def _enough(prepared: float, seconds: float) -> int:
    """Return a budget for what takes so long, in one attempt or in two."""
    return _ROUND_UP_TO * math.ceil((prepared + HINT_SLACK * seconds) / _ROUND_UP_TO)

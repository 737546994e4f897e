"""The time of a contest: `gate.budget_seconds` holds its first pairs and those that confirm them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from harness.analysis.gate.findings import Key
from harness.events import Event
from harness.measure.pairs import FIRST_PAIRS, pairs_to_confirm

SLACK = 1.1
"""Fresh pairs may take this much longer than the first ones did."""

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


@dataclass(slots=True, kw_only=True)
class TimeBudget:
    """The budget of one contest while it is measured."""

    clock: Callable[[], float]
    seconds: float
    """The whole budget."""
    spent: float = 0.0
    """What earlier phases and attempts used of it."""
    confirms: bool = True
    """Whether timed pairs may have to be confirmed."""
    began: float = 0.0
    pair_seconds: float = 0.0
    """Per pair of timed launches: estimated from the pilot, then the mean of the measured ones."""
    memory_seconds: float = 0.0
    """To confirm the memory; 0 if it is not judged."""
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

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return self.clock() >= self.deadline

    def start_pairs(self, estimate: float) -> None:
        """Take the estimated seconds per pair before the first one is measured."""
        self.pair_seconds = estimate
        self._timed_from = self.clock()

    def count_pair(self) -> None:
        """Count a measured pair."""
        self._pairs += 1
        self.pair_seconds = (self.clock() - self._timed_from) / self._pairs

    def reserve(self, pairs: int) -> float:
        """Return the seconds that it takes to confirm so many first pairs."""
        fresh = pairs_to_confirm(pairs) * self.pair_seconds if self.confirms else 0.0
        return SLACK * (fresh + self.memory_seconds)

    def holds(self, more: int, pairs: int) -> bool:
        """Return whether so many more pairs fit, and the confirmation of all `pairs` after them."""
        return self.used + more * self.pair_seconds + self.reserve(pairs) <= self.seconds

    def least(self, more: int = FIRST_PAIRS, pairs: int = FIRST_PAIRS) -> int:
        """Return the least budget for so many more pairs and the confirmation of all `pairs`."""
        needed = self.used + more * self.pair_seconds + self.reserve(pairs)
        return _ROUND_UP_TO * math.ceil(needed / _ROUND_UP_TO)

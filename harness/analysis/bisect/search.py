"""Which point is asked next, and what the answers come to. Measures nothing itself.

Every point is held against the good end, never against its neighbour: many small steps, each within
the margin, are still found where together they are not. The bad end is asked first: where the gate
does not call it bad there is nothing to find.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.analysis.bisect.points import BisectPoint, Points, Untestable
from harness.errors import ConfigError
from harness.optimize import cache

Word = Literal["good", "bad", "inconclusive", "untestable", "away"]
Status = Literal["found", "no_regression", "inconclusive", "untestable", "away"]

MORE_PAIRS = 2
"""An inconclusive step is asked once more, with this many times the pairs."""

_EXIT: dict[Status, int] = {
    "found": 0,
    "no_regression": 1,
    "inconclusive": 2,
    "untestable": 2,
    "away": 4,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GateAnswer:
    """What the oracle says of a candidate beside the baseline."""

    word: Word
    reason: str
    run: str | None = None
    """Where the evidence is stored."""


Oracle = Callable[[Path, Path, int], GateAnswer]
"""(baseline, candidate, most pairs) to an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BisectStep:
    """One answer of the search."""

    point: BisectPoint
    answer: GateAnswer
    max_pairs: int | None
    """Null where nothing was measured: the same bytes are known, or there is no model."""

    def text(self) -> str:
        """Say it in one line."""
        pairs = f", at most {self.max_pairs} pairs" if self.max_pairs else ""
        return f"{self.point}: {self.answer.word}{pairs}: {self.answer.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BisectResult:
    """What a search came to."""

    status: Status
    last_good: BisectPoint
    first_bad: BisectPoint | None
    """Null unless the status is `found`."""
    remaining: tuple[BisectPoint, ...]
    """The first bad one is among these; just one where it is found, none where nothing is bad."""
    steps: tuple[BisectStep, ...]

    @property
    def exit_code(self) -> int:
        """0 found, 1 nothing is bad, 2 inconclusive or untestable, 4 a device was away."""
        return _EXIT[self.status]

    def sentence(self) -> str:
        """Say what it came to and why."""
        why = self.steps[-1]
        if self.first_bad is not None:
            return f"the first bad one is {self.first_bad}; {self.last_good} is the last good one"
        if self.status == "no_regression":
            return f"nothing to find: {why.point} is not worse than {self.last_good} ({why.answer.reason})"
        among = ", ".join(map(str, self.remaining))
        words = {
            "inconclusive": f"{why.point} stayed inconclusive with {MORE_PAIRS} times the pairs",
            "untestable": "the points between cannot be measured",
            "away": f"a device was away at {why.point} ({why.answer.reason})",
        }
        return f"{words[self.status]}; the first bad one is among {among}; {self.last_good} is good"

    def plain(self) -> dict[str, Any]:
        """Return it as plain data, for JSON."""
        return {
            "status": self.status,
            "exit_code": self.exit_code,
            "first_bad": self.first_bad.name if self.first_bad else None,
            "last_good": self.last_good.name,
            "remaining": [point.name for point in self.remaining],
            "reason": self.sentence(),
            "steps": [
                {
                    "point": step.point.name,
                    "title": step.point.title,
                    "max_pairs": step.max_pairs,
                    **asdict(step.answer),
                }
                for step in self.steps
            ],
        }


def search(
    points: Points,
    oracle: Oracle,
    *,
    max_pairs: int,
    told: Callable[[BisectStep], None] = lambda _: None,
) -> BisectResult:
    """Find the first point that the oracle calls bad beside the first one.

    An inconclusive answer is asked for once more with twice the pairs, then ends the search with
    what remains. Points without a model are stepped around. Points of the same bytes are asked of
    once. Raises ConfigError where one of the ends has no model or cannot be asked about, and what the
    oracle raises.
    """
    return _Search(points=points, oracle=oracle, max_pairs=max_pairs, told=told).run()


@dataclass(slots=True, kw_only=True)
class _Search:
    points: Points
    oracle: Oracle
    max_pairs: int
    told: Callable[[BisectStep], None]
    steps: list[BisectStep] = field(default_factory=list)
    known: dict[str, tuple[BisectPoint, Word]] = field(default_factory=dict)
    """By digest: the point that was asked about, and whether it was good or bad."""

    def run(self) -> BisectResult:
        names = self.points.all
        good, bad = 0, len(names) - 1
        baseline = self._end(good)
        self.known[cache.digest(baseline)] = names[good], "good"
        self._end(bad)
        word = self._ask(baseline, bad)
        if word == "good":
            return self._found("no_regression", good, good)
        if word == "untestable":
            raise ConfigError(f"the bad end cannot be asked about: {self.steps[-1].text()}")
        skipped: set[int] = set()
        while word in {"good", "bad", "untestable"}:
            at = _middle(good, bad, skipped)
            if at is None:
                return self._found("found" if bad - good == 1 else "untestable", good, bad)
            word = self._ask(baseline, at)
            if word == "good":
                good = at
            elif word == "bad":
                bad = at
            else:
                skipped.add(at)
        return self._found("away" if word == "away" else "inconclusive", good, bad)

    def _end(self, at: int) -> Path:
        try:
            return self.points.model(at)
        except Untestable as error:
            which = "bad" if at else "good"
            raise ConfigError(
                f"the {which} end has no model: {error}; choose another --{which}"
            ) from error

    def _ask(self, baseline: Path, at: int) -> Word:
        """Ask about a point, once more where the answer is inconclusive; keep each answer."""
        point = self.points.all[at]
        try:
            model = self.points.model(at)
        except Untestable as error:
            return self._keep(point, GateAnswer(word="untestable", reason=str(error)), None)
        digest = cache.digest(model)
        if digest in self.known:
            same, word = self.known[digest]
            return self._keep(
                point, GateAnswer(word=word, reason=f"the same bytes as {same}"), None
            )
        pairs = self.max_pairs
        word = self._keep(point, self.oracle(baseline, model, pairs), pairs)
        if word == "inconclusive":
            pairs *= MORE_PAIRS
            word = self._keep(point, self.oracle(baseline, model, pairs), pairs)
        if word in {"good", "bad"}:
            self.known[digest] = point, word
        return word

    def _keep(self, point: BisectPoint, answer: GateAnswer, pairs: int | None) -> Word:
        step = BisectStep(point=point, answer=answer, max_pairs=pairs)
        self.steps.append(step)
        self.told(step)
        return answer.word

    def _found(self, status: Status, good: int, bad: int) -> BisectResult:
        names = self.points.all
        return BisectResult(
            status=status,
            last_good=names[good],
            first_bad=names[bad] if status == "found" else None,
            remaining=tuple(names[good + 1 : bad + 1]),
            steps=tuple(self.steps),
        )


def _middle(good: int, bad: int, skipped: set[int]) -> int | None:
    """Choose the point nearest to the middle that can be asked about; None where none is left."""
    open_points = [at for at in range(good + 1, bad) if at not in skipped]
    return min(open_points, key=lambda at: (abs(2 * at - good - bad), at), default=None)

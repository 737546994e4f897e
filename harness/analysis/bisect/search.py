"""The bisection: choose the next point, gate it, and give the result. It measures nothing itself.

Every point is compared with the good end, never with its neighbour. So many small steps, each within
the margin, are found if their sum is beyond it. The bad end is measured first: if the gate does not
call it bad, there is nothing to find.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from harness.analysis.bisect.points import BisectPoint, Points, Untestable
from harness.errors import ConfigError
from harness.events import Emit, Event, ignore
from harness.optimize import cache

PointVerdict = Literal["good", "bad", "inconclusive", "untestable", "away"]
BisectStatus = Literal["found", "no_regression", "inconclusive", "untestable", "away"]

MORE_PAIRS = 2
"""An inconclusive step is repeated once with this many times the pairs."""

_EXIT: dict[BisectStatus, int] = {
    "found": 0,
    "no_regression": 1,
    "inconclusive": 2,
    "untestable": 2,
    "away": 4,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GateAnswer:
    """The oracle's answer about a candidate compared with the baseline."""

    verdict: PointVerdict
    reason: str
    run: str | None = None
    """Id of the run that stores the evidence."""


Oracle = Callable[[Path, Path, int], GateAnswer]
"""Compares (baseline, candidate) with at most so many pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BisectStep(Event):
    """A point of a bisection has an answer."""

    name: ClassVar[str] = "bisect_step"
    point: BisectPoint
    answer: GateAnswer
    max_pairs: int | None
    """Null if nothing was measured: the same bytes have an answer, or the point has no model."""

    def plain(self) -> dict[str, Any]:
        """Return the step's fields beside the name of the event."""
        return {"event": self.name, **self.fields()}

    def fields(self) -> dict[str, Any]:
        """Return the step as plain data, for JSON."""
        return {
            "point": self.point.name,
            "title": self.point.title,
            "max_pairs": self.max_pairs,
            "word": self.answer.verdict,
            "reason": self.answer.reason,
            "run": self.answer.run,
        }

    def text(self) -> str:
        """Write the step in one line."""
        pairs = f", at most {self.max_pairs} pairs" if self.max_pairs else ""
        return f"{self.point}: {self.answer.verdict}{pairs}: {self.answer.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BisectResult:
    """The result of a bisection."""

    status: BisectStatus
    last_good: BisectPoint
    first_bad: BisectPoint | None
    """Null unless the status is `found`."""
    remaining: tuple[BisectPoint, ...]
    """The first bad point is among these; one if it is found, none if no point is bad."""
    steps: tuple[BisectStep, ...]

    @property
    def exit_code(self) -> int:
        """0 found, 1 no point is bad, 2 inconclusive or untestable, 4 a device was away."""
        return _EXIT[self.status]

    def sentence(self) -> str:
        """Write the result and its reason in one sentence."""
        last = self.steps[-1]
        if self.first_bad is not None:
            return f"the first bad one is {self.first_bad}; {self.last_good} is the last good one"
        if self.status == "no_regression":
            return (
                f"nothing to find: {last.point} is not worse than {self.last_good} "
                f"({last.answer.reason})"
            )
        among = ", ".join(map(str, self.remaining))
        reasons = {
            "inconclusive": f"{last.point} stayed inconclusive with {MORE_PAIRS} times the pairs",
            "untestable": "the points between cannot be measured",
            "away": f"a device was away at {last.point} ({last.answer.reason})",
        }
        reason = reasons[self.status]
        return f"{reason}; the first bad one is among {among}; {self.last_good} is good"

    def plain(self) -> dict[str, Any]:
        """Return the result as plain data, for JSON."""
        return {
            "status": self.status,
            "exit_code": self.exit_code,
            "first_bad": self.first_bad.name if self.first_bad else None,
            "last_good": self.last_good.name,
            "remaining": [point.name for point in self.remaining],
            "reason": self.sentence(),
            "steps": [step.fields() for step in self.steps],
        }


def search(
    points: Points,
    oracle: Oracle,
    *,
    max_pairs: int,
    emit: Emit = ignore,
) -> BisectResult:
    """Find the first point that the oracle calls bad compared with the first one.

    An inconclusive step is repeated once with twice the pairs; if it stays so, the search ends with
    the points that remain. Points without a model are skipped. Points of the same bytes are measured
    once. `emit` gets a BisectStep per answer.

    Raises ConfigError if an end has no model or cannot be compared, and the oracle's errors.
    """
    return _Search(points=points, oracle=oracle, max_pairs=max_pairs, emit=emit).run()


@dataclass(slots=True, kw_only=True)
class _Search:
    points: Points
    oracle: Oracle
    max_pairs: int
    emit: Emit
    steps: list[BisectStep] = field(default_factory=list)
    known: dict[str, tuple[BisectPoint, PointVerdict]] = field(default_factory=dict)
    """Measured points and their verdicts, good or bad, by digest of the model."""

    def run(self) -> BisectResult:
        """Halve the range between the good and the bad end until they are neighbours."""
        points = self.points.all
        good, bad = 0, len(points) - 1
        baseline = self._model_of_end(good)
        self.known[cache.digest(baseline)] = points[good], "good"
        self._model_of_end(bad)
        verdict = self._judge(baseline, bad)
        if verdict == "good":
            return self._result("no_regression", good, good)
        if verdict == "untestable":
            raise ConfigError(f"the bad end cannot be compared: {self.steps[-1].text()}")
        skipped: set[int] = set()
        while verdict in {"good", "bad", "untestable"}:
            at = _middle(good, bad, skipped)
            if at is None:
                return self._result("found" if bad - good == 1 else "untestable", good, bad)
            verdict = self._judge(baseline, at)
            if verdict == "good":
                good = at
            elif verdict == "bad":
                bad = at
            else:
                skipped.add(at)
        return self._result("away" if verdict == "away" else "inconclusive", good, bad)

    def _model_of_end(self, at: int) -> Path:
        try:
            return self.points.model(at)
        except Untestable as error:
            which = "bad" if at else "good"
            raise ConfigError(
                f"the {which} end has no model: {error}; choose another --{which}"
            ) from error

    def _judge(self, baseline: Path, at: int) -> PointVerdict:
        """Return the verdict on a point, repeating an inconclusive step once."""
        point = self.points.all[at]
        try:
            model = self.points.model(at)
        except Untestable as error:
            return self._keep(point, GateAnswer(verdict="untestable", reason=str(error)), None)
        digest = cache.digest(model)
        if digest in self.known:
            same, verdict = self.known[digest]
            return self._keep(
                point, GateAnswer(verdict=verdict, reason=f"the same bytes as {same}"), None
            )
        pairs = self.max_pairs
        verdict = self._keep(point, self.oracle(baseline, model, pairs), pairs)
        if verdict == "inconclusive":
            pairs *= MORE_PAIRS
            verdict = self._keep(point, self.oracle(baseline, model, pairs), pairs)
        if verdict in {"good", "bad"}:
            self.known[digest] = point, verdict
        return verdict

    def _keep(self, point: BisectPoint, answer: GateAnswer, pairs: int | None) -> PointVerdict:
        step = BisectStep(point=point, answer=answer, max_pairs=pairs)
        self.steps.append(step)
        self.emit(step)
        return answer.verdict

    def _result(self, status: BisectStatus, good: int, bad: int) -> BisectResult:
        points = self.points.all
        return BisectResult(
            status=status,
            last_good=points[good],
            first_bad=points[bad] if status == "found" else None,
            remaining=tuple(points[good + 1 : bad + 1]),
            steps=tuple(self.steps),
        )


def _middle(good: int, bad: int, skipped: set[int]) -> int | None:
    """Choose the testable point nearest to the middle; None if none is left."""
    open_points = [at for at in range(good + 1, bad) if at not in skipped]
    return min(open_points, key=lambda at: (abs(2 * at - good - bad), at), default=None)

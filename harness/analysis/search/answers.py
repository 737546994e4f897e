"""The result of a search: the Pareto front with a plan per point, or why there is none."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.analysis.search import columns
from harness.analysis.search.folder import Folder
from harness.analysis.search.records import Job, TrialResult, TrialStatus
from harness.config.recipes import parse
from harness.printable import counted
from harness.records.table.trust import INCLUDE
from harness.types import Search

SearchStatus = Literal["found", "none", "failed"]

_EXIT: dict[SearchStatus, int] = {"found": 0, "none": 1, "failed": 3}
_STATUS_TEXTS: tuple[tuple[TrialStatus, str], ...] = (
    ("misses", "measured and too far off"),
    ("pruned", "pruned: too far off on the host already"),
    ("failed", "failed"),
)
_NAMED = 3
"""The number of left-out recipes that a sentence names."""

_MAX_NAME_LENGTH = 60
"""Characters of a recipe in the file name of its plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParetoPoint:
    """A point of the front."""

    trial: TrialResult
    plan: Path
    """A plan.toml that builds and measures this recipe alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The front and the results of all trials."""

    id: str
    path: Path
    search: Search
    front: tuple[ParetoPoint, ...]
    """Sorted by the first objective, best first; no point dominates another."""
    trials: tuple[TrialResult, ...]
    notes: tuple[str, ...] = ()
    include_suspect: bool = False
    """Whether trials whose row is not VALID may be on the front."""

    @property
    def status(self) -> SearchStatus:
        """`found`, `none` if no recipe holds every constraint, `failed` if all trials failed."""
        if self.front:
            return "found"
        return "failed" if all(trial.status == "failed" for trial in self.trials) else "none"

    @property
    def exit_code(self) -> int:
        """0 found, 1 no recipe holds every constraint, 3 all trials failed."""
        return _EXIT[self.status]

    @property
    def reason(self) -> str:
        """One sentence: the size of the front, or the constraint that failed and by how much."""
        counts = Counter(trial.status for trial in self.trials)
        others = [f"{counts[status]} {text}" for status, text in _STATUS_TEXTS if counts[status]]
        count = counted(len(self.trials), "recipe")
        doubted = [] if self.include_suspect else doubted_of(self.trials)
        if doubted:
            others.append(f"{len(doubted)} not VALID and left out")
        if self.front:
            return "; ".join([f"{len(self.front)} on the front of {count}", *others])
        if self.status == "failed":
            first = self.trials[0] if self.trials else None
            why = f": {first.recipe}: {first.reason}" if first else ""
            number = len(self.trials)
            which = "the recipe" if number == 1 else f"all {number} recipes"
            return f"{which} failed{why}"
        if doubted:
            named = "; ".join(f"{trial.recipe}: {trial.doubt}" for trial in doubted[:_NAMED])
            none = f"none of {count} holds every constraint and is VALID"
            return f"{none} ({', '.join(others)}); {named}; {INCLUDE}"
        closest = min(
            (trial for trial in self.trials if trial.misses),
            key=lambda trial: (len(trial.misses), max(miss.share for miss in trial.misses)),
        )
        none = f"none of {count} holds every constraint"
        return f"{none} ({', '.join(others)}); closest is {closest.recipe}: {closest.reason}"

    def rows(self) -> list[dict[str, Any]]:
        """Return a row per point: recipe, objectives, columns of the constraints, run, plan."""
        return [
            {
                "recipe": point.trial.recipe,
                **{name: point.trial.values[name] for name in columns.wanted_columns(self.search)},
                "run": point.trial.run,
                "plan": point.plan.name,
            }
            for point in self.front
        ]

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "search": self.id,
            "status": self.status,
            "reason": self.reason,
            "objectives": dict(
                zip(self.search.objectives, columns.directions(self.search), strict=True)
            ),
            "constraints": self.search.constraints.given(),
            "front": [{**p.trial.plain(), "plan": str(p.plan)} for p in self.front],
            "trials": [trial.plain() for trial in self.trials],
            "notes": list(self.notes),
        }


def doubted_of(trials: Sequence[TrialResult]) -> list[TrialResult]:
    """Return the trials that hold every constraint and are left out because they are not VALID."""
    return [trial for trial in trials if trial.status == "ok" and trial.doubt is not None]


def answer(job: Job, notes: Sequence[str] = ()) -> SearchResult:
    """Compute the result of all trials so far; write answer.json and a plan per point."""
    folder = Folder(path=job.folder)
    trials = folder.trials()
    best = front(job.search, trials, include_suspect=job.include_suspect)
    points = tuple(
        ParetoPoint(trial=trial, plan=folder.points / _plan_name(number, trial))
        for number, trial in enumerate(best, start=1)
    )
    found = SearchResult(
        id=folder.id,
        path=folder.path,
        search=job.search,
        front=points,
        trials=tuple(trials),
        notes=tuple(notes),
        include_suspect=job.include_suspect,
    )
    plans = [(point.plan.name, job.runner.plan_text(parse(point.trial.recipe))) for point in points]
    folder.answer(found.plain(), plans)
    return found


def front(
    search: Search, trials: Sequence[TrialResult], *, include_suspect: bool = False
) -> list[TrialResult]:
    """Return the trials that hold every constraint and that no other dominates.

    If several recipes gave the same file for one target, only the first is kept. Trials that are not VALID are left
    out unless `include_suspect`.
    """
    candidates = {
        trial.subject: trial
        for trial in reversed(trials)
        if trial.status == "ok" and (include_suspect or trial.doubt is None)
    }
    best = [
        trial
        for trial in candidates.values()
        if not any(
            columns.dominates(search, other.values, trial.values) for other in candidates.values()
        )
    ]
    first = search.objectives[0]
    sign = 1.0 if columns.directions(search)[0] == "minimize" else -1.0
    return sorted(best, key=lambda trial: (sign * trial.values[first], trial.number))


def _plan_name(number: int, trial: TrialResult) -> str:
    recipe = re.sub(r"[^A-Za-z0-9.]+", "-", trial.recipe).strip("-.")[:_MAX_NAME_LENGTH]
    return f"{number:02d}-{recipe}.toml"

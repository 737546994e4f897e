"""What a search came to: the Pareto front, each point with its plan, or why there is none."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.analysis.search import columns
from harness.analysis.search.folder import Folder
from harness.analysis.search.records import Job, Tried
from harness.analysis.search.records import Status as Outcome
from harness.config.recipes import parse
from harness.config.searches import Search

Status = Literal["found", "none", "failed"]

_EXIT: dict[Status, int] = {"found": 0, "none": 1, "failed": 3}
_SAID: tuple[tuple[Outcome, str], ...] = (
    ("misses", "measured and too far off"),
    ("pruned", "pruned: too far off on the host already"),
    ("failed", "failed"),
)
_WORD_LENGTH = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class ParetoPoint:
    """A point of the front."""

    tried: Tried
    plan: Path
    """A plan.toml that builds and measures just this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The front, and everything that was tried on the way."""

    id: str
    path: Path
    search: Search
    front: tuple[ParetoPoint, ...]
    """In the order of the first objective; no point is worse than another in all of them."""
    trials: tuple[Tried, ...]
    notes: tuple[str, ...] = ()

    @property
    def status(self) -> Status:
        """`found`; `none` holds every constraint; all `failed`."""
        if self.front:
            return "found"
        return "failed" if all(tried.status == "failed" for tried in self.trials) else "none"

    @property
    def exit_code(self) -> int:
        """0 found, 1 nothing holds the constraints, 3 nothing could be asked."""
        return _EXIT[self.status]

    @property
    def reason(self) -> str:
        """Say in a sentence what was found, or which constraint failed and by how much."""
        counts = Counter(tried.status for tried in self.trials)
        others = [f"{counts[word]} {said}" for word, said in _SAID if counts[word]]
        if self.front:
            told = f"{len(self.front)} on the front of {len(self.trials)} recipes"
            return "; ".join([told, *others])
        if self.status == "failed":
            first = self.trials[0] if self.trials else None
            why = f": {first.recipe}: {first.reason}" if first else ""
            return f"all {len(self.trials)} recipes failed{why}"
        closest = min(
            (tried for tried in self.trials if tried.misses),
            key=lambda tried: (len(tried.misses), max(miss.share for miss in tried.misses)),
        )
        told = f"none of {len(self.trials)} recipes holds every constraint"
        return f"{told} ({', '.join(others)}); closest is {closest.recipe}: {closest.reason}"

    def rows(self) -> list[dict[str, Any]]:
        """Return the front as a table: recipe, objectives, what else was asked, plan."""
        return [
            {
                "recipe": point.tried.recipe,
                **{name: point.tried.values[name] for name in columns.asked(self.search)},
                "run": point.tried.run,
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
            "front": [{**p.tried.plain(), "plan": str(p.plan)} for p in self.front],
            "trials": [tried.plain() for tried in self.trials],
            "notes": list(self.notes),
        }


def answer(job: Job, notes: Sequence[str] = ()) -> SearchResult:
    """Compute the answer of what was tried so far, and write it with the points' plans."""
    folder = Folder(path=job.folder)
    trials = folder.trials()
    best = front(job.search, trials)
    points = tuple(
        ParetoPoint(tried=tried, plan=folder.points / _name(place, tried))
        for place, tried in enumerate(best, start=1)
    )
    found = SearchResult(
        id=folder.id,
        path=folder.path,
        search=job.search,
        front=points,
        trials=tuple(trials),
        notes=tuple(notes),
    )
    plans = [
        (point.plan.name, job.workshop.plan_text(parse(point.tried.recipe))) for point in points
    ]
    folder.answer(found.plain(), plans)
    return found


def front(search: Search, trials: Sequence[Tried]) -> list[Tried]:
    """Return the trials that hold every constraint and that none of the others dominates.

    Of recipes that gave the same file only the first stays.
    """
    able = {tried.digest: tried for tried in reversed(trials) if tried.status == "ok"}
    best = [
        tried
        for tried in able.values()
        if not any(columns.dominates(search, other.values, tried.values) for other in able.values())
    ]
    first = search.objectives[0]
    sign = 1.0 if columns.directions(search)[0] == "minimize" else -1.0
    return sorted(best, key=lambda tried: (sign * tried.values[first], tried.number))


def _name(place: int, tried: Tried) -> str:
    word = re.sub(r"[^A-Za-z0-9.]+", "-", tried.recipe).strip("-.")[:_WORD_LENGTH]
    return f"{place:02d}-{word}.toml"

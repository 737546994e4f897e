"""Search recipes and their parameters for the best variants under constraints. Builds nothing itself.

    found = run(Job(...), tell=print)
    found.front, found.reason

What builds and measures is a :class:`Workshop`; harness.api has the real one.
"""

from __future__ import annotations

from harness.analysis.search.answers import ParetoPoint, SearchResult, answer
from harness.analysis.search.columns import asked
from harness.analysis.search.folder import Folder, create, resume
from harness.analysis.search.processes import allowed, run
from harness.analysis.search.records import Job, TrialEnded, TrialStarted, Tried, Workshop
from harness.analysis.search.space import Space
from harness.analysis.search.studies import check_installed

__all__ = [
    "Folder",
    "Job",
    "ParetoPoint",
    "SearchResult",
    "Space",
    "TrialEnded",
    "TrialStarted",
    "Tried",
    "Workshop",
    "allowed",
    "answer",
    "asked",
    "check_installed",
    "create",
    "resume",
    "run",
]

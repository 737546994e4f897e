"""Search recipes and their parameters for the best variants under constraints.

    run(job := Job(...), processes=1, emit=print)
    found = answer(job)
    found.front, found.reason

A :class:`TrialRunner` builds and measures; procedure.py has the one that does so for a plan.
"""

from __future__ import annotations

from harness.analysis.search.answers import ParetoPoint, SearchResult, answer
from harness.analysis.search.columns import wanted_columns
from harness.analysis.search.folder import Folder, create, resume
from harness.analysis.search.processes import allowed, run
from harness.analysis.search.records import Job, TrialEnded, TrialResult, TrialRunner, TrialStarted
from harness.analysis.search.space import Space
from harness.analysis.search.studies import check_installed

__all__ = [
    "Folder",
    "Job",
    "ParetoPoint",
    "SearchResult",
    "Space",
    "TrialEnded",
    "TrialResult",
    "TrialRunner",
    "TrialStarted",
    "allowed",
    "answer",
    "check_installed",
    "create",
    "resume",
    "run",
    "wanted_columns",
]

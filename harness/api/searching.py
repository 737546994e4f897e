"""Search for the best variants under constraints; each trial is a build and, if needed, a run."""

from __future__ import annotations

from pathlib import Path

from harness.analysis.search import procedure
from harness.analysis.search.procedure import PlanTrialRunner, Searching
from harness.api.running import read_plan
from harness.config import farm as farms
from harness.types import Plan

__all__ = ["PlanTrialRunner", "Searching", "search"]


def search(
    plan: Plan | Path | str,
    *,
    farm: farms.Farm | Path | None = None,
    resume: str | None = None,
    results: Path | None = None,
    wait: bool | None = None,
) -> Searching:
    """Prepare the search of a plan's [search]: a new one, or a stored one of the same plan.

    See :func:`harness.analysis.search.procedure.search`; `plan` may also be the path of a plan.toml.
    """
    return procedure.search(read_plan(plan), farm=farm, resume=resume, results=results, wait=wait)

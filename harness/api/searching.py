"""Search for the best variants under constraints; each trial is a build and, if needed, a run."""

from __future__ import annotations

from harness.analysis.search import procedure
from harness.analysis.search.procedure import PlanTrialRunner, Searching
from harness.api import arguments
from harness.api.arguments import AnyPath
from harness.api.running import read_farm, read_plan
from harness.config import farm as farms
from harness.types import Plan

__all__ = ["PlanTrialRunner", "Searching", "search"]


def search(
    plan: Plan | AnyPath,
    *,
    farm: farms.Farm | AnyPath | None = None,
    resume: str | None = None,
    include_suspect: bool = False,
    results: AnyPath | None = None,
    wait: bool | None = None,
) -> Searching:
    """Prepare the search of a plan's [search]: a new one, or a stored one of the same plan.

    See :func:`harness.analysis.search.procedure.search`; `plan` may also be the path of a plan.toml.
    """
    read = read_plan(plan)
    return procedure.search(
        read,
        farm=read_farm(farm, read),
        resume=resume,
        include_suspect=include_suspect,
        results=arguments.optional_path(results),
        wait=wait,
    )

"""The public functions, with the names of the commands.

`run(plan)` is an iterator of outcomes, `load(run)` a pandas frame.

    from harness import api

    with api.run("plan.toml") as run:
        for outcome in run:
            print(outcome.cell.device, outcome.cell.recipe, outcome.failure or "ok")
    frame = api.load("latest")

Importing this package imports none of its modules: each is imported at the first use of its names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import lazy

if TYPE_CHECKING:
    from harness.api.bisecting import bisect, bisect_commits
    from harness.api.farm import AddedDevice, add, clean, devices, doctor, profiles, setup
    from harness.api.gating import gate, judge, selftest
    from harness.api.layering import layers
    from harness.api.models import inspect, optimize, payload, recipes
    from harness.api.picking import export, pick
    from harness.api.running import Progress, Run, bench, decide, read_farm, read_plan, run
    from harness.api.searching import Searching, search
    from harness.api.stored import (
        ShownRun,
        compare,
        load,
        minutes,
        open_run,
        places,
        report,
        rows,
        runs,
        show,
    )
else:

    def _checked(found: object) -> object:
        """Return a function that refuses arguments of a wrong type; classes as they are."""
        from harness.api import checking

        return found if isinstance(found, type) else checking.checked(found)

    __getattr__, __dir__ = lazy.attributes(
        __name__,
        {
            "picking": ("export", "pick"),
            "bisecting": ("bisect", "bisect_commits"),
            "farm": ("AddedDevice", "add", "clean", "devices", "doctor", "profiles", "setup"),
            "gating": ("gate", "judge", "selftest"),
            "layering": ("layers",),
            "models": ("inspect", "optimize", "payload", "recipes"),
            "running": ("Progress", "Run", "bench", "decide", "read_farm", "read_plan", "run"),
            "searching": ("Searching", "search"),
            "stored": (
                *("ShownRun", "compare", "load", "minutes", "open_run", "places", "report"),
                *("rows", "runs", "show"),
            ),
        },
        _checked,
    )

__all__ = [
    "AddedDevice",
    "Progress",
    "Run",
    "Searching",
    "ShownRun",
    "add",
    "bench",
    "bisect",
    "bisect_commits",
    "clean",
    "compare",
    "decide",
    "devices",
    "doctor",
    "export",
    "gate",
    "inspect",
    "judge",
    "layers",
    "load",
    "minutes",
    "open_run",
    "optimize",
    "payload",
    "pick",
    "places",
    "profiles",
    "read_farm",
    "read_plan",
    "recipes",
    "report",
    "rows",
    "run",
    "runs",
    "search",
    "selftest",
    "setup",
    "show",
]

"""The public verbs, the same words as the command line.

`run(plan)` is an iterator of outcomes, `load(run)` a pandas frame.

    from harness import api

    with api.run("plan.toml") as going:
        for outcome in going:
            print(outcome.cell.device, outcome.cell.recipe, outcome.failure or "ok")
    frame = api.load("latest")
"""

from __future__ import annotations

from harness.api.asking import export, pick
from harness.api.bisecting import bisect, bisect_commits
from harness.api.devices import AddedDevice, add, clean, devices, doctor, profiles, setup
from harness.api.gating import gate, judge, selftest
from harness.api.layers import layers
from harness.api.models import inspect, optimize, payload, recipes
from harness.api.running import Progress, Run, bench, decide, read_farm, read_plan, run
from harness.api.searching import Searching, search
from harness.api.stored import compare, load, minutes, open_run, places, report, rows, runs

__all__ = [
    "AddedDevice",
    "Progress",
    "Run",
    "Searching",
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
]

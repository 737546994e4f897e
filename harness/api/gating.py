"""The gate, which compares A and B on the same devices, and the selftest of its sensitivity."""

from __future__ import annotations

import os
from collections.abc import Callable

from harness.analysis.gate import procedure, stored_results
from harness.analysis.gate.document import Result
from harness.analysis.gate.selftests import Selftest
from harness.api import arguments
from harness.api.arguments import AnyPath, Several
from harness.api.running import Progress, read_farm, read_plan
from harness.config import farm as farms
from harness.types import Plan, Thermal

__all__ = ["gate", "judge", "selftest"]


def gate(
    plan: Plan | AnyPath,
    *,
    baseline: AnyPath,
    candidate: AnyPath,
    farm: farms.Farm | AnyPath | None = None,
    devices: Several[str] = (),
    measure_identical: bool = False,
    thermal: Thermal | None = None,
    resume: str | None = None,
    include_suspect: bool = False,
    results: AnyPath | None = None,
    wait: bool | None = None,
    progress: Progress | None = None,
    on_stopped: Callable[[Result], None] = procedure.ignore_result,
) -> Result:
    """Measure a candidate and a baseline interleaved on the plan's devices; judge the difference.

    See :func:`harness.analysis.gate.procedure.gate`; `plan` may also be the path of a plan.toml.
    """
    read = read_plan(plan)
    return procedure.gate(
        read,
        baseline=os.fspath(baseline),
        candidate=os.fspath(candidate),
        farm=read_farm(farm, read),
        devices=arguments.texts(devices),
        measure_identical=measure_identical,
        thermal=thermal,
        resume=resume,
        include_suspect=include_suspect,
        results=arguments.optional_path(results),
        wait=wait,
        progress=progress,
        on_stopped=on_stopped,
    )


def judge(
    run: str,
    *,
    margin: float | None = None,
    min_effect: float | None = None,
    include_suspect: bool = False,
    results: AnyPath | None = None,
) -> Result:
    """Judge a stored gate again; see :func:`harness.analysis.gate.stored_results.judge`."""
    return stored_results.judge(
        run,
        margin=margin,
        min_effect=min_effect,
        include_suspect=include_suspect,
        results=arguments.optional_path(results),
    )


def selftest(
    device: str,
    *,
    model: AnyPath | None = None,
    threads: int = 1,
    farm: farms.Farm | AnyPath | None = None,
    results: AnyPath | None = None,
    wait: bool | None = None,
    progress: Progress | None = None,
) -> Selftest:
    """Measure a file against itself; see :func:`harness.analysis.gate.procedure.selftest`."""
    return procedure.selftest(
        device,
        model=arguments.optional_path(model),
        threads=threads,
        farm=read_farm(farm),
        results=arguments.optional_path(results),
        wait=wait,
        progress=progress,
    )
